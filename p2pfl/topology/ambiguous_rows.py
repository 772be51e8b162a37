"""Rows without a header that pass for edges but may be triples, records or points, and are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence

from p2pfl.errors import TopologyError
from p2pfl.topology.tables import Row, is_number, is_whole

# What starts the lines of DIMACS, gSpan, g2o, Wavefront and others.
_RECORDS = re.compile(
    r"[acelnptv]|(vertex|edge|node|arc|link|line|pair|bond|atom)s?([_:].*)?|(add)?(vertex|edge|node|link)",
    re.IGNORECASE,
)
_HEADER = "if its rows are edges with weights, begin with the header source,target,weight"


def check_ambiguous(rows: Sequence[Row], source: str) -> None:
    """Raises TopologyError where rows may be of another kind than edges."""
    check_records(rows, source)
    ends = [field for row in rows for field in row.fields[:2]]
    if ends and all(map(is_number, ends)) and not all(float(end) == round(float(end), 0) for end in ends):
        raise TopologyError(
            f"{source}: its rows may be coordinates of points rather than edges; if they are edges, begin with the "
            "header source,target"
        )


def check_records(rows: Sequence[Row], source: str) -> None:
    """Raises TopologyError where a relation or a type of record stands among the labels."""
    if _are_triples(rows):
        raise TopologyError(
            f"{source}: looks like triples (node {rows[0].fields[1][:40]} node); write a line an edge with the header "
            f"source,relation,target; {_HEADER}"
        )
    if _are_records(rows):
        raise TopologyError(
            f"{source}: each line starts with a type of record ({rows[0].fields[0][:40]!r}); write the edges alone; "
            f"{_HEADER}"
        )


def _are_triples(rows: Sequence[Row]) -> bool:
    """Whether words that are no nodes stand between numbers that are."""
    if not rows or not all(len(row.fields) > 2 for row in rows):
        return False
    subjects = {row.fields[0] for row in rows}
    return all(
        is_whole(row.fields[0])
        and is_whole(row.fields[2])
        and not is_number(row.fields[1])
        and not row.fields[1].startswith("{")
        and row.fields[1] not in subjects
        for row in rows
    )


def _are_records(rows: Sequence[Row]) -> bool:
    """Whether a word for a kind of line stands before numbers, or another word that is no node before all edges."""
    kinds = {row.fields[0] for row in rows}
    wide = [row for row in rows if len(row.fields) > 2]
    distinct = len(kinds) == len(rows) and len({len(row.fields) for row in rows}) == 1
    if len(rows) < 2 or not wide or distinct or any(map(is_number, kinds)):
        return False
    seconds = {row.fields[1] for row in rows if len(row.fields) > 1}
    if kinds & seconds or any(row.fields[2].startswith("{") for row in wide):
        return False
    if all(_RECORDS.fullmatch(kind) for kind in kinds):
        return all(is_whole(row.fields[1]) for row in wide)
    numbered = all(len(row.fields) > 2 and is_whole(row.fields[1]) and is_whole(row.fields[2]) for row in rows)
    thirds = {row.fields[2] for row in wide}
    return numbered and len(kinds) < len(rows) and 2 * len(thirds & seconds) >= len(thirds)
