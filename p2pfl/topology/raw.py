"""A graph as a file declares it, before any check.

Parallel edges, self-loops and undeclared ends are included. Readers make it; `checks`, `graph` and `mend` use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

# What the program uses of a node; colors, positions, times and all else are dropped.
NODE_ATTRIBUTES = ("host", "port", "device", "public_key")
# Where tools write the name that people read, the usual place first.
LABEL_KEYS = ("label", "name", "shared_name", "shared name")


@dataclass(frozen=True)
class RawNode:
    """A declared node. `attributes`: those of `NODE_ATTRIBUTES`, as given."""

    id: str
    label: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RawEdge:
    """An edge in the file's words. `directed` None: as the graph says; some formats say it edge by edge."""

    source: str
    target: str
    weight: object = None
    directed: bool | None = None


@dataclass(frozen=True)
class RawGraph:
    """Nodes and edges in file order; ids are text.

    `notes`: what the reader recognized and a user must know, such as a line read as a header. `format`: its title for
    people. `doubt`: what is to be said too where the graph is disconnected. A node that only an edge mentions is among
    the nodes where the format declares none (edge list, DOT).
    """

    directed: bool
    nodes: tuple[RawNode, ...]
    edges: tuple[RawEdge, ...]
    notes: tuple[str, ...] = ()
    format: str = ""
    doubt: str = ""


def as_label(value: object) -> str | None:
    """The text of a label; None where there is nothing to see."""
    if value is None or isinstance(value, bool | list | dict):
        return None
    text = str(value)
    return text if text.strip() else None


def make_nodes(found: Sequence[tuple[str, Mapping[str, object]]], keys: Sequence[str] = LABEL_KEYS) -> list[RawNode]:
    """Nodes from ids and all that the file says of each; the first of `keys` that any node has is the label's."""
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
    """Nodes less the groups of other nodes at which no edge ends, and a note that names these.

    A drawing's frame around some nodes is no peer. A group that edges end at is one, as a node like any other.
    """
    ends = {end for edge in edges for end in (edge.source, edge.target)}
    containers = set(groups)
    kept = [node for node in nodes if node.id not in containers or node.id in ends]
    frames = [node.label or node.id for node in nodes if node.id in containers and node.id not in ends]
    linked = [node.label or node.id for node in kept if node.id in containers]
    notes = []
    if frames:
        notes.append(f"{_few(frames)} only groups other nodes and is no peer")
    if linked:
        notes.append(f"{_few(linked)} groups other nodes and has edges, so that it is a peer like them")
    return kept, notes


def _few(names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"the node {names[0]!r}{more}"


def make_graph(
    directed: bool, nodes: Iterable[RawNode], edges: Iterable[RawEdge], notes: Iterable[str], title: str
) -> RawGraph:
    """A graph in which only edges that differ from the others say so: undirected ones of a directed graph.

    It is directed where any edge is, or where it has no edges and says that it is.
    """
    listed = list(edges)
    ways = [directed if edge.directed is None else edge.directed for edge in listed]
    whole = any(ways) if ways else directed
    settled = (replace(edge, directed=None if way == whole else way) for edge, way in zip(listed, ways, strict=True))
    return RawGraph(whole, tuple(nodes), tuple(settled), tuple(notes), title)


def merge_directions(edges: Sequence[RawEdge], *, undirected: bool = False) -> tuple[bool, list[RawEdge], list[str]]:
    """Whether edges that say no direction are directed after all, the edges, and notes.

    Edges that say that they are directed stay as they are. Another one given as often in one direction as in the other
    is undirected, and stays as often as in one of them. Where every edge is given in both and weights differ between
    them, the graph can only be a directed one, unless the file says that it is `undirected`.
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
