"""Refusal of rows that look like edges: matrices, METIS, triples, records, points."""

from __future__ import annotations

import re
from collections.abc import Sequence

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.tables import Row, is_number, is_whole

# METIS's third number: a line's first field that is a neighbor (after a node's weight), and the step to the next one.
_METIS = {"": (0, 1), "0": (0, 1), "1": (0, 2), "10": (1, 1), "11": (1, 2)}
_TUPLE = re.compile(r"[(\[<].*[,;].*[)\]>]")  # (0, 1), as scipy prints an entry's place
_ARROW = re.compile(r"<?[-=~]+>?|[:|,;&]")
# First fields of lines of DIMACS, gSpan, g2o, Wavefront and others.
_RECORDS = re.compile(
    r"[acelnptv]|(vertex|edge|node|arc|link|line|pair|bond|atom)s?([_:].*)?|(add)?(vertex|edge|node|link)",
    re.IGNORECASE,
)
_HEADER = "if its rows are edges with weights, begin with the header source,target,weight"


def check_rows(rows: Sequence[Row], source: str) -> None:
    """Refuse rows of another format: raise TopologyError, which names the format."""
    if is_metis(rows):
        raise TopologyError(
            f"{source}: looks like METIS (counts, then a line of neighbors for each node), which is not read; save as "
            ".adjlist with each line's own node first"
        )
    if is_matrix(rows) or is_labeled_matrix(rows):
        raise TopologyError(
            f"{source}: looks like an adjacency matrix, which is not read; write a line an edge: a b weight"
        )
    for row in rows:
        arrow = next((field for field in row.fields if _ARROW.fullmatch(field)), None)
        if arrow is not None:
            raise TopologyError(f"{source}: line {row.line} has {arrow!r} between labels; write the labels alone")
        if row.fields[0].endswith(":"):
            raise TopologyError(
                f"{source}: line {row.line} has ':' after {row.fields[0][:-1][:40]!r}; write it without"
            )
        outer = row.fields[0].startswith(("(", "[", "{", "<")) and row.fields[-1].endswith((")", "]", "}", ">"))
        if outer or any(_TUPLE.fullmatch(field) for field in row.fields):
            raise TopologyError(f"{source}: line {row.line} has brackets around an edge; write the labels alone")
        if len(row.fields) > 1 and row.fields[1].startswith("{") and row.fields[-1].endswith("}"):
            raise TopologyError(
                f"{source}: looks like a multi-line adjacency list, which is not read; save as .graphml"
            )


def check_ambiguous(rows: Sequence[Row], source: str) -> None:
    """Refuse rows without a header that may be something else than edges.

    Raises TopologyError for triples, records and coordinates of points.
    """
    check_records(rows, source)
    ends = [field for row in rows for field in row.fields[:2]]
    if ends and all(map(is_number, ends)) and not all(float(end) == round(float(end), 0) for end in ends):
        raise TopologyError(
            f"{source}: its rows may be coordinates of points rather than edges; if they are edges, begin with the "
            "header source,target"
        )


def check_records(rows: Sequence[Row], source: str) -> None:
    """Refuse triples and records: raise TopologyError where one shows in the rows."""
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


def is_metis(rows: Sequence[Row]) -> bool:
    """Return whether rows are METIS's.

    First come the numbers of nodes and edges, then the neighbors of node 1, of node 2 and so on. The number of nodes
    alone, and nodes that are counted from 0, are decentralizepy's.
    """
    if len(rows) < 3 or not all(is_whole(field) for row in rows for field in row.fields):
        return False
    first, rest = rows[0].fields, rows[1:]
    form = first[2].lstrip("0") or "0" if len(first) > 2 else ""
    if len(first) > 3 or form not in _METIS or int(first[0]) != len(rest):
        return False
    start, step = _METIS[form]
    listed = [[int(field) for field in row.fields[start::step]] for row in rest]
    if len(first) > 1 and sum(map(len, listed)) != 2 * int(first[1]):
        return False
    return any(_is_symmetric(listed, origin) for origin in ((1,) if len(first) > 1 else (0, 1)))


def _is_symmetric(listed: Sequence[Sequence[int]], origin: int) -> bool:
    """Return whether the neighbors that each line lists have its node as a neighbor.

    The first line is that of node `origin`.
    """
    lists = [set(row) for row in listed]
    return all(
        0 <= j - origin < len(lists) and j != i and i in lists[j - origin]
        for i, row in enumerate(lists, start=origin)
        for j in row
    )


def is_labeled_matrix(rows: Sequence[Row]) -> bool:
    """Return whether rows are an adjacency matrix with names of columns and rows."""
    if len(rows) < 3:
        return False
    heads, body = rows[0].fields, rows[1:]
    own = tuple(row.fields[0] for row in body)
    if not all(is_number(field) for row in body for field in row.fields[1:]):
        return False
    if heads == own:
        return all(len(row.fields) == len(own) + 1 for row in body)
    cornered = not heads[0] or not all(is_number(field) for field in heads[1:])
    return heads[1:] == own and cornered and all(len(row.fields) == len(own) + 1 for row in body)


def is_matrix(rows: Sequence[Row]) -> bool:
    """Return whether rows are a matrix and no edge list.

    Its diagonal is empty, it is symmetric or triangular, it has fractions where edges have ends, more columns than
    edges have, or only 0, 1 and -1, as an incidence matrix has.
    """
    n, width = len(rows), len(rows[0].fields) if rows else 0
    if min(n, width) < 3 or not all(len(row.fields) == width and all(map(is_number, row.fields)) for row in rows):
        return False
    values = [[float(field) for field in row.fields] for row in rows]
    if all(value in (-1, 0, 1) for row in values for value in row):
        return True
    if n != width:
        return False
    nodes = {row.fields[0] for row in rows}
    lists = len(nodes) == n and all(len(set(row.fields)) == n and set(row.fields) == nodes for row in rows)
    if lists and any(values[i][i] != 0 for i in range(n)):
        return False
    below = [(i, j) for i in range(n) for j in range(i)]
    return (
        n > 3
        or all(values[i][i] == 0 for i in range(n))
        or all(values[i][j] == values[j][i] for i, j in below)
        or all(values[i][j] == 0 for i, j in below)
        or all(values[j][i] == 0 for i, j in below)
        or any(not value.is_integer() for row in values for value in row[:2])
    )


def _are_triples(rows: Sequence[Row]) -> bool:
    """Return whether rows are triples: a word between two numbers."""
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
    """Return whether rows are records, which start with a word for their type."""
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
