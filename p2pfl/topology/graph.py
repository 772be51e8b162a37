"""`Topology`: a connected graph of named peers 0..n−1, checked when it is built."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.topology.checks import MAX_PEERS, examine, fix_command, refusal
from p2pfl.topology.endpoints import node_attributes
from p2pfl.topology.links import RECIPROCAL
from p2pfl.topology.naming import encode, natural
from p2pfl.topology.raw import NODE_ATTRIBUTES, RawEdge, RawGraph, RawNode

__all__ = ["MAX_PEERS", "Topology", "build_topology", "topology_from"]


@dataclass(frozen=True, eq=False)
class Topology:
    """Who talks to whom.

    `graph` has the peers 0..n−1 as nodes, in peer order, with the attributes `host`, `port`, `device` and
    `public_key` where the file gave them, and `weight` on edges; an edge j → i of a directed graph means that
    j sends to i. `names[i]` is peer i's name: the label that the file gives it, or its id. `name` is the file's
    stem, or for a generated topology its kind and size, such as ring-8; `source` is the file's path, or the same
    as the name, and starts every message about it. `notes`: what a user must know of how the file was read.
    """

    graph: nx.Graph | nx.DiGraph
    names: tuple[str, ...]
    name: str
    source: str
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """The number of peers."""
        return len(self.names)

    @property
    def directed(self) -> bool:
        """Whether an edge carries vectors one way only."""
        return bool(self.graph.is_directed())

    @cached_property
    def _lowered(self) -> Counter[str]:
        return Counter(encode(name).lower() for name in self.names)

    def index(self, label: str) -> int:
        """The peer with this label; TopologyError, naming labels that look alike, if there is none."""
        if label in self.names:
            return self.names.index(label)
        near = difflib.get_close_matches(label, self.names, n=3, cutoff=0.5) or self.names[:3]
        hint = ", ".join(repr(name) for name in near)
        raise TopologyError(f"{self.source}: no peer is labeled {label!r}; did you mean one of {hint}?")

    def node_path(self, i: int) -> str:
        """Peer i's label percent-encoded, usable as a file name and different from every other peer's."""
        path = encode(self.names[i])
        # Labels that differ only in case would share a directory where file systems ignore case, as on macOS.
        if self._lowered[path.lower()] > 1:
            path = re.sub(r"%..|[A-Z]", lambda m: m[0] if len(m[0]) > 1 else f"%{ord(m[0]):02X}", path)
        return path


def build_topology(graph: nx.Graph, *, name: str, source: str, least: int = 2) -> Topology:
    """The topology of a networkx graph, whose nodes, as text, are the peers' names.

    `source` (what was to be generated) starts every message. Raises TopologyError as `topology_from` does.
    """
    nodes = tuple(
        RawNode(str(node), attributes={key: data[key] for key in NODE_ATTRIBUTES if key in data})
        for node, data in graph.nodes.items()
    )
    edges = tuple(RawEdge(str(u), str(v), weight) for u, v, weight in graph.edges(data="weight"))
    return topology_from(RawGraph(graph.is_directed(), nodes, edges), name=name, source=source, least=least)


def topology_from(raw: RawGraph, *, name: str, source: str, least: int = 2, mendable: bool = False) -> Topology:
    """Check a graph and number its nodes 0..n−1 in peer order: the names in natural order, '10' after '2'.

    `source` starts every message. Raises TopologyError with all troubles (see `checks`) on one line, which ends with
    the command that mends them where `source` is a `mendable` file.
    """
    findings = examine(raw, least)
    if findings.troubles:
        command = fix_command(source, {trouble.option for trouble in findings.troubles}) if mendable else ""
        raise TopologyError(refusal(source, findings.troubles, command))
    naming, links = findings.naming, findings.links
    ordered = sorted(range(len(raw.nodes)), key=lambda node: natural(naming.names[node]))
    position = {raw.nodes[node].id: i for i, node in enumerate(ordered)}
    graph = nx.DiGraph() if links.directed else nx.Graph()
    for i, node in enumerate(ordered):
        graph.add_node(i, **node_attributes(raw.nodes[node].attributes)[0])
    edges = []
    for (u, v), weight in links.weights.items():
        i, j = position[u], position[v]
        ends = (i, j) if links.directed else (min(i, j), max(i, j))
        edges.append((*ends, {} if weight is None else {"weight": weight}))
    graph.add_edges_from(sorted(edges, key=lambda edge: edge[:2]))
    notes = (*raw.notes, *([RECIPROCAL] * links.reciprocal), *([naming.note] if naming.note else []))
    return Topology(graph, tuple(naming.names[node] for node in ordered), name, source, notes)
