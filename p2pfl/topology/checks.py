"""All troubles of a graph at once, and what mends each of them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pfl.topology.endpoints import attribute_flaws
from p2pfl.topology.links import Adjacency, Links, adjacency_of, components, in_order, largest, links_of, reached
from p2pfl.topology.naming import MAX_LABEL_BYTES, Naming, few, name_flaw, name_nodes, short, usable_label
from p2pfl.topology.raw import RawGraph

MAX_PEERS = 4096  # one process a peer; the mixing matrix of more would not fit a laptop either
OPTIONS = (
    "--drop-addresses",
    "--drop-self-loops",
    "--merge-parallel",
    "--undirected",
    "--largest-component",
    "--labels names",
    "--labels ids",
)


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong, for people.

    `option`: that of `topology fix` which mends it; None: `text` says what to do by hand.
    """

    text: str
    option: str | None = None


@dataclass(frozen=True)
class Findings:
    """What there is to know of a graph: names, links and troubles; none where it is a topology."""

    naming: Naming
    links: Links
    troubles: tuple[Trouble, ...]


def examine(raw: RawGraph, least: int = 2) -> Findings:
    """Find everything that is wrong with a graph that is to have at least `least` peers."""
    naming, links = name_nodes(raw), links_of(raw)
    if not raw.nodes:
        return Findings(naming, links, (Trouble("the graph is empty; a swarm needs at least 2 peers"),))
    shown = [short(name) for name in naming.names]
    names = dict(zip((node.id for node in raw.nodes), shown, strict=True))
    found = (
        *_duplicate_ids(raw),
        *([] if naming.by_labels else _unusable_names(raw)),
        *(
            Trouble(flaw, "--drop-addresses")
            for flaw in attribute_flaws(shown, [node.attributes for node in raw.nodes])
        ),
        *_edge_troubles(links, names),
        *_size_troubles(adjacency_of(names, links), names, least, raw.doubt),
    )
    return Findings(naming, links, found)


def refusal(source: str, found: Sequence[Trouble], command: str = "") -> str:
    """One line that says all troubles of a graph and, if given, the command that mends those that an option mends."""
    said = f"{source}: {'; '.join(trouble.text for trouble in found)}"
    if not command:
        return said
    if "--drop-addresses" in command:
        said += "; if these are no addresses of peers, drop every host, port, device and public key"
    by_hand = any(trouble.option is None for trouble in found)
    return f"{said}; {'correct by hand what no option mends, then mend' if by_hand else 'mend'} with: {command}"


def fix_command(source: str, options: Collection[str | None], new: Path | None = None) -> str:
    """The `topology fix` with these options, for a shell; empty where there are none. `new`: the file to write."""
    asked = [option for option in OPTIONS if option in options]
    if "--labels names" in asked and "--labels ids" in asked:
        asked.remove("--labels ids")  # some of them cannot be names
    if not asked:
        return ""
    file = Path(source)
    # GraphML holds every graph, whatever the format of the file.
    output = new or file.with_name(f"{file.stem}-fixed.graphml")
    return f"p2pfl topology fix {shlex.quote(source)} -o {shlex.quote(str(output))} {' '.join(asked)}"


def _duplicate_ids(raw: RawGraph) -> list[Trouble]:
    repeated = [(own, count) for own, count in Counter(node.id for node in raw.nodes).items() if count > 1]
    if not repeated:
        return []
    own, count = repeated[0]
    others = [other for other, _ in repeated[1:]]
    more = f" (and others {few(others)})" if others else ""
    return [Trouble(f"duplicate label: {count} nodes have the id {short(own)!r}{more}: give each its own")]


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
                f"the edge {short(edge.source)!r} – {short(edge.target)!r} ends at {short(unknown)!r}, which is not "
                f"among the nodes{more}: declare it or correct the edge"
            )
        )
    if links.loops:
        which = f"self-loop{'s' * (len(links.loops) > 1)} on node{'s' * (len(links.loops) > 1)}"
        found.append(
            Trouble(
                f"{which} {few(names[node] for node in links.loops)} (a peer's own weight is in the mixing matrix "
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
    rest = len(links.parallel) - 1
    more = f" (and {rest} more {'links' if rest > 1 else 'link'})" if rest else ""
    differ = ", with different weights" if links.different else ""
    return f"parallel edges: {names[u]!r} {arrow} {names[v]!r} is given {count} times{differ}{more}"


def _size_troubles(graph: Adjacency, names: dict[str, str], least: int, doubt: str) -> list[Trouble]:
    """Too few or too many peers, and peers that cannot reach each other."""
    n = len(names)
    if n < least:
        return [Trouble("the graph has only one node; a swarm needs at least 2 peers")]
    parts = components(graph)
    main = largest(parts)
    found = []
    if n > MAX_PEERS:
        text = f"the graph has {n} nodes; at most {MAX_PEERS} peers are supported"
        if len(main) <= MAX_PEERS and len(parts) > 1:
            found.append(Trouble(text, "--largest-component"))
        else:
            found.append(Trouble(f"{text}: take a part of it"))
    members = in_order(main, graph)
    if len(main) < 2 <= n:
        found.append(Trouble("the graph is disconnected: no edge joins two nodes; add edges"))
    elif len(parts) > 1:
        text = _unreached([node for node in names if node not in main], members[0], names)
        hint = f" ({doubt})" if doubt else ""
        found.append(Trouble(f"the graph is disconnected: {text}{hint}", "--largest-component"))
    if graph.directed and (text := _one_way(graph, members, names)):
        found.append(Trouble(f"the graph is not strongly connected: {text}", "--undirected"))
    return found


def _one_way(graph: Adjacency, members: Sequence[str], names: dict[str, str]) -> str:
    """Which peers of a connected part get nothing from its first, or give it nothing; empty where there are none."""
    first = members[0]
    there = reached(first, graph.forth)
    if len(there) < len(members):
        return _unreached([node for node in members if node not in there], first, names)
    back = reached(first, graph.back)
    if len(back) < len(members):
        lost = [node for node in members if node not in back]
        return f"{names[first]!r} cannot be reached from {names[lost[0]]!r}{_nor(lost)}"
    return ""


def _unreached(lost: Sequence[str], start: str, names: dict[str, str]) -> str:
    return f"{names[lost[0]]!r}{_nor(lost)} cannot be reached from {names[start]!r}"


def _nor(lost: Sequence[str]) -> str:
    return f" (nor {len(lost) - 1} more)" if len(lost) > 1 else ""
