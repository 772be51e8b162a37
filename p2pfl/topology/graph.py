"""`Topology`: a connected graph of named peers 0..n−1, checked when built."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.topology.checks import MAX_PEERS, check_graph, check_schedule, describe_problems, fix_command
from p2pfl.topology.endpoints import node_attributes
from p2pfl.topology.links import RECIPROCAL, Links
from p2pfl.topology.naming import Naming, natural_key, percent_encode
from p2pfl.topology.raw import NODE_ATTRIBUTES, RawEdge, RawGraph, RawNode

__all__ = ["MAX_PEERS", "Topology", "build_schedule", "build_topology", "topology_from"]


@dataclass(frozen=True, eq=False)
class Topology:
    """Communication graph of named peers.

    `graph`: the peers 0..n−1 as nodes, in peer order, with the attributes `host`, `port`, `device` and `public_key`
    where the file gave them, and `weight` on edges; an edge j → i of a directed graph means that j sends to i.
    `names[i]`: peer i's label in the file, or its id. `name`: the file's stem, or a generated topology's kind and
    size, such as ring-8. `source`: the file's path, or the same as the name; it starts every message about the
    topology. `notes`: remarks for the user on how the file was read.

    `rounds`: of a schedule the graphs by round, which repeat after the last; empty where one graph is for all rounds.
    `graph` is then their union, without weights. `window`: rounds whose graphs together connect the peers, as the
    file says; by default all.
    """

    graph: nx.Graph | nx.DiGraph
    names: tuple[str, ...]
    name: str
    source: str
    notes: tuple[str, ...] = ()
    rounds: tuple[nx.Graph | nx.DiGraph, ...] = ()
    window: int | None = None

    @property
    def n(self) -> int:
        """Number of peers."""
        return len(self.names)

    @property
    def directed(self) -> bool:
        """True where edges carry vectors one way only."""
        return bool(self.graph.is_directed())

    @property
    def is_schedule(self) -> bool:
        """True where each round has its own graph."""
        return bool(self.rounds)

    @property
    def by_round(self) -> tuple[Topology, ...]:
        """Topologies of the single rounds, which need not be connected; or only itself."""
        if not self.rounds:
            return (self,)
        total = len(self.rounds)
        return tuple(
            replace(self, graph=graph, source=f"{self.source}: graph {number} of {total}", rounds=(), notes=())
            for number, graph in enumerate(self.rounds, start=1)
        )

    @cached_property
    def _lowered(self) -> Counter[str]:
        return Counter(percent_encode(name).lower() for name in self.names)

    def index(self, label: str) -> int:
        """Peer of this label. Raises TopologyError, which names similar labels."""
        if label in self.names:
            return self.names.index(label)
        near = difflib.get_close_matches(label, self.names, n=3, cutoff=0.5) or self.names[:3]
        hint = ", ".join(repr(name) for name in near)
        raise TopologyError(f"{self.source}: no peer is labeled {label!r}; did you mean one of {hint}?")

    def node_path(self, i: int) -> str:
        """File name of peer i: its label percent-encoded, unique among the peers."""
        path = percent_encode(self.names[i])
        # Labels that differ only in case would share a directory where file systems ignore case, as on macOS.
        if self._lowered[path.lower()] > 1:
            path = re.sub(r"%..|[A-Z]", lambda m: m[0] if len(m[0]) > 1 else f"%{ord(m[0]):02X}", path)
        return path


def build_topology(graph: nx.Graph, *, name: str, source: str, least: int = 2) -> Topology:
    """Topology of a networkx graph; its nodes, as text, are the names of the peers.

    `source` (what was to be generated) starts every message. Raises TopologyError as `topology_from` does.
    """
    return topology_from(_raw_of(graph), name=name, source=source, least=least)


def build_schedule(graphs: Sequence[nx.Graph], *, name: str, source: str) -> Topology:
    """Schedule of graphs with the same nodes, one a round; see `build_topology`."""
    rounds = tuple(map(_raw_of, graphs))
    return topology_from(RawGraph(False, rounds[0].nodes, (), rounds=rounds), name=name, source=source)


def _raw_of(graph: nx.Graph) -> RawGraph:
    nodes = tuple(
        RawNode(str(node), attributes={key: data[key] for key in NODE_ATTRIBUTES if key in data})
        for node, data in graph.nodes.items()
    )
    edges = tuple(RawEdge(str(u), str(v), weight) for u, v, weight in graph.edges(data="weight"))
    return RawGraph(graph.is_directed(), nodes, edges)


def topology_from(raw: RawGraph, *, name: str, source: str, least: int = 2, is_fixable: bool = False) -> Topology:
    """Check a raw graph and number its nodes 0..n−1 in peer order.

    Peer order is the natural order of the names, '10' after '2'. `source` starts every message. Raises TopologyError
    with all problems (see `checks`) on one line, which ends with the `topology fix` command that fixes them where
    `source` is a file (`is_fixable`).
    """
    if raw.rounds:
        return _schedule_from(raw, name, source, least)
    findings = check_graph(raw, least)
    if findings.problems:
        command = fix_command(source, {problem.option for problem in findings.problems}) if is_fixable else ""
        raise TopologyError(describe_problems(source, findings.problems, command))
    naming, links = findings.naming, findings.links
    ordered = _in_peer_order(raw, naming)
    notes = (*raw.notes, *([RECIPROCAL] * links.reciprocal), *([naming.note] if naming.note else []))
    names = tuple(naming.names[node] for node in ordered)
    return Topology(_graph_of(raw, links, ordered), names, name, source, notes)


def _schedule_from(raw: RawGraph, name: str, source: str, least: int) -> Topology:
    """Topology of a schedule: its graphs by round, and their union."""
    findings = check_schedule(raw, least)
    if findings.problems:
        text = describe_problems(source, findings.problems)
        raise TopologyError(text, remedy="`topology fix` repairs single graphs only: correct the schedule by hand")
    naming = findings.naming
    ordered = _in_peer_order(raw, naming)
    graphs = tuple(_graph_of(raw, links, ordered) for links in findings.rounds)
    notes = (*raw.notes, *([naming.note] if naming.note else []))
    names = tuple(naming.names[node] for node in ordered)
    return Topology(_graph_of(raw, findings.links, ordered), names, name, source, notes, graphs, raw.window)


def _in_peer_order(raw: RawGraph, naming: Naming) -> list[int]:
    """Places of the nodes in the file, in the natural order of their names."""
    return sorted(range(len(raw.nodes)), key=lambda node: natural_key(naming.names[node]))


def _graph_of(raw: RawGraph, links: Links, ordered: list[int]) -> nx.Graph | nx.DiGraph:
    """Graph of numbered peers with their attributes."""
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
    return graph
