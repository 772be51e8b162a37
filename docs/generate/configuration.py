"""Sections of a TOML file of settings, from their dataclasses."""

from __future__ import annotations

import dataclasses
from typing import Any

from docs.generate.commands import default_text, meaning
from docs.generate.descriptions import Described, fields_of, type_text
from docs.generate.markdown import code, table
from p2pfl.config import ALIASES, LOCAL_OPTIONS, MODE_SECTIONS, RESUME_OVERRIDES, SECTIONS


def sections() -> str:
    """Every section with its keys, and the modes that it belongs to."""
    return "\n\n".join(_section(name, kind) for name, kind in SECTIONS.items())


def _section(name: str, kind: type[Any]) -> str:
    modes = [mode for mode, names in MODE_SECTIONS.items() if name in names]
    of = "all modes" if len(modes) == len(MODE_SECTIONS) else ", ".join(modes)
    summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    head: tuple[str, ...] = ("key", "type", "default", "meaning", "free")
    rows = [_row(item) for item in fields_of(kind)]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return f"## [{name}]\n\n{summary} Read by {of}.\n\n" + table(head, rows)


def _row(item: Described) -> tuple[str, ...]:
    marks = ["resume"] * (item.name in RESUME_OVERRIDES) + ["machine"] * (item.name in LOCAL_OPTIONS)
    kind = type_text(item.hint).removesuffix(" or null")
    return (code(item.name), kind, _default(item), meaning(item), ", ".join(marks))


def _default(item: Described) -> str:
    if item.default is None:
        return default_text(item)
    assert item.default is not dataclasses.MISSING, f"{item.name}: every setting has a default"
    return code(str(item.default).lower() if isinstance(item.default, bool) else item.default)


def aliases() -> str:
    """Other names of keys, by which the literature of a mode knows them."""
    rows = [(mode, code(alias), code(option)) for mode, names in ALIASES.items() for alias, option in names.items()]
    return table(("mode", "other name", "key"), rows)
