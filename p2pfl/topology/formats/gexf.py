"""GEXF 1.1 to 1.3, as Gephi, networkx and others write it, in any namespace."""

# networkx's reader knows three of the namespaces, and fails on colors in hexadecimal, on times and on mixed
# directions. It also merges parallel edges and invents nodes; later checks could not see these faults.

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import children, local_name, read_xml
from p2pfl.topology.raw import NODE_ATTRIBUTES, RawEdge, RawGraph, make_graph, make_nodes, without_groups

TITLE = "GEXF"
_DIRECTIONS = {"directed": True, "undirected": False, "mutual": False}  # mutual: an edge in both directions
_Attributes = tuple[dict[str, str], dict[str, object]]  # names by id, default values by name


def read_gexf(data: bytes, source: str) -> RawGraph:
    """Read the graph of a GEXF document.

    Raises TopologyError, and ValueError or ParseError where the file is not GEXF.
    """
    root = read_xml(data, source)
    if local_name(root) != "gexf":
        raise ValueError(f"its outermost element is <{local_name(root)[:40]}>, not <gexf>")
    graphs = list(children(root, "graph"))
    if not graphs:
        raise ValueError("it has no <graph>")
    if len(graphs) > 1:
        raise TopologyError(f"{source}: holds {len(graphs)} graphs; keep one <graph> in each file")
    graph = graphs[0]
    directed = _direction(graph, "defaultedgetype", source) or False
    changing: set[str] = set()
    found, groups = _nodes(graph, source, changing)
    edges = _edges(graph, source, changing)
    nodes, notes = without_groups(make_nodes(found, ("label",)), edges, groups)
    notes += [f"{name!r} changes over time; the last value counts" for name in sorted(changing)]
    return make_graph(directed, nodes, edges, notes, TITLE)


def _direction(element: ElementTree.Element, name: str, source: str) -> bool | None:
    given = element.get(name)
    if given is None:
        return None
    if given.strip().lower() not in _DIRECTIONS:
        raise TopologyError(f"{source}: {name} {given[:40]!r} must be one of {', '.join(_DIRECTIONS)}")
    return _DIRECTIONS[given.strip().lower()]


def _attributes(graph: ElementTree.Element, kind: str) -> _Attributes:
    names: dict[str, str] = {}
    defaults: dict[str, object] = {}
    for group in children(graph, "attributes"):
        if group.get("class") != kind:
            continue
        for attribute in children(group, "attribute"):
            name = attribute.get("title") or attribute.get("id") or ""
            names[attribute.get("id", "")] = name.casefold()
            default = next(children(attribute, "default"), None)
            if default is not None and default.text and default.text.strip():
                defaults[name.casefold()] = default.text.strip()
    return names, defaults


def _values(element: ElementTree.Element, attributes: _Attributes, changing: set[str]) -> dict[str, object]:
    names, defaults = attributes
    found: dict[str, object] = {}
    for group in children(element, "attvalues"):
        for value in children(group, "attvalue"):
            key = value.get("for") or value.get("id") or ""  # the second in version 1.1
            name = names.get(key, key.casefold())
            given = value.get("value")
            if given is None or not given.strip():
                continue
            if found.get(name, given) != given and name in (*NODE_ATTRIBUTES, "weight"):
                changing.add(name)
            found[name] = given
    return {**defaults, **found}


def _nodes(
    graph: ElementTree.Element, source: str, changing: set[str]
) -> tuple[list[tuple[str, Mapping[str, object]]], list[str]]:
    """Read all nodes, and the ids of parents (by nesting, `pid` or <parents>)."""
    attributes = _attributes(graph, "node")
    found: list[tuple[str, Mapping[str, object]]] = []
    groups = []
    for element in _elements(graph, "nodes", "node"):
        node = element.get("id")
        if node is None:
            raise TopologyError(f"{source}: node {len(found) + 1} of the file has no id; give it one")
        found.append((node, {**_values(element, attributes, changing), "label": element.get("label")}))
        if any(next(children(nested, "node"), None) is not None for nested in children(element, "nodes")):
            groups.append(node)
        listed = [parent.get("for") for group in children(element, "parents") for parent in children(group, "parent")]
        groups += [parent for parent in (element.get("pid"), *listed) if parent]
    return found, groups


def _edges(graph: ElementTree.Element, source: str, changing: set[str]) -> list[RawEdge]:
    attributes = _attributes(graph, "edge")
    found: list[RawEdge] = []
    for element in _elements(graph, "edges", "edge"):
        start, end = element.get("source"), element.get("target")
        if start is None or end is None:
            missing = "source" if start is None else "target"
            raise TopologyError(f"{source}: edge {len(found) + 1} of the file has no {missing}; add it")
        values = _values(element, attributes, changing)
        weight = element.get("weight", "").strip() or values.get("weight")
        found.append(RawEdge(start, end, weight, _direction(element, "type", source)))
    return found


def _elements(graph: ElementTree.Element, group: str, kind: str) -> list[ElementTree.Element]:
    """Elements of a kind in document order, those within nodes included."""
    return [element for parent in graph.iter() if local_name(parent) == group for element in children(parent, kind)]
