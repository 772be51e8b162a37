"""JSON graphs: node-link JSON, Cytoscape.js, D3, JSON Graph Format and others.

The others are networkx's adjacency data, sigma.js, vis.js, G6, React Flow and graphology.
"""

# networkx's readers take one shape each, merge parallel edges and invent undeclared ends; most files here come from
# libraries for drawing, whose shapes they do not know.

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.formats.json_directions import DRAWN, STYLED, Direction, default_arrows, direction_of, draws_arrows
from p2pfl.topology.formats.json_schedules import is_schedule, read_schedule
from p2pfl.topology.formats.json_shapes import CYTOSCAPE, Entry, JsonGraph, read_shape
from p2pfl.topology.raw import RawEdge, RawGraph, make_graph, make_nodes, merge_directions, without_groups

_IDS = ("id", "key", "name", "label")  # fields that identify a node, the usual first
_ENDS = (("source", "target"), ("from", "to"))


def read_json(data: bytes, source: str) -> RawGraph:
    """Read a JSON graph of any known shape.

    Raises TopologyError, and ValueError where the file is not JSON.
    """
    value = json.loads(decode(data, source))
    return read_schedule(value, source, _read_graph) if is_schedule(value) else _read_graph(value, source)


def _read_graph(value: object, source: str) -> RawGraph:
    graph = _whole_ids(read_shape(value, source))
    naming = _identify(graph, source)
    nodes = make_nodes([(node, fields) for node, fields in zip(naming.ids, graph.nodes, strict=True)])
    directions = [direction_of(fields, default_arrows(value), source) for fields in graph.edges]
    if graph.directed is not None:  # arrows are decoration then
        directions = [Direction() if direction.drawn else direction for direction in directions]
    edges = [
        _edge(fields, direction, naming, source) for fields, direction in zip(graph.edges, directions, strict=True)
    ]
    nodes, notes = without_groups(nodes, edges, _groups(graph, naming.ids))
    if any(direction.drawn for direction in directions):
        notes.append(DRAWN)
    elif graph.directed is None and draws_arrows(value) and not any(direction.directed for direction in directions):
        notes.append(STYLED)
    if graph.assumed:
        notes.append("directed, as JSON Graph Format is where a file does not say")
    if naming.by_position:
        notes.append("edges name nodes by their position in the list, the first being 0")
    directed = graph.directed or False
    if graph.directed is None or (graph.ends_twice and not directed):
        directed, edges, more = merge_directions(edges, undirected=graph.directed is False)
        notes += more
    return make_graph(directed, nodes, edges, notes, graph.title)


def _whole_ids(graph: JsonGraph) -> JsonGraph:
    """Write ids such as 1.0, which pandas makes of 1, as whole numbers.

    Ids stay as they are where both 1 and 1.0 are ids.
    """
    own = [node.get("id") for node in graph.nodes]
    texts = {str(value) for value in own}
    if any(isinstance(value, float) and str(_whole(value)) in texts for value in own):
        return graph
    keys = ("id", "source", "target", "from", "to", "parent", "parentId", "parentNode")

    def fixed(entries: list[Entry]) -> list[Entry]:
        return [{**entry, **{key: _whole(entry[key]) for key in keys if key in entry}} for entry in entries]

    return replace(graph, nodes=fixed(graph.nodes), edges=fixed(graph.edges))


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class _NodeIds:
    """Ids of the nodes, and the way edges name nodes: a field or the position."""

    ids: list[str]
    key: str
    by_position: bool = False


def _identify(graph: JsonGraph, source: str) -> _NodeIds:
    """Find the field by which edges name nodes.

    Ends are read as positions only where not one of them is an id.
    """
    nodes, ends = graph.nodes, list(_all_ends(graph.edges))
    # networkx's Cytoscape data has the node itself as `value`; elsewhere that is a size.
    keys = (*_IDS, "value") if graph.title == CYTOSCAPE else _IDS
    complete = [key for key in keys if nodes and all(_usable(node.get(key)) for node in nodes)]
    for key in complete:
        names = {str(node[key]) for node in nodes}
        # Numbers that are no ids are positions, even where a node has such a number for a name.
        found = [_asstr(end, key) in names and (key in ("id", "key", "value") or not _is_index(end)) for end in ends]
        if all(found) or (key == "id" and any(found)):
            return _NodeIds([str(node[key]) for node in nodes], key)
    ids = [str(node["id"]) for node in nodes] if "id" in complete else [str(i) for i in range(len(nodes))]
    if nodes and ends and all(_position(end, len(nodes)) is not None for end in ends):
        return _NodeIds(ids, "", by_position=True)
    if nodes and not complete:
        lacking = next((node for node in nodes if not _usable(node.get("id"))), nodes[0])
        raise TopologyError(f"{source}: {json.dumps(lacking)[:80]} has no usable 'id'; it must be text or a number")
    return _NodeIds([str(node[complete[0]]) for node in nodes], complete[0] if complete else "id")


def _all_ends(edges: Sequence[Entry]) -> Iterator[object]:
    for edge in edges:
        for pair in _ENDS:
            if any(end in edge for end in pair):
                yield from (edge[end] for end in pair if end in edge)
                break


def _usable(value: object) -> bool:
    return isinstance(value, str | int | float)


def _is_index(end: object) -> bool:
    return isinstance(end, int) and not isinstance(end, bool)


def _asstr(end: object, key: str) -> str | None:
    """Name of an edge's end, which D3's simulations replace by the node itself."""
    value = end.get(key) if isinstance(end, dict) else end
    return str(value) if _usable(value) else None


def _position(end: object, count: int) -> int | None:
    value = end.get("index") if isinstance(end, dict) else end
    return value if isinstance(value, int) and _is_index(value) and 0 <= value < count else None


def _groups(graph: JsonGraph, ids: Sequence[str]) -> list[str]:
    """Ids of parents of other nodes.

    They are compound nodes in Cytoscape, groups in React Flow.
    """
    keys = ("parent",) if graph.title == CYTOSCAPE else ("parentId", "parentNode")
    own = [str(node.get("id")) for node in graph.nodes]
    parents = {
        str(node[key])
        for name, node in zip(own, graph.nodes, strict=True)
        for key in keys
        if _usable(node.get(key)) and str(node[key]) != name
    }
    return [node for node, name in zip(ids, own, strict=True) if name in parents]


def _edge(edge: Entry, direction: Direction, naming: _NodeIds, source: str) -> RawEdge:
    pair = next((pair for pair in _ENDS if any(end in edge for end in pair)), _ENDS[0])
    found = []
    for end in pair:
        value = edge.get(end)
        place = _position(value, len(naming.ids)) if naming.by_position else None
        text = _asstr(value, naming.key) if place is None else naming.ids[place]
        if text is None:
            raise TopologyError(f"{source}: {json.dumps(edge)[:80]} has no usable {end!r}; it must be text or a number")
        found.append(text)
    if direction.backwards:
        found.reverse()
    return RawEdge(found[0], found[1], edge.get("weight"), direction.directed)
