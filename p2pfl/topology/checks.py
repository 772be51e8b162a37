"""Validation of a raw graph: all problems at once, each with its remedy."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2pfl.topology.endpoints import attribute_flaws
from p2pfl.topology.links import Adjacency, Links, adjacency_of, components, in_order, largest, links_of, reachable
from p2pfl.topology.naming import MAX_LABEL_BYTES, Naming, few, name_flaw, name_nodes, shorten, usable_label
from p2pfl.topology.raw import RawEdge, RawGraph
from p2pfl.util.units import counted

_SHOWN = 3  # problems of single graphs of a schedule that are described
MAX_PEERS = 4096  # one process a peer; the mixing matrix of more would not fit a laptop either
MAX_ENTRIES = 2**27  # of all mixing matrices of a schedule, each process having them: 1 GiB
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
class Problem:
    """One problem of a graph, described for people.

    `option`: the option of `topology fix` that fixes it; None: `text` says what to do by hand.
    """

    text: str
    option: str | None = None


@dataclass(frozen=True)
class CheckedGraph:
    """Names, links and problems of a graph; a topology has no problems."""

    naming: Naming
    links: Links
    problems: tuple[Problem, ...]


def check_graph(raw: RawGraph, least: int = 2, what: str = "the graph") -> CheckedGraph:
    """Find all problems of a graph that must have at least `least` peers.

    `what` names the graph in messages on its connectivity.
    """
    naming, links = name_nodes(raw), links_of(raw)
    if not raw.nodes:
        return CheckedGraph(naming, links, (Problem("the graph is empty; a swarm needs at least 2 peers"),))
    shown = [shorten(name) for name in naming.names]
    names = dict(zip((node.id for node in raw.nodes), shown, strict=True))
    found = (
        *_duplicate_ids(raw),
        *([] if naming.by_labels else _unusable_names(raw)),
        *(
            Problem(flaw, "--drop-addresses")
            for flaw in attribute_flaws(shown, [node.attributes for node in raw.nodes])
        ),
        *_edge_problems(links, names),
        *_connectivity(raw, links, names, least, what),
    )
    return CheckedGraph(naming, links, found)


@dataclass(frozen=True)
class CheckedSchedule:
    """Names, links of all rounds together and of each, and problems of a schedule."""

    naming: Naming
    links: Links
    rounds: tuple[Links, ...]
    problems: tuple[Problem, ...]


def check_schedule(raw: RawGraph, least: int = 2) -> CheckedSchedule:
    """Find all problems of a schedule, whose graphs need be connected only together."""
    rounds = tuple(links_of(one) for one in raw.rounds)
    directed = any(links.directed for links in rounds)
    pairs = dict.fromkeys(pair for links in rounds for pair in _pairs(links, directed))
    union = RawGraph(directed, raw.nodes, tuple(RawEdge(u, v) for u, v in pairs))
    found = check_graph(union, least, what=f"the union of the {len(rounds)} graphs")
    names = {node.id: shorten(name) for node, name in zip(raw.nodes, found.naming.names, strict=True)}
    edges = [(number, problem) for number, links in enumerate(rounds, 1) for problem in _edge_problems(links, names)]
    alone = [Problem(f"graph {number}: {problem.text}") for number, problem in edges]
    problems = [*found.problems, *_other_nodes(raw), *_listed(alone)]
    if len(raw.nodes) ** 2 * len(rounds) > MAX_ENTRIES:
        text = f"{len(rounds)} graphs of {len(raw.nodes)} peers are more than one process can hold as mixing matrices"
        problems.append(Problem(f"{text} ({MAX_ENTRIES:,} numbers); list fewer graphs"))
    if not problems and raw.window is not None:
        problems += _window_problems(rounds, names, raw.window)
    return CheckedSchedule(found.naming, found.links, rounds, tuple(problems))


def _pairs(links: Links, directed: bool) -> list[tuple[str, str]]:
    """Pairs of a graph's links, which are those of a union that is directed or not."""
    if not directed:
        return [(min(u, v), max(u, v)) for u, v in links.weights]
    back = [] if links.directed else [(v, u) for u, v in links.weights]
    return [*links.weights, *back]


def _other_nodes(raw: RawGraph) -> list[Problem]:
    """Graphs whose nodes, labels or attributes are not those of the first."""
    first = {node.id: node for node in raw.nodes}
    found = []
    for number, one in enumerate(raw.rounds[1:], start=2):
        own = {node.id: node for node in one.nodes}
        more, lacking = [n for n in own if n not in first], [n for n in first if n not in own]
        if more or lacking:
            what = f"has the node {shorten(more[0])!r}" if more else f"lacks the node {shorten(lacking[0])!r}"
            found.append(Problem(f"graph {number} {what}, unlike graph 1: all graphs need the same nodes"))
            continue
        for node in one.nodes:
            ours = first[node.id]
            differ = [key for key, value in node.attributes.items() if ours.attributes.get(key) != value]
            differ += ["label"] * (node.label is not None and node.label != ours.label)
            if differ:
                text = f"graph {number}: {differ[0]} of node {shorten(node.id)!r} is not that of graph 1"
                found.append(Problem(f"{text}: give it once, in the first graph"))
                break
    return _listed(found)


def _listed(found: Sequence[Problem]) -> list[Problem]:
    """The first few problems of a schedule's graphs, and the number of the others."""
    rest = len(found) - _SHOWN
    return [*found[:_SHOWN], *([Problem(f"{rest} more problems of single graphs")] if rest > 0 else [])]


def _window_problems(rounds: Sequence[Links], names: dict[str, str], window: int) -> list[Problem]:
    """The first window whose graphs together do not connect the peers."""
    directed = any(links.directed for links in rounds)
    for start in range(len(rounds) if window < len(rounds) else 0):
        within = [rounds[(start + step) % len(rounds)] for step in range(window)]
        pairs = dict.fromkeys(pair for links in within for pair in _pairs(links, directed))
        graph = adjacency_of(names, replace(rounds[0], directed=directed, weights=dict.fromkeys(pairs)))
        first = next(iter(names))
        ways = [[graph.successors], [graph.predecessors]] if directed else [[graph.successors, graph.predecessors]]
        for way in ways:
            if lost := [node for node in names if node not in reachable(first, *way)]:
                text = _unreached(lost, first, names)
                place = f"the window of {counted(window, 'round')} from graph {start + 1} on"
                return [Problem(f"{place} is disconnected: {text}; change its graphs, or the window")]
    return []


def describe_problems(source: str, found: Sequence[Problem], command: str = "") -> str:
    """Message of one line: all problems, and the command, if any, that fixes them."""
    message = f"{source}: {'; '.join(problem.text for problem in found)}"
    if not command:
        return message
    if "--drop-addresses" in command:
        message += "; if these are no addresses of peers, drop every host, port, device and public key"
    by_hand = any(problem.option is None for problem in found)
    return f"{message}; {'correct by hand what no option fixes, then fix' if by_hand else 'fix'} with: {command}"


def fix_command(source: str, options: Collection[str | None], new: Path | None = None) -> str:
    """Shell command `topology fix` with these options; empty where there are none.

    `new`: the file to write, by default next to the source.
    """
    asked = [option for option in OPTIONS if option in options]
    if "--labels names" in asked and "--labels ids" in asked:
        asked.remove("--labels ids")  # some of them cannot be names
    if not asked:
        return ""
    file = Path(source)
    # GraphML holds every graph, whatever the format of the file.
    output = new or file.with_name(f"{file.stem}-fixed.graphml")
    return f"p2pfl topology fix {shlex.quote(source)} -o {shlex.quote(str(output))} {' '.join(asked)}"


def _duplicate_ids(raw: RawGraph) -> list[Problem]:
    repeated = [(own, count) for own, count in Counter(node.id for node in raw.nodes).items() if count > 1]
    if not repeated:
        return []
    own, count = repeated[0]
    others = [other for other, _ in repeated[1:]]
    more = f" (and others {few(others)})" if others else ""
    return [Problem(f"duplicate label: {count} nodes have the id {shorten(own)!r}{more}: give each its own")]


def _unusable_names(raw: RawGraph) -> list[Problem]:
    """Problems of ids that are to be names; the labels may serve instead."""
    remedies = {
        "is empty": "give every peer a visible one",
        "contains control characters": "use printable text",
        "is too long": f"keep it under {MAX_LABEL_BYTES} bytes when percent-encoded, because it names a directory",
    }
    flawed: dict[str, list[str]] = {}
    is_fixable: dict[str, bool] = {}
    for node in raw.nodes:
        flaw = name_flaw(node.id)
        if flaw is not None:
            flawed.setdefault(flaw, []).append(node.id)
            is_fixable[flaw] = is_fixable.get(flaw, True) and usable_label(node.label) is not None
    found = []
    for flaw, ids in flawed.items():
        shown = ascii(ids[0][:20]) + ("…" if len(ids[0]) > 20 else "")
        more = f" ({len(ids) - 1} more too)" if len(ids) > 1 else ""
        what = "a node has an empty label" if flaw == "is empty" else f"the label {shown} {flaw}"
        option = "--labels names" if is_fixable[flaw] else None
        found.append(Problem(f"{what}{more}: {remedies[flaw]}", option))
    return found


def _edge_problems(links: Links, names: dict[str, str]) -> list[Problem]:
    found = []
    if links.undeclared:
        edge = links.undeclared[0]
        unknown = edge.target if edge.source in names else edge.source
        more = f" ({len(links.undeclared) - 1} more such edges)" if len(links.undeclared) > 1 else ""
        text = f"the edge {shorten(edge.source)!r} – {shorten(edge.target)!r} ends at {shorten(unknown)!r}, which is "
        found.append(Problem(f"{text}not among the nodes{more}: declare it or correct the edge"))
    if links.loops:
        which = f"self-loop{'s' * (len(links.loops) > 1)} on node{'s' * (len(links.loops) > 1)}"
        text = f"{which} {few(names[node] for node in links.loops)}"
        found.append(Problem(f"{text} (a peer's own weight is in the mixing matrix already)", "--drop-self-loops"))
    if links.parallel:
        found.append(Problem(_parallel_text(links, names), "--merge-parallel"))
    return found


def _parallel_text(links: Links, names: dict[str, str]) -> str:
    arrow = "->" if links.directed or links.reciprocal else "--"
    (u, v), count = next(iter(links.parallel.items()))
    rest = len(links.parallel) - 1
    more = f" (and {rest} more {'links' if rest > 1 else 'link'})" if rest else ""
    differ = ", with different weights" if links.different else ""
    return f"parallel edges: {names[u]!r} {arrow} {names[v]!r} is given {count} times{differ}{more}"


def _connectivity(raw: RawGraph, links: Links, names: dict[str, str], least: int, what: str) -> list[Problem]:
    """Problems of size and connectivity; after a misspelled name none drops peers."""
    hint = "that edge may be what is missing" if links.undeclared else raw.disconnected_hint
    found = _size_problems(adjacency_of(names, links), names, least, hint, what)
    return [replace(problem, option=None) for problem in found] if links.undeclared else found


def _size_problems(graph: Adjacency, names: dict[str, str], least: int, hint: str, what: str) -> list[Problem]:
    """Problems of the number of peers and of connectivity."""
    n = len(names)
    if n < least:
        return [Problem("the graph has only one node; a swarm needs at least 2 peers")]
    found_components = components(graph)
    main = largest(found_components)
    found = []
    if n > MAX_PEERS:
        text = f"the graph has {n} nodes; at most {MAX_PEERS} peers are supported"
        if len(main) <= MAX_PEERS and len(found_components) > 1:
            found.append(Problem(text, "--largest-component"))
        else:
            found.append(Problem(f"{text}: take a subgraph"))
    members = in_order(main, graph)
    if len(main) < 2 <= n:
        found.append(Problem(f"{what} is disconnected: no edge joins two nodes; add edges"))
    elif len(found_components) > 1:
        remark = f" ({hint})" if hint else ""
        text = _unreached([node for node in names if node not in main], members[0], names)
        found.append(Problem(f"{what} is disconnected: {text}{remark}", "--largest-component"))
    if graph.directed and (text := _one_way(graph, members, names)):
        found.append(Problem(f"{what} is not strongly connected: {text}", "--undirected"))
    return found


def _one_way(graph: Adjacency, members: Sequence[str], names: dict[str, str]) -> str:
    """Peers of a weak component that its first cannot reach, or that cannot reach it.

    Empty where the component is strongly connected.
    """
    first = members[0]
    there = reachable(first, graph.successors)
    if len(there) < len(members):
        return _unreached([node for node in members if node not in there], first, names)
    back = reachable(first, graph.predecessors)
    if len(back) < len(members):
        lost = [node for node in members if node not in back]
        return f"{names[first]!r} cannot be reached from {names[lost[0]]!r}{_more(lost)}"
    return ""


def _unreached(lost: Sequence[str], start: str, names: dict[str, str]) -> str:
    return f"{names[lost[0]]!r}{_more(lost)} cannot be reached from {names[start]!r}"


def _more(lost: Sequence[str]) -> str:
    return f" and {len(lost) - 1} more" if len(lost) > 1 else ""
