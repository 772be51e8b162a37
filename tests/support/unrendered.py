"""Plots that are put together, but not rendered, which takes seconds a report."""

from __future__ import annotations

import pytest

from p2pfl.report import style


def leave_unrendered(patch: pytest.MonkeyPatch) -> None:
    """Save an empty picture in place of each plot, once that is drawn."""
    patch.setattr(style, "lay_out", lambda figure: None)
    patch.setattr(style, "save", lambda figure, path: path.write_text("<svg></svg>"))
