"""Markdown of generated parts: tables, code and headings."""

from __future__ import annotations

import re
from collections.abc import Sequence

_OPTION = re.compile(r"(?<![\w`/.-])(--[a-z][a-z0-9-]*)")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Table with a row for each item; cells are Markdown on one line."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |"


def code(text: object) -> str:
    """Inline code, also in a cell of a table."""
    shown = str(text).replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def prose(text: str) -> str:
    """Markdown of a docstring's text: escaped, and with options as code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else _escaped(piece) for piece in pieces)


def _escaped(text: str) -> str:
    plain = re.sub(r"([\\|*_<\[\]])", r"\\\1", text)
    return _OPTION.sub(r"`\1`", plain)


def sentence(text: str) -> str:
    """Text that begins with a capital and ends with a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "…")) else ".")
