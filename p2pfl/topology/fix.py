"""Repair of graphs that are no topologies: the options of `topology fix`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2pfl.errors import TopologyError
from p2pfl.topology.checks import check_graph, describe_problems, fix_command
from p2pfl.topology.files import difference, read_raw, topology_bytes, write_checked
from p2pfl.topology.graph import Topology, topology_from
from p2pfl.topology.links import (
    RECIPROCAL,
    Pair,
    Weight,
    adjacency_of,
    components,
    largest,
    links_of,
    strong_components,
)
from p2pfl.topology.naming import clean_label, few, name_nodes, unique_names
from p2pfl.topology.raw import NODE_ATTRIBUTES, RawEdge, RawGraph

Step = Callable[[RawGraph], tuple[RawGraph, list[str]]]


@dataclass(frozen=True)
class FixOptions:
    """Options of `topology fix`. `labels`: "names", "ids" or None (see `naming`)."""

    drop_addresses: bool = False
    drop_self_loops: bool = False
    merge_parallel: bool = False
    undirected: bool = False
    largest_component: bool = False
    labels: str | None = None

    def steps(self) -> list[tuple[str, Step]]:
        """Requested steps with their options, in the order in which they run."""
        steps: list[tuple[bool, str, Step]] = [
            (self.drop_addresses, "--drop-addresses", _drop_addresses),
            (self.drop_self_loops, "--drop-self-loops", _drop_self_loops),
            (self.merge_parallel, "--merge-parallel", _merge_parallel),
            (self.undirected, "--undirected", _make_undirected),
            (self.largest_component, "--largest-component", _keep_largest_component),
            (self.labels == "names", "--labels names", _name_by_labels),
            (self.labels == "ids", "--labels ids", _name_by_ids),
        ]
        return [(option, step) for asked, option, step in steps if asked]


def fix_file(file: Path, new: Path, wanted: FixOptions) -> tuple[Topology, list[str]]:
    """Fix the graph of a file and write it to another file.

    The extension of `new` determines its format. Returns the same as `fix`. Raises TopologyError; `new` is then
    unchanged.
    """
    if new.resolve() == file.resolve():
        raise TopologyError(f"-o {new}: is the file that is to be fixed; choose another name")
    topology, changes = fix(read_raw(file), wanted, file, new)
    data = topology_bytes(topology, new)
    write_checked(new, data, lambda read: difference(topology, read), remedy="write it as .graphml")
    return topology, changes


def fix(raw: RawGraph, wanted: FixOptions, file: Path, new: Path) -> tuple[Topology, list[str]]:
    """Fix the graph of a file; return the topology, and a line for people per change.

    `new`: the file that will be written. Raises TopologyError with all problems that remain, and the command that
    fixes them too.
    """
    if raw.rounds:
        raise TopologyError(f"{file}: a schedule of {len(raw.rounds)} graphs, of which none is repaired or converted")
    changes: list[str] = []
    fixed = raw
    for _, step in wanted.steps():
        fixed, lines = step(fixed)
        changes += lines
    found = check_graph(fixed).problems
    if found:
        more = {problem.option for problem in found}
        command = fix_command(str(file), more | {option for option, _ in wanted.steps()}, new) if any(more) else ""
        raise TopologyError(describe_problems(str(file), found, command))
    topology = topology_from(fixed, name=new.stem, source=str(file))
    if wanted.labels is None:
        return topology, changes
    choice = name_nodes(fixed).note  # `changes` have it already
    return replace(topology, notes=tuple(note for note in topology.notes if note != choice)), changes


def _drop_addresses(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    keys = [key for key in NODE_ATTRIBUTES if any(key in node.attributes for node in raw.nodes)]
    if not keys:
        return raw, ["--drop-addresses: nothing to do, no node has one"]
    count = sum(1 for node in raw.nodes if node.attributes)
    nodes = tuple(replace(node, attributes={}) for node in raw.nodes)
    return replace(raw, nodes=nodes), [f"dropped {', '.join(keys)} of {_counted(count, 'node')}"]


def _drop_self_loops(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    loops = links_of(raw).loops
    if not loops:
        return raw, ["--drop-self-loops: nothing to do, there are none"]
    edges = tuple(edge for edge in raw.edges if edge.source != edge.target or edge.source not in loops)
    names = _names(raw)
    change = f"dropped {_counted(sum(loops.values()), 'self-loop')}: {few(names[node] for node in loops)}"
    return replace(raw, edges=edges), [change]


def _merge_parallel(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    """Reduce parallel edges to one link, with the first weight that the file gives it."""
    links = links_of(raw)
    if not links.parallel:
        return raw, ["--merge-parallel: nothing to do, there are no parallel edges"]
    names = _names(raw)
    weights = links.weights
    loops = [edge for edge in raw.edges if edge.source == edge.target and edge.source in links.loops]
    kept = [RawEdge(u, v, weight, links.directed) for (u, v), weight in weights.items()]
    merged = replace(raw, directed=links.directed, edges=(*kept, *loops, *links.undeclared))
    edges = sum(links.parallel.values())
    shown = few((_link(pair, names, links.directed) for pair in links.parallel), quoted=False)
    changes = [f"merged {edges} parallel edges into {_counted(len(links.parallel), 'link')}: {shown}"]
    if links.different:
        shown = few((_link(pair, names, links.directed) for pair in links.different), quoted=False)
        changes.append(f"kept the first weight of {shown}, where the file gives different ones")
    if links.reciprocal:
        changes.append(RECIPROCAL)
    return merged, changes


def _make_undirected(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    """Make each link go both ways; different weights are replaced by their mean."""
    links = links_of(raw)
    if not links.directed:
        return raw, ["--undirected: nothing to do, the graph is undirected"]
    names = _names(raw)
    means: dict[Pair, Weight] = {}
    differing = []
    for (u, v), weight in links.weights.items():
        if (v, u) in means:
            means[u, v] = means[v, u]
        elif (v, u) in links.weights:
            back = links.weights[v, u]
            means[u, v] = _mean(weight, back)
            if weight != back:
                differing.append((u, v))
        else:
            means[u, v] = weight
    edges = tuple(
        replace(edge, weight=means.get((edge.source, edge.target), edge.weight), directed=False) for edge in raw.edges
    )
    one_way = [pair for pair in links.weights if pair[::-1] not in links.weights]
    both = (len(links.weights) - len(one_way)) // 2
    changes = [
        f"made the graph undirected: {_counted(len(one_way), 'link')} that went one way, {both} that went both ways"
    ]
    if differing:
        shown = few((_link(pair, names, False) for pair in differing), quoted=False)
        changes.append(f"took the mean of the two directions' weights of {shown}")
    return replace(raw, directed=False, edges=edges), changes


def _mean(weight: Weight, back: Weight) -> Weight:
    """Mean weight of two directions; a missing or non-numeric one is ignored."""
    if isinstance(weight, float) and isinstance(back, float):
        return weight / 2 + back / 2  # their sum might be infinite
    return weight if isinstance(weight, float) or back is None else back


def _keep_largest_component(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    links = links_of(raw)
    declared = {node.id for node in raw.nodes}
    graph = adjacency_of((node.id for node in raw.nodes), links)
    kept = largest(strong_components(graph) if links.directed else components(graph)) if declared else declared
    word = "strongly connected component" if links.directed else "connected component"
    if kept == declared:
        return raw, ["--largest-component: nothing to do, the graph is connected"]
    if len(kept) < 2:  # one peer is no swarm: another problem remains
        return raw, [f"--largest-component: nothing done, no {word} has two peers"]
    names = _names(raw)
    gone = declared - kept
    lost = [names[node.id] for node in raw.nodes if node.id in gone]
    edges = tuple(edge for edge in raw.edges if edge.source not in gone and edge.target not in gone)
    nodes = tuple(node for node in raw.nodes if node.id in kept)
    return replace(raw, nodes=nodes, edges=edges), [
        f"kept the largest {word}, {_counted(len(nodes), 'peer')}; dropped {len(lost)}: {few(lost)}"
    ]


def _name_by_labels(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    names = unique_names(raw)
    if names == name_nodes(raw).names:
        return raw, ["--labels names: nothing to do, the peers have these names"]
    changes = [f"named the peers by their labels: {few(names)}"]
    numbered = [
        name for name, node in zip(names, raw.nodes, strict=True) if name not in (clean_label(node.label), node.id)
    ]
    if numbered:
        changes.append(f"numbered {_counted(len(numbered), 'label')} that another peer has: {few(numbered)}")
    without = [name for name, node in zip(names, raw.nodes, strict=True) if clean_label(node.label) != name == node.id]
    if without:
        changes.append(f"named {_counted(len(without), 'peer')} without a usable label by the id: {few(without)}")
    nodes = tuple(replace(node, label=name) for node, name in zip(raw.nodes, names, strict=True))
    return replace(raw, nodes=nodes), changes


def _name_by_ids(raw: RawGraph) -> tuple[RawGraph, list[str]]:
    ids = tuple(node.id for node in raw.nodes)
    nodes = tuple(replace(node, label=None) for node in raw.nodes)
    if name_nodes(raw).names == ids:
        return replace(raw, nodes=nodes), ["--labels ids: nothing to do, the peers have these names"]
    return replace(raw, nodes=nodes), [f"named the peers by their ids: {few(ids)}"]


def _names(raw: RawGraph) -> dict[str, str]:
    return dict(zip((node.id for node in raw.nodes), name_nodes(raw).names, strict=True))


def _link(pair: Sequence[str], names: dict[str, str], directed: bool) -> str:
    return f"{names[pair[0]]!r} {'->' if directed else '–'} {names[pair[1]]!r}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
