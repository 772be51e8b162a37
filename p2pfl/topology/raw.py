"""Raw graphs: nodes and edges as a file declares them, before any check.

Parallel edges, self-loops and undeclared ends are included. Readers build it; `checks`, `graph` and `fix` use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

# Attributes of nodes that the program uses; colors, positions, times and all others are dropped.
NODE_ATTRIBUTES: Mapping[str, str] = {
    "host": "Host name or address on which the peer listens; on every node or on none.",
    "port": "Port on which the peer listens, 1 to 65535; on every node or on none.",
    "device": "Device on which the peer trains, such as cuda:0.",
    "public_key": "Public key of the peer, written by `p2pfl keys`.",
}
# Attributes in which tools write the name that people read, the usual one first.
LABEL_KEYS = ("label", "name", "shared_name", "shared name")


@dataclass(frozen=True)
class RawNode:
    """Node as declared. `attributes`: those of `NODE_ATTRIBUTES`, as given."""

    id: str
    label: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RawEdge:
    """Edge as declared.

    `directed`: None means as the graph says; some formats say it edge by edge.
    """

    source: str
    target: str
    weight: object = None
    directed: bool | None = None


@dataclass(frozen=True)
class RawGraph:
    """Nodes and edges in file order; ids are text.

    `notes`: remarks of the reader for the user, such as a line read as a header. `format`: the format's title for
    people. `disconnected_hint`: a possible cause, told where the graph turns out to be disconnected. Formats that
    declare no nodes (edge list, DOT) have the ends of edges as nodes.

    `rounds`: the graphs of a schedule, in the order of the rounds; the nodes are then those of the first, and `edges`
    is empty. `window`: rounds whose graphs together connect the nodes, if the file says so.
    """

    directed: bool
    nodes: tuple[RawNode, ...]
    edges: tuple[RawEdge, ...]
    notes: tuple[str, ...] = ()
    format: str = ""
    disconnected_hint: str = ""
    rounds: tuple[RawGraph, ...] = ()
    window: int | None = None


def as_label(value: object) -> str | None:
    """Text of a label; None where nothing of it is visible."""
    if value is None or isinstance(value, bool | list | dict):
        return None
    text = str(value)
    return text if text.strip() else None


def make_nodes(found: Sequence[tuple[str, Mapping[str, object]]], keys: Sequence[str] = LABEL_KEYS) -> list[RawNode]:
    """Nodes from ids and the attributes of each.

    The first of `keys` that any node has is the key of the labels.
    """
    fields = [(node, {key.casefold(): value for key, value in data.items()} | dict(data)) for node, data in found]
    key = next((key for key in keys if any(as_label(data.get(key)) for _, data in fields)), keys[0])
    return [
        RawNode(
            node,
            as_label(data.get(key)),
            {name: data[name] for name in NODE_ATTRIBUTES if data.get(name) is not None},
        )
        for node, data in fields
    ]


def without_groups(
    nodes: Iterable[RawNode], edges: Iterable[RawEdge], groups: Iterable[str]
) -> tuple[list[RawNode], list[str]]:
    """Drop groups of nodes at which no edge ends; return the nodes left, and notes.

    A drawing's frame around some nodes is not a peer. A group at which edges end is a node like any other.
    """
    ends = {end for edge in edges for end in (edge.source, edge.target)}
    containers = set(groups)
    kept = [node for node in nodes if node.id not in containers or node.id in ends]
    frames = [node.label or node.id for node in nodes if node.id in containers and node.id not in ends]
    linked = [node.label or node.id for node in kept if node.id in containers]
    notes = []
    if frames:
        notes.append(f"{_first_of(frames)} only groups other nodes and is not a peer")
    if linked:
        notes.append(f"{_first_of(linked)} groups other nodes and has edges, so that it is a peer like them")
    return kept, notes


def _first_of(names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"the node {names[0]!r}{more}"


def make_graph(
    directed: bool, nodes: Iterable[RawNode], edges: Iterable[RawEdge], notes: Iterable[str], title: str
) -> RawGraph:
    """Build a raw graph; only undirected edges of a directed graph keep a direction.

    The graph is directed where any edge is, or where it has no edges and is declared `directed`.
    """
    listed = list(edges)
    flags = [directed if edge.directed is None else edge.directed for edge in listed]
    default = any(flags) if flags else directed
    marked = (
        replace(edge, directed=None if flag == default else flag) for edge, flag in zip(listed, flags, strict=True)
    )
    return RawGraph(default, tuple(nodes), tuple(marked), tuple(notes), title)


def merge_directions(edges: Sequence[RawEdge], *, undirected: bool = False) -> tuple[bool, list[RawEdge], list[str]]:
    """Merge the two directions of undirected edges; return (directed, edges, notes).

    Edges declared directed are kept as they are. Another edge that is given as often in one direction as in the other
    is undirected, and is kept as often as in one of them. Where every edge is given in both directions with different
    weights, the graph must be directed, unless the file declares it `undirected`.
    """
    free = [edge for edge in edges if not edge.directed]
    weights: dict[tuple[str, str], list[str]] = {}
    for edge in free:
        weights.setdefault((edge.source, edge.target), []).append(_comparable(edge.weight))
    both = [pair for pair in weights if pair[0] != pair[1] and pair[::-1] in weights]
    equal = {pair for pair in both if sorted(weights[pair]) == sorted(weights[pair[::-1]])}
    differ = len(equal) < len(both) and all(len(weights[pair]) == len(weights[pair[::-1]]) for pair in both)
    silent = not undirected and all(edge.directed is None for edge in edges)
    if differ and silent and len(both) == len(weights):
        return True, list(edges), ["the weights of an edge's two directions differ, so that the graph is directed"]
    kept: dict[tuple[str, str], bool] = {}
    merged = []
    for edge in edges:
        pair = (edge.source, edge.target)
        if not edge.directed and pair in equal and kept.setdefault(pair, pair[::-1] not in kept) is False:
            continue
        merged.append(edge)
    gone = len(edges) - len(merged)
    left = len(free) - gone
    if not 0 < gone < left:
        return False, merged, []
    others = "" if len(free) == len(edges) else " that do not say that they are directed"
    note = f"{gone} of {left} edges{others} are given in both directions; all of these are read as undirected"
    return False, merged, [note]


def _comparable(weight: object) -> str:
    try:
        return repr(float(weight)) if isinstance(weight, int | float | str) else repr(weight)
    except (ValueError, OverflowError):
        return repr(weight)
