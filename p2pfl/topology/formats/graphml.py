"""GraphML, in the dialects of yEd, Gephi, igraph, Neo4j, NodeXL and others.

The others are networkx, Cytoscape and the Topology Zoo.
"""

# networkx's reader merges parallel edges and nodes of one id, invents nodes that only an edge names, skips all graphs
# but the first, and refuses mixed directions, unknown types and keys; later checks could not see these faults. So the
# tree of the hardened parser is read here.

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import children, local_name, read_xml
from p2pfl.topology.raw import RawEdge, RawGraph, make_graph, make_nodes, without_groups

TITLE = "GraphML"
_WEIGHTS = ("weight", "edge weight")  # the second is NodeXL's
_DIRECTIONS = {"directed": True, "undirected": False}
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass
class _Document:
    """Content read so far: keys by kind of element, then nodes, edges and groups."""

    source: str
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    defaults: dict[str, dict[str, str]] = field(default_factory=lambda: {"node": {}, "edge": {}})
    nodes: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    edges: list[RawEdge] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    drawn: bool = False
    undeclared: bool = False


def read_graphml(data: bytes, source: str) -> RawGraph:
    """Read the graph of a GraphML document.

    Raises TopologyError, and ValueError or ParseError where the file is not GraphML.
    """
    root = read_xml(data, source)
    if local_name(root) != "graphml":
        raise ValueError(f"its outermost element is <{local_name(root)[:40]}>, not <graphml>")
    document = _Document(source)
    _read_keys(root, document)
    graphs = list(children(root, "graph"))
    filled = [graph for graph in graphs if next(children(graph, "node", "edge", "hyperedge"), None) is not None]
    if not graphs:
        raise ValueError("it has no <graph>")
    if len(filled) > 1:
        raise TopologyError(f"{source}: holds {len(filled)} graphs; keep one <graph> in each file")
    chosen = filled[0] if filled else graphs[0]
    directed = _default_direction(chosen, document)
    _read_graph(chosen, directed, document)
    nodes, notes = without_groups(make_nodes(document.nodes), document.edges, document.groups)
    if document.undeclared:
        notes.append("<graph> has no edgedefault, and is read as undirected")
    if document.drawn:
        notes.append("edges drawn with no arrowhead, or with one at both ends, are read as undirected")
    return make_graph(directed, nodes, document.edges, notes, TITLE)


def _read_keys(root: ElementTree.Element, document: _Document) -> None:
    """Read the names and default values of the keys of data."""
    for key in children(root, "key"):
        kinds = ("node", "edge") if key.get("for", "all") == "all" else (key.get("for", ""),)
        # A drawing's shapes (yfiles.type) have no name of use; their content is looked up in the elements.
        name = (key.get("attr.name") or key.get("yfiles.type") or key.get("id") or "").casefold()
        default = next(children(key, "default"), None)
        for kind in kinds:
            document.keys[kind, key.get("id", "")] = name
            if default is not None and default.text and kind in document.defaults:
                document.defaults[kind][name] = default.text.strip()


def _default_direction(graph: ElementTree.Element, document: _Document) -> bool:
    given = graph.get("edgedefault")
    if given is None:
        document.undeclared = True
        return False
    if given.strip().lower() not in _DIRECTIONS:
        raise TopologyError(
            f"{document.source}: edgedefault {given[:40]!r} of <graph> is neither 'directed' nor 'undirected'"
        )
    return _DIRECTIONS[given.strip().lower()]


def _read_graph(graph: ElementTree.Element, directed: bool, document: _Document) -> None:
    """Read nodes and edges of a graph and of the graphs nested in its nodes.

    Nested graphs are groups of a drawing.
    """
    waiting = [(graph, directed)]  # a list, because nesting may be deeper than Python's stack
    while waiting:
        graph, directed = waiting.pop()
        for element in children(graph, "node", "edge", "hyperedge"):
            kind = local_name(element)
            if kind == "hyperedge":
                raise TopologyError(
                    f"{document.source}: a hyperedge joins any number of nodes; write it as edges between two"
                )
            if kind == "edge":
                document.edges.append(_edge(element, directed, document))
                continue
            document.nodes.append(_node(element, document))
            for nested in children(element, "graph"):
                if next(children(nested, "node"), None) is not None:
                    document.groups.append(document.nodes[-1][0])
                inner = nested.get("edgedefault", "").strip().lower()
                waiting.append((nested, _DIRECTIONS.get(inner, directed)))


def _node(element: ElementTree.Element, document: _Document) -> tuple[str, Mapping[str, object]]:
    name = element.get("id")
    if name is None:
        raise TopologyError(f"{document.source}: node {len(document.nodes) + 1} of the file has no id; give it one")
    data: dict[str, object] = {**document.defaults["node"], **_data(element, "node", document)}
    drawn = next(_drawn_labels(element), None)
    if drawn is not None:
        data["label"] = drawn
    return name, data


def _edge(element: ElementTree.Element, default: bool, document: _Document) -> RawEdge:
    ends = element.get("source"), element.get("target")
    source, target = ends
    if source is None or target is None:
        missing = "source" if source is None else "target"
        raise TopologyError(f"{document.source}: edge {len(document.edges) + 1} of the file has no {missing}; add it")
    data = {**document.defaults["edge"], **_data(element, "edge", document)}
    weight = next((data[key] for key in _WEIGHTS if key in data), None)
    given = element.get("directed")
    if given is not None:
        if given.strip().lower() not in _FLAGS:
            raise TopologyError(
                f"{document.source}: directed {given[:40]!r} of the edge {source!r} – {target!r} is neither true nor "
                "false"
            )
        return RawEdge(source, target, weight, _FLAGS[given.strip().lower()])
    arrows = next((part for part in element.iter() if local_name(part) == "Arrows"), None)
    if arrows is None or not default:
        return RawEdge(source, target, weight, default)
    tail, head = (arrows.get(end, "none") != "none" for end in ("source", "target"))
    if tail == head:
        document.drawn = True
        return RawEdge(source, target, weight, False)
    return RawEdge(target, source, weight, True) if tail else RawEdge(source, target, weight, True)


def _data(element: ElementTree.Element, kind: str, document: _Document) -> dict[str, str]:
    """Text of an element's data by name; the name of an undeclared key is the key."""
    found = {}
    for part in children(element, "data"):
        key = part.get("key", "")
        name = document.keys.get((kind, key), key.casefold())
        if len(part) == 0 and part.text and part.text.strip():
            found[name] = part.text.strip()
    return found


def _drawn_labels(element: ElementTree.Element) -> Iterator[str]:
    """Visible texts of a drawn node: those of yEd and of yFiles for the web."""
    for data in children(element, "data"):
        for part in data.iter():
            kind = local_name(part)
            text = part.text if kind in ("NodeLabel", "Label.Text") else part.get("Text") if kind == "Label" else None
            if text and text.strip():
                yield text
