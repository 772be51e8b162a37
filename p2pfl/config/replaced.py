"""Options of older versions, and the options that have replaced them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FLAGS = {"--batch-norm": "--norm batch", "--no-batch-norm": "--norm none"}
_OPTIONS = {"batch_norm": "norm, which is batch, group or none"}


def replacement(option: str) -> str | None:
    """Sentence on an option of an older version, as written; None for others."""
    instead = _FLAGS.get(option) or _OPTIONS.get(option)
    return None if instead is None else f"{option} has been replaced by {instead}"


def with_replacements(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of a run's settings file with the present options.

    So a run of an older version can still be reported and compared. It cannot be resumed, since its checkpoints name
    other settings.
    """
    model = tables.get("model")
    if not isinstance(model, dict) or "batch_norm" not in model:
        return dict(tables)
    others = {name: value for name, value in model.items() if name != "batch_norm"}
    return {**tables, "model": {**others, "norm": "batch" if model["batch_norm"] else "none"}}
