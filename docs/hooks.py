"""Hooks of mkdocs: pages get their generated parts while the site is built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs is a program of its own folder

from mkdocs.exceptions import PluginError  # noqa: E402

from docs.generate import fill  # noqa: E402


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Fill the requests of one page; the build fails where that is not possible."""
    try:
        return fill(markdown)
    except (KeyError, ValueError) as error:
        raise PluginError(f"{page.file.src_uri}: {error.args[0]}") from error
