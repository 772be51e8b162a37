"""Reachability in a graph: connected components and what a node cannot reach."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import networkx as nx

from p2pfl.topology.links import Links


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
