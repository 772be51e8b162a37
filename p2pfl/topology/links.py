"""Links of a raw graph, and its connected components."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import networkx as nx

from p2pfl.topology.naming import unprintable
from p2pfl.topology.raw import RawEdge, RawGraph

_HEXADECIMAL = re.compile(r"[+-]?0[xX]")
Pair = tuple[str, str]
Weight = float | str | None
RECIPROCAL = "every link goes both ways with the same weight: the graph is treated as undirected"


@dataclass(frozen=True)
class Links:
    """Edges of a simple graph by node ids in file order, with the first weight given.

    `directed`: a link carries vectors one way only; otherwise each pair of nodes is listed once. `parallel`: links
    that are repeated, with their counts. `different`: those of them whose weights differ. `loops`: nodes with
    self-loops, with their counts. `undeclared`: edges with an undeclared end. `reciprocal`: the graph was
    declared directed, and all its links go both ways with the same weight.
    """

    directed: bool
    weights: Mapping[Pair, Weight]
    parallel: Mapping[Pair, int]
    different: tuple[Pair, ...]
    loops: Mapping[str, int]
    undeclared: tuple[RawEdge, ...]
    reciprocal: bool


def is_directed(raw: RawGraph, edge: RawEdge) -> bool:
    """Return whether an edge goes one way only."""
    return raw.directed if edge.directed is None else edge.directed


def links_of(raw: RawGraph) -> Links:
    """Sort edges into links, parallel edges, self-loops and edges without a node.

    Both directions of an undirected edge, with the same weight, are one link. Of an undirected edge in a directed graph
    each direction is a link.
    """
    declared = {node.id for node in raw.nodes}
    undeclared = []
    loops: Counter[str] = Counter()
    given: dict[Pair, list[Weight]] = {}
    sound = []
    for edge in raw.edges:
        if edge.source not in declared or edge.target not in declared:
            undeclared.append(edge)
        elif edge.source == edge.target:
            loops[edge.source] += 1
        else:
            sound.append(edge)
    directed = any(is_directed(raw, edge) for edge in sound)
    for edge in sound:
        weight = clean_weight(edge.weight)
        given.setdefault((edge.source, edge.target), []).append(weight)
        if directed and not is_directed(raw, edge):
            given.setdefault((edge.target, edge.source), []).append(weight)
    first = {pair: next((w for w in weights if w is not None), None) for pair, weights in given.items()}
    reciprocal = directed and all(first.get((v, u), math.nan) == weight for (u, v), weight in first.items())
    weights = first if directed and not reciprocal else _one_way(first)
    parallel, different = _repeated(given, one_way=not directed)
    return Links(directed and not reciprocal, weights, parallel, different, loops, tuple(undeclared), reciprocal)


def _one_way(first: Mapping[Pair, Weight]) -> dict[Pair, Weight]:
    """Links with each pair of nodes once, as it is given first."""
    once: dict[Pair, Weight] = {}
    for (u, v), weight in first.items():
        if (v, u) not in once:
            once[u, v] = weight
        elif once[v, u] is None:
            once[v, u] = weight
    return once


def _repeated(given: Mapping[Pair, list[Weight]], *, one_way: bool) -> tuple[dict[Pair, int], tuple[Pair, ...]]:
    """Parallel links with their counts, and those of them whose weights differ."""
    parallel: dict[Pair, int] = {}
    different = []
    for (u, v), weights in given.items():
        back = given.get((v, u), []) if one_way else []
        if (v, u) in parallel and one_way:
            continue
        differs = len({*weights, *back}) > 1
        if len(weights) > 1 or len(back) > 1 or (back and differs):
            parallel[u, v] = len(weights) + len(back)
            if differs:
                different.append((u, v))
    return parallel, tuple(different)


def clean_weight(value: object) -> Weight:
    """Weight as a finite float; anything else as text.

    Such text is refused only where the mixing uses weights.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, str) and _HEXADECIMAL.match(value.strip()):  # as graph-tool writes
            number = float.fromhex(value.strip())
        else:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    text = str(value)[:100]
    return "?" if unprintable(text) else text


@dataclass(frozen=True)
class Adjacency:
    """Successors and predecessors of each node, in file order."""

    directed: bool
    successors: Mapping[str, list[str]]
    predecessors: Mapping[str, list[str]]


def adjacency_of(nodes: Iterable[str], links: Links) -> Adjacency:
    """Adjacency lists of the links.

    A networkx graph of a large file takes twenty times the memory.
    """
    successors: dict[str, list[str]] = {node: [] for node in nodes}
    predecessors: dict[str, list[str]] = {node: [] for node in successors}
    for u, v in links.weights:
        successors[u].append(v)
        predecessors[v].append(u)
    return Adjacency(links.directed, successors, predecessors)


def reachable(start: str, *ways: Mapping[str, list[str]]) -> set[str]:
    """Nodes that can be reached from one, itself included, along any of the `ways`."""
    found = {start}
    ahead = [start]
    while ahead:
        node = ahead.pop()
        for way in ways:
            for other in way[node]:
                if other not in found:
                    found.add(other)
                    ahead.append(other)
    return found


def components(graph: Adjacency) -> list[set[str]]:
    """Weakly connected components, in the order of their first nodes."""
    seen: set[str] = set()
    found = []
    for node in graph.successors:
        if node not in seen:
            component = reachable(node, graph.successors, graph.predecessors)
            seen |= component
            found.append(component)
    return found


def strong_components(graph: Adjacency) -> list[set[str]]:
    """Strongly connected components, in the order of their first nodes."""
    directed = nx.DiGraph()
    directed.add_nodes_from(graph.successors)
    directed.add_edges_from((u, v) for u, others in graph.successors.items() for v in others)
    place = {node: i for i, node in enumerate(graph.successors)}
    return sorted(nx.strongly_connected_components(directed), key=lambda found: min(place[node] for node in found))


def largest(found: Iterable[set[str]]) -> set[str]:
    """Component with the most nodes; the first of several."""
    return max(found, key=len)


def in_order(component: Collection[str], graph: Adjacency) -> list[str]:
    """Nodes of a component in file order."""
    return [node for node in graph.successors if node in component]
