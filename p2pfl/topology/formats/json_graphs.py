"""JSON graphs: node-link, adjacency, D3, Cytoscape, sigma.js, vis.js, graphology and JSON Graph Format."""

# networkx's readers take one shape each, merge parallel edges and invent undeclared ends; most files here come from
# libraries for drawing, whose shapes they do not know.

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decoded
from p2pfl.topology.formats.json_directions import DRAWN, STYLED, Way, default_arrows, draws_arrows, way_of
from p2pfl.topology.formats.tables import is_number
from p2pfl.topology.raw import RawEdge, RawGraph, make_graph, make_nodes, merge_directions, without_groups

TITLE = "node-link JSON"
_CYTOSCAPE = "Cytoscape JSON"
_IDS = ("id", "key", "name", "label")  # what names a node, the usual first
_ENDS = (("source", "target"), ("from", "to"))
_SHAPES = "node-link JSON is an object with the lists 'nodes' and 'edges'"
_Entry = Mapping[str, Any]


@dataclass(frozen=True)
class _Parts:
    """A graph's nodes and edges, each with the fields that may be nested, and what it says of directions.

    `ends_twice`: the format gives an undirected edge at both its ends. `assumed`: `directed` is the format's default.
    """

    nodes: list[_Entry]
    edges: list[_Entry]
    directed: bool | None
    title: str
    ends_twice: bool = False
    assumed: bool = False


def read_json(data: bytes, source: str) -> RawGraph:
    """The graph of a JSON file in any of the known shapes. Raises TopologyError, and ValueError where it is none."""
    value = json.loads(decoded(data, source))
    parts = _whole_ids(_parts(value, source))
    naming = _identify(parts, source)
    nodes = make_nodes([(node, fields) for node, fields in zip(naming.ids, parts.nodes, strict=True)])
    ways = [way_of(fields, default_arrows(value), source) for fields in parts.edges]
    if parts.directed is not None:  # what is drawn says nothing then
        ways = [Way() if way.drawn else way for way in ways]
    edges = [_edge(fields, way, naming, source) for fields, way in zip(parts.edges, ways, strict=True)]
    nodes, notes = without_groups(nodes, edges, _groups(parts, naming.ids))
    if any(way.drawn for way in ways):
        notes.append(DRAWN)
    elif parts.directed is None and draws_arrows(value) and not any(way.directed for way in ways):
        notes.append(STYLED)
    if parts.assumed:
        notes.append("directed, as JSON Graph Format is where a file does not say")
    if naming.by_position:
        notes.append("edges name nodes by their position in the list, the first being 0")
    directed = parts.directed or False
    if parts.directed is None or (parts.ends_twice and not directed):
        directed, edges, more = merge_directions(edges, undirected=parts.directed is False)
        notes += more
    return make_graph(directed, nodes, edges, notes, parts.title)


def _parts(value: object, source: str) -> _Parts:
    """Nodes and edges, wherever this shape of JSON has them."""
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
    if "elements" in value:
        return _cytoscape(value, source)
    if "children" in value and "nodes" not in value:
        raise TopologyError(
            f"{source}: a hierarchy ('children' within 'children') is no graph; write its nodes and edges"
        )
    nodes = value.get("nodes")
    if isinstance(nodes, dict):
        nodes = [{**(fields if isinstance(fields, dict) else {}), "id": node} for node, fields in nodes.items()]
    if isinstance(nodes, list) and isinstance(value.get("adjacency"), list):
        return _adjacency(nodes, value, source)
    edges = _edge_list(value, source)
    if not isinstance(nodes, list) or edges is None:
        raise TopologyError(f"{source}: {_SHAPES}")
    return _Parts(
        [_fields(node, source) for node in nodes],
        [_fields(edge, source, ends=True) for edge in edges],
        _directed(value, source),
        "JSON Graph Format" if wrapped else TITLE,
        assumed=assumed,
    )


def _edge_list(value: _Entry, source: str) -> list[object] | None:
    """The edges, which go by two names."""
    found = [value[name] for name in ("edges", "links") if isinstance(value.get(name), list)]
    if len(found) == 2 and all(found):
        raise TopologyError(f"{source}: has both 'edges' and 'links'; keep one of the two lists")
    return next((edges for edges in found if edges), found[0] if found else None)


def _directed(value: _Entry, source: str) -> bool | None:
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


def _fields(entry: object, source: str, *, ends: bool = False) -> _Entry:
    """An entry's fields and those that it nests; a node may be its id alone, an edge a list of its ends."""
    # Text that is no number is a third node.
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


def _cytoscape(value: _Entry, source: str) -> _Parts:
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
    return _Parts(nodes, edges, _directed(value, source), _CYTOSCAPE)


def _adjacency(nodes: list[object], value: _Entry, source: str) -> _Parts:
    rows = value["adjacency"]
    edges: list[_Entry] = []
    fields = [_fields(node, source) for node in nodes]
    if len(rows) != len(fields) or not all(isinstance(row, list) for row in rows):
        raise TopologyError(f"{source}: 'adjacency' must have one list for each of the {len(fields)} nodes")
    for node, row in zip(fields, rows, strict=True):
        for entry in row:
            neighbor = _fields(entry, source)
            edges.append({"source": node.get("id"), "target": neighbor.get("id"), "weight": neighbor.get("weight")})
    # An edge is in the lists of both its ends; networkx writes a self-loop once.
    return _Parts(fields, edges, _directed(value, source), "adjacency JSON", ends_twice=True)


def _whole_ids(parts: _Parts) -> _Parts:
    """The same with ids and ends such as 1.0, which pandas makes of 1, as whole numbers, unless both are ids."""
    own = [node.get("id") for node in parts.nodes]
    texts = {str(value) for value in own}
    if any(isinstance(value, float) and str(_whole(value)) in texts for value in own):
        return parts
    keys = ("id", "source", "target", "from", "to", "parent", "parentId", "parentNode")

    def mended(entries: list[_Entry]) -> list[_Entry]:
        return [{**entry, **{key: _whole(entry[key]) for key in keys if key in entry}} for entry in entries]

    return replace(parts, nodes=mended(parts.nodes), edges=mended(parts.edges))


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class _Naming:
    """Each node's id, and how edges name nodes: by the field `key`, or by position in the list."""

    ids: list[str]
    key: str
    by_position: bool = False


def _identify(parts: _Parts, source: str) -> _Naming:
    """The field by which edges name nodes; positions are taken only where not one end is an id."""
    nodes, ends = parts.nodes, list(_all_ends(parts.edges))
    # networkx's Cytoscape data has the node itself as `value`; elsewhere that is a size.
    keys = (*_IDS, "value") if parts.title == _CYTOSCAPE else _IDS
    complete = [key for key in keys if nodes and all(_usable(node.get(key)) for node in nodes)]
    for key in complete:
        names = {str(node[key]) for node in nodes}
        # Numbers that are no ids are positions, even where a node has such a number for a name.
        found = [_asstr(end, key) in names and (key in ("id", "key", "value") or not _is_index(end)) for end in ends]
        if all(found) or (key == "id" and any(found)):
            return _Naming([str(node[key]) for node in nodes], key)
    ids = [str(node["id"]) for node in nodes] if "id" in complete else [str(i) for i in range(len(nodes))]
    if nodes and ends and all(_position(end, len(nodes)) is not None for end in ends):
        return _Naming(ids, "", by_position=True)
    if nodes and not complete:
        lacking = next((node for node in nodes if not _usable(node.get("id"))), nodes[0])
        raise TopologyError(f"{source}: {json.dumps(lacking)[:80]} has no usable 'id'; it must be text or a number")
    return _Naming([str(node[complete[0]]) for node in nodes], complete[0] if complete else "id")


def _all_ends(edges: Sequence[_Entry]) -> Iterator[object]:
    for edge in edges:
        for pair in _ENDS:
            if any(end in edge for end in pair):
                yield from (edge[end] for end in pair if end in edge)
                break


def _usable(value: object) -> bool:
    return isinstance(value, str | int | float)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and not is_number(value)


def _is_index(end: object) -> bool:
    return isinstance(end, int) and not isinstance(end, bool)


def _asstr(end: object, key: str) -> str | None:
    """What an edge says of its end, which D3's simulations replace by the node itself."""
    value = end.get(key) if isinstance(end, dict) else end
    return str(value) if _usable(value) else None


def _position(end: object, count: int) -> int | None:
    value = end.get("index") if isinstance(end, dict) else end
    return value if isinstance(value, int) and _is_index(value) and 0 <= value < count else None


def _groups(parts: _Parts, ids: Sequence[str]) -> list[str]:
    """Ids of nodes that others have as their parents: compound nodes in Cytoscape, groups in React Flow."""
    keys = ("parent",) if parts.title == _CYTOSCAPE else ("parentId", "parentNode")
    own = [str(node.get("id")) for node in parts.nodes]
    parents = {
        str(node[key])
        for name, node in zip(own, parts.nodes, strict=True)
        for key in keys
        if _usable(node.get(key)) and str(node[key]) != name
    }
    return [node for node, name in zip(ids, own, strict=True) if name in parents]


def _edge(edge: _Entry, way: Way, naming: _Naming, source: str) -> RawEdge:
    pair = next((pair for pair in _ENDS if any(end in edge for end in pair)), _ENDS[0])
    found = []
    for end in pair:
        value = edge.get(end)
        place = _position(value, len(naming.ids)) if naming.by_position else None
        text = _asstr(value, naming.key) if place is None else naming.ids[place]
        if text is None:
            raise TopologyError(f"{source}: {json.dumps(edge)[:80]} has no usable {end!r}; it must be text or a number")
        found.append(text)
    if way.backwards:
        found.reverse()
    return RawEdge(found[0], found[1], edge.get("weight"), way.directed)
