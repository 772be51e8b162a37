"""All troubles of a graph at once, and what mends each of them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx

from p2pfl.topology.attributes import attribute_flaws
from p2pfl.topology.links import Links, links_of
from p2pfl.topology.naming import MAX_LABEL_BYTES, name_flaw, name_nodes, some, usable_label
from p2pfl.topology.raw import RawGraph

MAX_PEERS = 4096  # one process a peer; the mixing matrix of more would not fit a laptop either
OPTIONS = ("--drop-self-loops", "--merge-parallel", "--undirected", "--largest-component", "--labels names")


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong, for people.

    `option`: that of `topology fix` which mends it; None: `text` says what to do by hand.
    """

    text: str
    option: str | None = None


def troubles(raw: RawGraph, least: int = 2) -> tuple[Trouble, ...]:
    """Everything that is wrong with a graph that is to have at least `least` peers; none where it is a topology."""
    if not raw.nodes:
        return (Trouble("the graph is empty; a swarm needs at least 2 peers"),)
    naming = name_nodes(raw)
    names = dict(zip((node.id for node in raw.nodes), naming.names, strict=True))
    links = links_of(raw)
    return (
        *_duplicate_ids(raw),
        *([] if naming.by_labels else _unusable_names(raw)),
        *(Trouble(flaw) for flaw in attribute_flaws(naming.names, [node.attributes for node in raw.nodes])),
        *_edge_troubles(links, names),
        *_size_troubles(_graph(raw, links), names, least),
    )


def refusal(source: str, found: Sequence[Trouble], command: str = "") -> str:
    """One line that says all troubles of a graph and, if given, the command that mends those that an option mends."""
    said = f"{source}: {'; '.join(trouble.text for trouble in found)}"
    if not command:
        return said
    by_hand = any(trouble.option is None for trouble in found)
    return f"{said}; {'correct by hand what no option mends, then mend' if by_hand else 'mend'} with: {command}"


def fix_command(source: str, options: Collection[str | None], new: Path | None = None) -> str:
    """The `topology fix` with these options, for a shell; empty where there are none. `new`: the file to write."""
    asked = [option for option in OPTIONS if option in options]
    if not asked:
        return ""
    file = Path(source)
    # GraphML holds every graph, whatever the format of the file.
    output = new or file.with_name(f"{file.stem}-fixed.graphml")
    return f"p2pfl topology fix {shlex.quote(source)} -o {shlex.quote(str(output))} {' '.join(asked)}"


def component_nodes(raw: RawGraph, links: Links) -> list[str]:
    """The ids of the largest (strongly) connected component; of several, that of the first node in the file."""
    graph = _graph(raw, links)
    place = {node: i for i, node in enumerate(graph)}
    found = nx.strongly_connected_components(graph) if links.directed else nx.connected_components(graph)
    largest = max(found, key=lambda nodes: (len(nodes), -min(place[node] for node in nodes)))
    return sorted(largest, key=place.__getitem__)


def _graph(raw: RawGraph, links: Links) -> nx.Graph:
    graph = nx.DiGraph() if links.directed else nx.Graph()
    graph.add_nodes_from(node.id for node in raw.nodes)
    graph.add_edges_from(links.weights)
    return graph


def _duplicate_ids(raw: RawGraph) -> list[Trouble]:
    repeated = [(own, count) for own, count in Counter(node.id for node in raw.nodes).items() if count > 1]
    if not repeated:
        return []
    own, count = repeated[0]
    others = [other for other, _ in repeated[1:]]
    more = f" (and others {some(others)})" if others else ""
    return [Trouble(f"duplicate label: {count} nodes have the id {own!r}{more}: give each its own")]


def _unusable_names(raw: RawGraph) -> list[Trouble]:
    """Ids that cannot be names, where the names are not the labels: a label may do instead."""
    remedies = {
        "is empty": "give every peer a visible one",
        "contains control characters": "use printable text",
        "is too long": f"keep it under {MAX_LABEL_BYTES} bytes when percent-encoded, because it names a directory",
    }
    flawed: dict[str, list[str]] = {}
    mendable: dict[str, bool] = {}
    for node in raw.nodes:
        flaw = name_flaw(node.id)
        if flaw is not None:
            flawed.setdefault(flaw, []).append(node.id)
            mendable[flaw] = mendable.get(flaw, True) and usable_label(node.label) is not None
    found = []
    for flaw, ids in flawed.items():
        shown = ascii(ids[0][:20]) + ("…" if len(ids[0]) > 20 else "")
        more = f" ({len(ids) - 1} more too)" if len(ids) > 1 else ""
        what = "a node has an empty label" if flaw == "is empty" else f"the label {shown} {flaw}"
        option = "--labels names" if mendable[flaw] else None
        found.append(Trouble(f"{what}{more}: {remedies[flaw]}", option))
    return found


def _edge_troubles(links: Links, names: dict[str, str]) -> list[Trouble]:
    found = []
    if links.undeclared:
        edge = links.undeclared[0]
        unknown = edge.target if edge.source in names else edge.source
        more = f" ({len(links.undeclared) - 1} more such edges)" if len(links.undeclared) > 1 else ""
        found.append(
            Trouble(
                f"the edge {edge.source[:60]!r} – {edge.target[:60]!r} ends at {unknown[:60]!r}, which is not among "
                f"the nodes{more}: declare it or correct the edge"
            )
        )
    if links.loops:
        which = f"self-loop{'s' * (len(links.loops) > 1)} on node{'s' * (len(links.loops) > 1)}"
        found.append(
            Trouble(
                f"{which} {some(names[node] for node in links.loops)} (a peer's own weight is in the mixing matrix "
                "already)",
                "--drop-self-loops",
            )
        )
    if links.parallel:
        found.append(Trouble(_parallel_text(links, names), "--merge-parallel"))
    return found


def _parallel_text(links: Links, names: dict[str, str]) -> str:
    arrow = "->" if links.directed or links.reciprocal else "--"
    (u, v), count = next(iter(links.parallel.items()))
    more = f" (and {len(links.parallel) - 1} more links)" if len(links.parallel) > 1 else ""
    differ = ", with different weights" if links.different else ""
    return f"parallel edges: {names[u]!r} {arrow} {names[v]!r} is given {count} times{differ}{more}"


def _size_troubles(graph: nx.Graph, names: dict[str, str], least: int) -> list[Trouble]:
    """Too few or too many peers, and peers that cannot reach each other."""
    n = len(names)
    if n < least:
        return [Trouble("the graph has only one node; a swarm needs at least 2 peers")]
    parts = list(nx.weakly_connected_components(graph) if graph.is_directed() else nx.connected_components(graph))
    place = {node: i for i, node in enumerate(names)}
    largest = max(parts, key=lambda nodes: (len(nodes), -min(place[node] for node in nodes)))
    found = []
    if n > MAX_PEERS:
        smaller = len(largest) <= MAX_PEERS and len(parts) > 1
        text = f"the graph has {n} nodes; at most {MAX_PEERS} peers are supported"
        found.append(Trouble(text if smaller else f"{text}: take a part of it", "--largest-component" * smaller or None))
    one_way = graph.is_directed() and not nx.is_strongly_connected(graph.subgraph(largest))
    if len(parts) > 1:
        lost = [names[node] for node in names if node not in largest]
        if len(largest) < 2:
            found.append(Trouble("the graph is disconnected: no edge joins two nodes; add edges"))
        else:
            text = f"the graph is disconnected: {_lost(lost, names[min(largest, key=place.__getitem__)])}"
            found.append(Trouble(text, "--largest-component"))
    if one_way:
        found.append(Trouble(f"the graph is not strongly connected: {_one_way(graph, largest, names)}", "--undirected"))
    return found


def _lost(lost: Sequence[str], start: str) -> str:
    more = f" (nor {len(lost) - 1} more)" if len(lost) > 1 else ""
    return f"{lost[0]!r}{more} cannot be reached from {start!r}"


def _one_way(graph: nx.DiGraph, part: set[str], names: dict[str, str]) -> str:
    """Which peers of a weakly connected part get nothing from its first, or give it nothing."""
    members = [node for node in names if node in part]
    first = members[0]
    reached = {first} | nx.descendants(graph, first)
    if len(reached) < len(members):
        return _lost([names[node] for node in members if node not in reached], names[first])
    reaching = {first} | nx.ancestors(graph, first)
    lost = [names[node] for node in members if node not in reaching]
    more = f" (nor {len(lost) - 1} more)" if len(lost) > 1 else ""
    return f"{names[first]!r} cannot be reached from {lost[0]!r}{more}"
