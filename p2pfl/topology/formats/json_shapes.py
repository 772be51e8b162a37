"""Shapes of JSON graphs, reduced to one form: lists of nodes and edges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.tables import is_number

TITLE = "node-link JSON"
CYTOSCAPE = "Cytoscape JSON"
_SHAPES = "node-link JSON is an object with the lists 'nodes' and 'edges'"
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class JsonGraph:
    """JSON graph: nodes and edges with flattened fields, and the declared direction.

    `ends_twice`: the format gives an undirected edge at both its ends. `assumed`: `directed` is the format's default.
    """

    nodes: list[Entry]
    edges: list[Entry]
    directed: bool | None
    title: str
    ends_twice: bool = False
    assumed: bool = False


def read_shape(value: object, source: str) -> JsonGraph:
    """Find the nodes and edges, wherever this shape of JSON has them."""
    value, wrapped, assumed = _unwrapped(value, source)
    if "elements" in value:
        return _cytoscape(value, source)
    if "children" in value and "nodes" not in value:
        raise TopologyError(
            f"{source}: a hierarchy ('children' within 'children') is not a graph; write its nodes and edges"
        )
    nodes = value.get("nodes")
    if isinstance(nodes, dict):
        nodes = [{**(fields if isinstance(fields, dict) else {}), "id": node} for node, fields in nodes.items()]
    if isinstance(nodes, list) and isinstance(value.get("adjacency"), list):
        return _adjacency(nodes, value, source)
    edges = _edge_list(value, source)
    if not isinstance(nodes, list) or edges is None:
        raise TopologyError(f"{source}: {_SHAPES}")
    return JsonGraph(
        [_fields(node, source) for node in nodes],
        [_fields(edge, source, ends=True) for edge in edges],
        _directed(value, source),
        "JSON Graph Format" if wrapped else TITLE,
        assumed=assumed,
    )


def _unwrapped(value: object, source: str) -> tuple[dict[str, Any], bool, bool]:
    """Object that holds the nodes, without the objects around it.

    Returns also whether it is JSON Graph Format's, and whether its direction is only the default of that format.
    """
    if (
        isinstance(value, list)
        and value
        and all(isinstance(e, dict) and isinstance(e.get("data"), dict) for e in value)
    ):
        value = {"elements": value}  # Cytoscape.js without the object around it
    if not isinstance(value, dict):
        raise TopologyError(f"{source}: {_SHAPES}")
    graphs = value.get("graphs")
    if isinstance(graphs, list) and len(graphs) > 1:
        raise TopologyError(f"{source}: holds {len(graphs)} graphs; keep one in each file")
    if isinstance(graphs, list) and graphs:
        value = {"graph": graphs[0]}
    if any(isinstance(part, dict) and part.get("hyperedges") for part in (value, value.get("graph"))):
        raise TopologyError(f"{source}: a hyperedge joins any number of nodes; write it as edges between two")
    wrapped = "nodes" not in value and isinstance(value.get("graph"), dict) and "nodes" in value["graph"]
    assumed = wrapped and "directed" not in value["graph"]
    if wrapped:  # JSON Graph Format, in which a graph is directed unless it says otherwise
        value = {"directed": True, **value["graph"]}
    return value, wrapped, assumed


def _edge_list(value: Entry, source: str) -> list[object] | None:
    """Edges, under either of two names."""
    found = [value[name] for name in ("edges", "links") if isinstance(value.get(name), list)]
    if len(found) == 2 and all(found):
        raise TopologyError(f"{source}: has both 'edges' and 'links'; keep one of the two lists")
    return next((edges for edges in found if edges), found[0] if found else None)


def _directed(value: Entry, source: str) -> bool | None:
    options = value.get("options")
    if (
        "directed" not in value
        and isinstance(options, dict)
        and options.get("type") in ("directed", "undirected", "mixed")
    ):
        return bool(options["type"] != "undirected")  # graphology
    directed = value.get("directed")
    if directed is not None and not isinstance(directed, bool):
        raise TopologyError(f"{source}: 'directed' is {directed!r}; it must be true or false")
    return directed


def _fields(entry: object, source: str, *, ends: bool = False) -> Entry:
    """Fields of an entry, nested ones included.

    A node may be its id alone, an edge a list of its ends.
    """
    # Text that is not a number is a third node.
    if ends and isinstance(entry, list) and (len(entry) == 2 or (len(entry) == 3 and not _is_word(entry[2]))):
        weight = {"weight": entry[2]} if len(entry) == 3 and isinstance(entry[2], int | float | str) else {}
        return {"source": entry[0], "target": entry[1], **weight}
    if not ends and isinstance(entry, str | int | float):
        return {"id": entry}
    if not isinstance(entry, dict):
        key = "source" if ends else "id"
        raise TopologyError(f"{source}: {json.dumps(entry)[:80]} has no usable {key!r}; it must be text or a number")
    fields = dict(entry)
    for name in ("attributes", "metadata", "data"):
        nested = entry.get(name)
        if isinstance(nested, dict):
            fields = {**nested, **fields}
    return fields


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and not is_number(value)


def _cytoscape(value: Entry, source: str) -> JsonGraph:
    elements = value["elements"]
    if isinstance(elements, list):  # one list of both, told apart by their ends
        both = [_fields(element, source) for element in elements]
        nodes = [fields for fields in both if "source" not in fields and "target" not in fields]
        edges = [fields for fields in both if "source" in fields or "target" in fields]
    else:
        given = elements if isinstance(elements, dict) else {}
        if not isinstance(given.get("nodes"), list) or not isinstance(given.get("edges", []), list):
            raise TopologyError(f"{source}: Cytoscape JSON has the lists 'nodes' and 'edges' in 'elements'")
        nodes = [_fields(node, source) for node in given["nodes"]]
        edges = [_fields(edge, source, ends=True) for edge in given.get("edges", [])]
    return JsonGraph(nodes, edges, _directed(value, source), CYTOSCAPE)


def _adjacency(nodes: list[object], value: Entry, source: str) -> JsonGraph:
    rows = value["adjacency"]
    edges: list[Entry] = []
    fields = [_fields(node, source) for node in nodes]
    if len(rows) != len(fields) or not all(isinstance(row, list) for row in rows):
        raise TopologyError(f"{source}: 'adjacency' must have one list for each of the {len(fields)} nodes")
    for node, row in zip(fields, rows, strict=True):
        for entry in row:
            neighbor = _fields(entry, source)
            edges.append({"source": node.get("id"), "target": neighbor.get("id"), "weight": neighbor.get("weight")})
    # An edge is in the lists of both its ends; networkx writes a self-loop once.
    return JsonGraph(fields, edges, _directed(value, source), "adjacency JSON", ends_twice=True)
