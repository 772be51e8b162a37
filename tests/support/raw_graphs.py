"""Raw graphs for tests, from a short notation."""

from __future__ import annotations

from p2pfl.topology.raw import RawEdge, RawGraph, RawNode


def raw_graph(edges: str, *, directed: bool = False, nodes: str = "", **labels: str) -> RawGraph:
    """Graph of nodes named by one character.

    An edge may have a weight, as in ab:0.5, and say its direction: a>b, a-b.
    """
    read = []
    for text in edges.split():
        pair, _, weight = text.partition(":")
        ways = {">": True, "-": False}
        read.append(RawEdge(pair[0], pair[-1], weight or None, ways.get(pair[1])))
    ids = nodes or sorted({end for edge in read for end in (edge.source, edge.target)})
    return RawGraph(directed, tuple(RawNode(own, labels.get(own)) for own in ids), tuple(read))
