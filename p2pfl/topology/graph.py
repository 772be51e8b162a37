"""What a topology is: a connected graph of peers 0..n−1 with their labels, checked once when it is built."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import networkx as nx

from p2pfl.errors import TopologyError

MAX_PEERS = 4096  # one process a peer; the mixing matrix of more would not fit a laptop either
MAX_LABEL_BYTES = 200  # percent-encoded: a path component is limited to 255 bytes
TEXT_ATTRIBUTES = ("host", "device", "public_key", "label")


@dataclass(frozen=True, eq=False)
class Topology:
    """Who talks to whom.

    `graph` has the peers 0..n−1 as nodes, in peer order, with the attributes `host`, `port`, `device`,
    `public_key` and `label` where the file gave them, and `weight` on edges; an edge j → i of a directed
    graph means that j sends to i. `names[i]` is the label that the file gives peer i. `name` is the file's
    stem, or for a generated topology its kind and size, such as ring-8; `source` is the file's path, or the same
    as the name, and starts every message about it.
    """

    graph: nx.Graph | nx.DiGraph
    names: tuple[str, ...]
    name: str
    source: str

    @property
    def n(self) -> int:
        """The number of peers."""
        return len(self.names)

    @property
    def directed(self) -> bool:
        """Whether an edge carries vectors one way only."""
        return bool(self.graph.is_directed())

    def index(self, label: str) -> int:
        """The peer with this label; TopologyError, naming labels that look alike, if there is none."""
        if label in self.names:
            return self.names.index(label)
        near = difflib.get_close_matches(label, self.names, n=3, cutoff=0.5) or self.names[:3]
        hint = ", ".join(repr(name) for name in near)
        raise TopologyError(f"{self.source}: no peer is labeled {label!r}; did you mean one of {hint}?")

    def node_path(self, i: int) -> str:
        """Peer i's label percent-encoded, usable as a file name and different from every other peer's."""
        path = _encode(self.names[i])
        # Labels that differ only in case would share a directory where file systems ignore case, as on macOS.
        if sum(_encode(name).lower() == path.lower() for name in self.names) > 1:
            path = re.sub(r"%..|[A-Z]", lambda m: m[0] if len(m[0]) > 1 else f"%{ord(m[0]):02X}", path)
        return path


def build_topology(
    graph: nx.Graph, *, name: str, source: str, labels: Mapping[Hashable, object] | None = None, least: int = 2
) -> Topology:
    """Check `graph` and relabel its nodes 0..n−1 in peer order: natural order, '10' after '2'.

    `labels` maps nodes to the peers' names where these are not the nodes themselves; `source` (a file, or
    what was to be generated) starts every message. Raises TopologyError for fewer than `least` nodes, too
    many, labels that cannot be told apart, parallel edges, self-loops, a graph that is not (strongly)
    connected, and unusable `host`, `port`, `device` or `public_key` attributes.
    """
    text = {node: str((labels or {}).get(node, node)) for node in graph}
    _check_size(len(text), source, least)
    _check_labels(text.values(), source)
    ordered = sorted(graph, key=lambda node: _natural(text[node]))
    position = {node: i for i, node in enumerate(ordered)}
    names = tuple(text[node] for node in ordered)
    check_parallel(((text[u], text[v]) for u, v in graph.edges()), graph.is_directed(), source)

    clean = nx.DiGraph() if graph.is_directed() else nx.Graph()
    for i, node in enumerate(ordered):
        clean.add_node(i, **_node_attributes(graph.nodes[node], names[i], source))
    edges = []
    for u, v, data in graph.edges(data=True):
        i, j = position[u], position[v]
        ends = (i, j) if graph.is_directed() else (min(i, j), max(i, j))
        edges.append((*ends, {"weight": _weight(data["weight"])} if data.get("weight") is not None else {}))
    clean.add_edges_from(sorted(edges, key=lambda edge: edge[:2]))

    _check_loops(clean, names, source)
    _check_connected(clean, names, source)
    _check_endpoints(clean, names, source)
    return Topology(clean, names, name, source)


def check_parallel(edges: Iterable[tuple[str, str]], directed: bool, source: str) -> None:
    """Refuse an edge, given by its ends' labels, that occurs twice."""
    counts = Counter(edge if directed else tuple(sorted(edge)) for edge in edges)
    for (u, v), count in counts.items():
        if count > 1:
            arrow = "->" if directed else "--"
            raise TopologyError(
                f"{source}: parallel edges: {u!r} {arrow} {v!r} is given {count} times; keep one"
                + ("" if directed else " (a graph with directions belongs in a directed .graphml)")
            )


def _encode(label: str) -> str:
    return label.replace(".", "%2E") if label in (".", "..") else quote(label, safe="")


def _natural(label: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    parts = re.findall(r"[0-9]+|[^0-9]+", label)
    return tuple((0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts), label


def _check_size(n: int, source: str, least: int) -> None:
    if n == 0:
        raise TopologyError(f"{source}: the graph is empty; a swarm needs at least 2 peers")
    if n < least:
        raise TopologyError(f"{source}: the graph has only one node; a swarm needs at least 2 peers")
    if n > MAX_PEERS:
        raise TopologyError(f"{source}: the graph has {n} nodes; at most {MAX_PEERS} peers are supported")


def _unprintable(text: str) -> bool:
    # Control characters, lone surrogates and line separators survive neither XML nor a terminal.
    return any(c in "\ufeff\ufffe\uffff" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def _check_labels(labels: Iterable[str], source: str) -> None:
    for label, count in Counter(labels).items():
        if count > 1:
            raise TopologyError(
                f"{source}: duplicate label: {count} nodes are labeled {label!r}; peers need different labels"
            )
        if not label.strip():
            raise TopologyError(f"{source}: a node has an empty label; give every peer a visible one")
        if _unprintable(label):
            raise TopologyError(f"{source}: the label {label!a} contains control characters; use printable text")
        if len(_encode(label)) > MAX_LABEL_BYTES:
            raise TopologyError(
                f"{source}: the label {label[:20]!r}… is too long; keep it under {MAX_LABEL_BYTES} "
                "bytes when percent-encoded, because it names a directory"
            )


def _node_attributes(data: Mapping[str, object], label: str, source: str) -> dict[str, object]:
    """The attributes that mean something here; others (positions, colors, …) are dropped."""
    kept: dict[str, object] = {}
    if data.get("port") is not None:
        kept["port"] = _port(data["port"], label, source)
    for key in TEXT_ATTRIBUTES:
        value = data.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if key == "label":
            value = str(value)
            if value == label or _unprintable(value):  # GEXF always repeats the id as the label
                continue
        spaced = isinstance(value, str) and key == "host" and any(c.isspace() for c in value)
        if not isinstance(value, str) or _unprintable(value) or spaced:
            raise TopologyError(
                f"{source}: {key} {value!r} of node {label!r} must be printable text"
                + (" without spaces: a host name or an address" if key == "host" else "")
            )
        kept[key] = value
    return kept


def _port(value: object, label: str, source: str) -> int:
    # GraphML without attr.type and many editors store numbers as text.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise TopologyError(f"{source}: port {value!r} of node {label!r} must be an integer from 1 to 65535")
    return value


def _weight(value: object) -> float | str:
    """A finite number as float; anything else as its text, to be refused only if weights are asked for."""
    try:
        number = float(value) if isinstance(value, int | float | str) and value is not True else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number) and not isinstance(value, bool):
        return number
    text = str(value)[:100]
    return "?" if _unprintable(text) or not text.strip() else text


def _check_loops(graph: nx.Graph, names: tuple[str, ...], source: str) -> None:
    for i in graph.nodes:
        if graph.has_edge(i, i):
            raise TopologyError(
                f"{source}: self-loop on node {names[i]!r}; remove that edge, "
                "a peer's own weight is in the mixing matrix already"
            )


def _check_connected(graph: nx.Graph, names: tuple[str, ...], source: str) -> None:
    reached = {0} | nx.descendants(graph, 0)
    if len(reached) < len(names):
        lost = sorted(set(graph) - reached)
        word = "not strongly connected" if graph.is_directed() else "disconnected"
        raise TopologyError(
            f"{source}: the graph is {word}: {names[lost[0]]!r}{_others(len(lost) - 1)} cannot be reached "
            f"from {names[0]!r}; add edges"
        )
    if graph.is_directed():
        lost = sorted(set(graph) - {0} - nx.ancestors(graph, 0))
        if lost:
            raise TopologyError(
                f"{source}: the graph is not strongly connected: {names[0]!r} cannot be reached from "
                f"{names[lost[0]]!r}{_others(len(lost) - 1)}; add edges"
            )


def _others(count: int) -> str:
    return "" if count == 0 else f" (nor {count} more)"


def _check_endpoints(graph: nx.Graph, names: tuple[str, ...], source: str) -> None:
    having = [i for i, data in graph.nodes.items() if "host" in data and "port" in data]
    partial = [i for i, data in graph.nodes.items() if ("host" in data) != ("port" in data)]
    if partial or 0 < len(having) < len(names):
        without = partial[0] if partial else min(set(graph) - set(having))
        missing = " and ".join(key for key in ("host", "port") if key not in graph.nodes[without])
        raise TopologyError(
            f"{source}: node {names[without]!r} has no {missing}; give host and port on every node or on none"
        )
    seen: dict[tuple[str, int], int] = {}
    for i in having:
        endpoint = (graph.nodes[i]["host"].lower(), graph.nodes[i]["port"])
        if endpoint in seen:
            raise TopologyError(
                f"{source}: nodes {names[seen[endpoint]]!r} and {names[i]!r} both listen on "
                f"{endpoint[0]}:{endpoint[1]}; give each its own port"
            )
        seen[endpoint] = i
