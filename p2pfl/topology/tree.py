"""Spanning tree of a topology, along which sums are relayed."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.topology.graph import Topology


def spanning_tree(topology: Topology) -> Topology:
    """Breadth-first spanning tree from a peer in the middle; its diameter is small.

    The middle of a longest shortest path that two sweeps find; exact where the topology is a tree already. The same
    for the same topology. Raises TopologyError for a directed one.
    """
    if topology.directed:
        raise TopologyError(f"{topology.source}: sums are relayed in both directions; make the graph undirected")
    path = _longest_path(topology.graph)
    found = nx.Graph()
    found.add_nodes_from(sorted(topology.graph.nodes(data=True)))
    found.add_edges_from(nx.bfs_edges(topology.graph, path[len(path) // 2], sort_neighbors=sorted))
    return replace(topology, graph=found)


def diameter(tree: Topology) -> int:
    """Longest distance of two peers of a tree, in edges."""
    return len(_longest_path(tree.graph)) - 1


def _longest_path(graph: nx.Graph) -> list[int]:
    """Longest path that two breadth-first sweeps find; the longest of a tree."""
    start = min(graph.nodes)
    for _ in range(2):
        paths = nx.single_source_shortest_path(graph, start)
        start, path = max(paths.items(), key=lambda item: (len(item[1]), -item[0]))
    return list(path)
