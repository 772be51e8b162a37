"""Edge lists and adjacency lists.

The dialects are those of networkx, KONECT, SNAP, decentralizepy and spreadsheets.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.formats.headers import Columns, find_count, find_header, may_be_header
from p2pfl.topology.formats.lookalikes import check_ambiguous, check_records, check_rows
from p2pfl.topology.formats.tables import Row, Table, is_number, read_neighbors, read_table
from p2pfl.topology.naming import few
from p2pfl.topology.raw import RawEdge, RawGraph, RawNode, make_graph, merge_directions

TITLE = "an edge list"
ADJACENCY_TITLE = "an adjacency list"
_TYPES = {"directed": True, "undirected": False, "mutual": False}
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_AMBIGUOUS = (
    "name the file .edgelist and keep three columns if the third is a weight, or .adjlist if a line lists a node's "
    "neighbors"
)


def read_edge_list(data: bytes, source: str) -> RawGraph:
    """Edge list: a line for each edge, `a b`, with its weight `a b 0.25`."""
    return _edge_list(_table(data, source), source)


def read_adjacency_list(data: bytes, source: str) -> RawGraph:
    """Adjacency list: a line for each node and its neighbors, `a b c`.

    An edge may be given once, or at both its ends.
    """
    table = read_neighbors(decode(data, source), source)
    graph = _adjacency_list(table.rows, source)
    return replace(graph, notes=(*table.notes, *graph.notes))


def read_lines(data: bytes, source: str) -> RawGraph:
    """Lines of edges or of neighbors, separated by spaces, tabs, commas or semicolons."""
    table = _table(data, source)
    rows, notes = table.rows, list(table.notes)
    if find_header(rows, source) is not None:
        return _edge_list(table, source)
    check_records(rows, source)
    counted = find_count(rows, source) or _count_of_lists(rows)
    if counted is not None:
        rows, notes = rows[1:], [*notes, counted]
    edges = all(len(row.fields) >= 2 and _weighted(row) for row in rows)
    if edges and _may_list_neighbors(rows, columns=2):
        raise TopologyError(f"{source}: its lines may be edges with weights or lists of neighbors; {_AMBIGUOUS}")
    # Where a label starts no line, it may be the kind of an edge: "ann bob friend".
    if (
        edges
        or not _lists_neighbors(rows)
        or not {f for row in rows for f in row.fields} <= {r.fields[0] for r in rows}
    ):
        return _edge_list(table, source)
    graph = _adjacency_list(rows, source)
    return replace(graph, notes=(*notes, *graph.notes, "read as an adjacency list"))


def _count_of_lists(rows: Sequence[Row]) -> str | None:
    """Note on a lone first number, a count of nodes; None where it is a node."""
    first, rest = rows[0].fields if rows else (), rows[1:]
    nodes = {field for row in rest for field in row.fields}
    if len(first) != 1 or first[0] in nodes or first[0] != str(len(nodes)):
        return None
    return f"line {rows[0].line} is read as the number of nodes, {first[0]}"


def _table(data: bytes, source: str) -> Table:
    ending = source.rpartition(".")[2].lower()
    table = read_table(decode(data, source), source, ending)
    check_rows(table.rows, source)
    return table


def _weighted(row: Row) -> bool:
    """Return whether a row has a weight or a dictionary after the ends of its edge.

    More numbers, which are not used, may follow the weight; the weight may also be missing.
    """
    tail = row.fields[2:]
    return not tail or tail[0].startswith("{") or all(is_number(field) or not field for field in tail)


def _lists_neighbors(rows: Sequence[Row]) -> bool:
    """Return whether rows can be lists of neighbors.

    No node has two lists, and no list has its node or a neighbor twice.
    """
    own = [row.fields[0] for row in rows]
    return len(set(own)) == len(own) and all(len(set(row.fields)) == len(row.fields) for row in rows)


def _may_list_neighbors(rows: Sequence[Row], columns: int) -> bool:
    """Return whether rows of more than so many columns can be lists of neighbors.

    All their fields are labels of nodes.
    """
    nodes = {field for row in rows for field in row.fields[:2]}
    longest = max((len(row.fields) for row in rows), default=0)
    return longest > columns and _lists_neighbors(rows) and all(set(row.fields) <= nodes for row in rows)


def _edge_list(table: Table, source: str) -> RawGraph:
    rows, notes, doubt = table.rows, list(table.notes), ""
    header = find_header(rows, source)
    columns = header or Columns()
    if header is not None:
        others = [field for i, field in enumerate(rows[0].fields) if field and i not in astuple(header)]
        hint = " (the weight's must be named weight)" if others and header.weight is None else ""
        left = f"; its other columns are not used: {few(others)}{hint}" if others else ""
        notes.append(f"line {rows[0].line} is read as a header{left}")
        rows = rows[1:]
    elif (count := find_count(rows, source)) is not None:
        notes.append(count)
        rows = rows[1:]
    else:
        doubt = may_be_header(rows)
    if header is None:
        check_ambiguous(rows, source)
    if header is None and _may_list_neighbors(rows, columns=3):
        raise TopologyError(f"{source}: its lines may be lists of neighbors rather than edges; {_AMBIGUOUS}")
    edges = [_edge(row, columns, header is not None, source) for row in rows]
    if header is None:
        notes += _third_column(rows)
    directed = _declared_direction(table.comments, source, notes)
    if directed is None and all(edge.directed is None for edge in edges):
        directed, edges, more = merge_directions(edges)
        notes += more
    graph = make_graph(directed or False, _mentioned(edges), edges, notes, TITLE)
    return replace(graph, disconnected_hint=doubt)


def _third_column(rows: Sequence[Row]) -> list[str]:
    """Note that an unnamed third column is read as weights; it may be something else."""
    unused = max((len(row.fields) for row in rows), default=0) - 3
    if unused > 0:
        return [f"column 3 is read as the weight, and {unused} more not used"]
    given = [row.fields[2] for row in rows if len(row.fields) > 2]
    if not given or all(field.startswith("{") for field in given):
        return []
    times = all(is_number(field) and 10**8 < float(field) < 10**14 for field in given)
    looks = ", though it looks like times" if times else ""
    return [f"column 3 is read as the weight{looks}; a header such as source,target,time says what else it is"]


def _declared_direction(comments: Iterable[str], source: str, notes: list[str]) -> bool | None:
    """Direction declared by comments in files of KONECT and SNAP."""
    for comment in comments:
        if re.match(r"%\s*bip(artite)?\b", comment):
            raise TopologyError(
                f"{source}: a bipartite network, whose two sides number their nodes alike; give them different names"
            )
        if re.match(r"%\s*asym(metric)?\b|#\s*directed graph\b", comment, re.IGNORECASE):
            notes.append(f"directed, as {comment[:40]!r} says")
            return True
    return None


def _edge(row: Row, columns: Columns, named: bool, source: str) -> RawEdge:
    fields = row.fields
    if len(fields) <= max(columns.source, columns.target) or not all(
        fields[i] for i in (columns.source, columns.target)
    ):
        raise TopologyError(f"{source}: line {row.line} is not an edge; write two labels and, if you like, a weight")
    weight: object = None
    if columns.weight is not None and columns.weight < len(fields) and fields[columns.weight]:
        weight = fields[columns.weight]
    if isinstance(weight, str) and weight.startswith("{") and not named:
        weight = _from_data(weight, row.line)
    elif not named and not _weighted(row) and not re.fullmatch(r"-?\d+,\d+", fields[2]):
        raise TopologyError(
            f"{source}: line {row.line} is not an edge: {fields[2][:40]!r} is not a weight; write two labels and, if "
            "you like, a weight, begin with a header such as source,target,type, or name a list of neighbors .adjlist"
        )
    if isinstance(weight, str) and re.fullmatch(r"-?\d+,\d+", weight):
        weight = weight.replace(",", ".")  # a spreadsheet's decimal comma, between semicolons
    directed = None
    if columns.type is not None and columns.type < len(fields):
        directed = _TYPES.get(fields[columns.type].lower())
    if columns.directed is not None and columns.directed < len(fields) and fields[columns.directed]:
        directed = _FLAGS.get(fields[columns.directed].lower())
        if directed is None:
            raise TopologyError(
                f"{source}: line {row.line} has {fields[columns.directed][:40]!r} where 'directed' is "
                "to be true or false"
            )
    return RawEdge(fields[columns.source], fields[columns.target], weight, directed)


def _from_data(text: str, line: int) -> object:
    """Weight in a dictionary, as networkx writes it."""
    try:
        found = ast.literal_eval(text)
    except Exception as error:  # whatever the parser stumbles over, deep nesting included
        raise ValueError(f"line {line} has an invalid dictionary: {text[:40]!r}") from error
    if not isinstance(found, dict):
        raise ValueError(f"line {line} has {text[:40]!r} where a dictionary is expected")
    return found.get("weight")


def _mentioned(edges: Iterable[RawEdge]) -> list[RawNode]:
    """Nodes at the ends of edges, in this order."""
    return [RawNode(node) for node in dict.fromkeys(end for edge in edges for end in (edge.source, edge.target))]


def _adjacency_list(rows: Sequence[Row], source: str) -> RawGraph:
    check_rows(rows, source)
    check_records(rows, source)
    nodes = [RawNode(node) for node in dict.fromkeys(field for row in rows for field in row.fields)]
    listed = [RawEdge(row.fields[0], neighbor) for row in rows for neighbor in row.fields[1:]]
    pairs = {(edge.source, edge.target) for edge in listed}
    alone = [pair for pair in pairs if pair[::-1] not in pairs]
    if 0 < len(alone) < len(pairs):
        u, v = next((e.source, e.target) for e in listed if (e.target, e.source) not in pairs)
        raise TopologyError(
            f"{source}: {u!r} lists {v!r} but not the other way round, while other edges are listed at both "
            "ends; list every edge once or always twice (directed graphs belong in a .graphml)"
        )
    _, edges, notes = merge_directions(listed, undirected=True)
    graph = make_graph(False, nodes, edges, notes, ADJACENCY_TITLE)
    return replace(graph, disconnected_hint=may_be_header(rows, "delete it"))
