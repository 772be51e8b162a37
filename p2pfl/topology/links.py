"""Links of a raw graph, with repeated edges, self-loops and the like set aside."""

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
    """The edges of a graph by their ends' ids, in file order, with the first weight given.

    `directed`: whether a link carries vectors one way only; otherwise each pair of nodes stands here once. `parallel`:
    how often a link is given, where that is too often. `loops`: how often each node has one. `undeclared`: edges with
    an end that is no node. `reciprocal`: a directed graph whose links all go both ways with the same weight.
    """

    directed: bool
    weights: Mapping[Pair, Weight]
    parallel: Mapping[Pair, int]
    different: tuple[Pair, ...]
    loops: Mapping[str, int]
    undeclared: tuple[RawEdge, ...]
    reciprocal: bool


def is_directed(raw: RawGraph, edge: RawEdge) -> bool:
    """Whether an edge goes one way only."""
    return raw.directed if edge.directed is None else edge.directed


def links_of(raw: RawGraph) -> Links:
    """Sort the edges of a graph: links, repeated ones, self-loops, and those that end nowhere.

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
    """Each pair of nodes once, as it is given first."""
    once: dict[Pair, Weight] = {}
    for (u, v), weight in first.items():
        if (v, u) not in once:
            once[u, v] = weight
        elif once[v, u] is None:
            once[v, u] = weight
    return once


def _repeated(given: Mapping[Pair, list[Weight]], *, one_way: bool) -> tuple[dict[Pair, int], tuple[Pair, ...]]:
    """Links that are given too often, and those among them that are given with different weights."""
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
    """A finite number as float; anything else as its text, to be refused only if weights are asked for."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        if isinstance(value, str) and _HEXADECIMAL.match(value.strip()):  # what graph-tool writes
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
    """Where the links of a graph lead, by node in file order; `back`: against their directions."""

    directed: bool
    forth: Mapping[str, list[str]]
    back: Mapping[str, list[str]]


def adjacency_of(nodes: Iterable[str], links: Links) -> Adjacency:
    """The links by their ends: lists, since a networkx graph of a large file takes twenty times the memory."""
    forth: dict[str, list[str]] = {node: [] for node in nodes}
    back: dict[str, list[str]] = {node: [] for node in forth}
    for u, v in links.weights:
        forth[u].append(v)
        back[v].append(u)
    return Adjacency(links.directed, forth, back)


def reached(start: str, *ways: Mapping[str, list[str]]) -> set[str]:
    """The nodes that can be reached from one, itself included."""
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
    """The connected components, of a directed graph the weakly connected ones, in the order of their first nodes."""
    seen: set[str] = set()
    parts = []
    for node in graph.forth:
        if node not in seen:
            part = reached(node, graph.forth, graph.back)
            seen |= part
            parts.append(part)
    return parts


def strong_components(graph: Adjacency) -> list[set[str]]:
    """The strongly connected components of a directed graph, in the order of their first nodes."""
    directed = nx.DiGraph()
    directed.add_nodes_from(graph.forth)
    directed.add_edges_from((u, v) for u, others in graph.forth.items() for v in others)
    place = {node: i for i, node in enumerate(graph.forth)}
    return sorted(nx.strongly_connected_components(directed), key=lambda part: min(place[node] for node in part))


def largest(parts: Iterable[set[str]]) -> set[str]:
    """The part with the most nodes; the first of several."""
    return max(parts, key=len)


def in_order(part: Collection[str], graph: Adjacency) -> list[str]:
    """The nodes of a part in file order."""
    return [node for node in graph.forth if node in part]
