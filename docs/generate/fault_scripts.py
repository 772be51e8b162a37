"""Kinds of faults and their fields, from the classes that scripts are parsed into."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from docs.generate.descriptions import Described, fields_of, type_text
from docs.generate.markdown import code, prose, sentence, table
from p2pfl.faults.script import POINTS, Fault, Point, kind_of


def kinds() -> str:
    """Every kind of fault with its fields."""
    return "\n\n".join(_kind(kind) for kind in get_args(Fault))


def _kind(kind: type[Any]) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n", 1)[0].split())
    more = "\n\n".join(" ".join(part.split()) for part in (kind.__doc__ or "").split("\n\n")[1:])
    return f"### {kind_of(kind)}\n\n{prose(text)} {prose(more)}\n\n" + table(
        ("field", "type", "default", "meaning"), [_row(item) for item in fields_of(kind)]
    )


def _row(item: Described) -> tuple[str, ...]:
    if item.default is dataclasses.MISSING:
        default = "required"
    else:
        default = "none" if item.default is None else code(item.default)
    kind = type_text(item.hint, bounds=True).removesuffix(" or null")
    return (code(item.name), kind, default, prose(item.text))


def points() -> str:
    """Points of a round at which a process can be killed or stopped."""
    return table(("at", "point"), [(code(point), prose(sentence(POINTS[point]))) for point in get_args(Point)])
