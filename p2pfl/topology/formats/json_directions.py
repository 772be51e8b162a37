"""Directions of edges in JSON graphs: given edge by edge, or drawn as arrows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from p2pfl.errors import TopologyError

DRAWN = "edges point where their arrows do; those with no arrow, or with one at both ends, are read as undirected"
STYLED = 'its style draws arrows but no edge says "directed": true, so that edges are read as undirected'
# Directions as an edge's `type` in Gephi's words; elsewhere the type is a relation.
_TYPES = {"directed": True, "undirected": False, "mutual": False}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}
# An edge's `type` in sigma.js and its `style` in old versions of vis.js.
_ARROW_WORDS = ("arrow", "curvedarrow", "curved-arrow", "curved_arrow", "arrow-center")
# Fields that draw an arrow at an edge's start and at its end in G6 and React Flow.
_MARKS = (("startArrow", "endArrow"), ("markerStart", "markerEnd"))


class Direction(NamedTuple):
    """Direction of an edge.

    `directed`: None where the edge does not say. `backwards`: it goes from its target to its source. `drawn`: the
    direction is that of arrows.
    """

    directed: bool | None = None
    backwards: bool = False
    drawn: bool = False


def direction_of(edge: Mapping[str, Any], default: object, source: str) -> Direction:
    """Direction of an edge; words outweigh arrows.

    `default`: vis.js's `arrows` for all edges. Raises TopologyError where the direction is unclear.
    """
    for key, meant in (
        ("undirected", False),
        ("bidirectional", False),
        ("directed", True),
    ):  # the first is graphology's
        given = _flag(edge, key, source)
        if given is not None:
            return Direction(given is meant)
    declared = edge.get("type")
    if isinstance(declared, str) and declared.strip().lower() in _TYPES:
        return Direction(_TYPES[declared.strip().lower()])
    tail, head = _arrows(edge, default, source)
    if not tail and not head:
        return Direction()
    return Direction(tail != head, backwards=tail and not head, drawn=True)


def default_arrows(value: object) -> object:
    """Arrows of all edges in a file of vis.js; None where it has no such option."""
    for key in ("options", "edges"):
        value = value.get(key) if isinstance(value, dict) else None
    return value.get("arrows") if isinstance(value, dict) else None


def draws_arrows(value: object) -> bool:
    """Return whether a style sheet of Cytoscape.js has arrows."""
    rules = value.get("style") if isinstance(value, dict) else None
    styles = [rule.get("style", rule.get("css")) for rule in rules or () if isinstance(rule, dict)]
    return any(
        str(style.get(f"{end}-arrow-shape", "none")) != "none"
        for style in styles
        if isinstance(style, dict)
        for end in ("source", "target")
    )


def _flag(edge: Mapping[str, Any], key: str, source: str) -> bool | None:
    value = edge.get(key)
    if value is None:
        return None
    found = _FLAGS.get(str(value).strip().lower())
    if found is None:
        raise TopologyError(f"{source}: {key!r} of the edge {json.dumps(edge)[:80]} must be true or false")
    return found


def _arrows(edge: Mapping[str, Any], default: object, source: str) -> tuple[bool, bool]:
    """Presence of an arrow at an edge's start and at its end."""
    style = edge.get("style")
    words = [str(word).lower() for word in (edge.get("type"), style) if isinstance(word, str)]
    if any(word in _ARROW_WORDS for word in words):
        return False, True
    for fields in (edge, style):
        for pair in _MARKS:
            if isinstance(fields, dict) and any(fields.get(mark) for mark in pair):
                return bool(fields.get(pair[0])), bool(fields.get(pair[1]))
    ends = {"from": False, "middle": False, "to": False}
    for arrows in (default, edge.get("arrows")):
        _set_ends(ends, arrows, source)
    return ends["from"], ends["to"] or (ends["middle"] and not ends["from"])


def _set_ends(ends: dict[str, bool], arrows: object, source: str) -> None:
    """Update the ends from `arrows`: words set all ends, an object some of them."""
    if isinstance(arrows, list) and all(isinstance(word, str) for word in arrows):
        arrows = " ".join(arrows)
    if arrows is None:
        return
    if isinstance(arrows, dict):
        for end in ends.keys() & arrows.keys():
            given = arrows[end]
            ends[end] = bool(given.get("enabled", True) if isinstance(given, dict) else given)
        return
    words = re.findall(r"[^\s,;|+&]+", arrows.lower()) if isinstance(arrows, str) else ["?"]
    if words == ["none"]:
        words = []
    if not set(words) <= {*ends, "both"}:
        raise TopologyError(
            f"{source}: 'arrows' is {json.dumps(arrows)[:40]}; it must be text with 'to', 'from', both or neither, or "
            "an object with these keys"
        )
    ends.update({end: end in words or ("both" in words and end != "middle") for end in ends})
