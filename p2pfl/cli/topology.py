"""`topology make`, `topology fix` and `topology show`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from p2pfl import topology as topologies
from p2pfl.cli.arguments import parse, print_notes
from p2pfl.cli.schedules import describe_schedule, rows_by_round, shown_matrices, unused_weights
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.registry import MIXINGS
from p2pfl.topology import KINDS, SCHEDULES, Topology
from p2pfl.topology.spectrum import Matrix
from p2pfl.util.units import counted

_MANY = 1000  # peers from which the spectral gap takes long
_OPTIONS_OF = {
    "seed": ("random-regular", "small-world", "erdos-renyi", "random-matching"),
    "degree": ("random-regular", "small-world", "base-k"),
    "probability": ("small-world", "erdos-renyi"),
}  # kinds of which an option is
_MANY_DEGREES = 10  # different degrees from which only their range is printed
_KINDS = Literal[(*KINDS, *SCHEDULES)]  # type: ignore[valid-type]


@dataclass(frozen=True)
class Make:
    """Generate a topology file."""

    kind: tyro.conf.Positional[_KINDS]
    """Shape of the graph (chain is another name of path), or of a schedule of graphs: one-peer-exponential, base-k,
    random-matching."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])]
    """Number of peers."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write; its extension gives the format: .graphml .gml .gexf .json .edgelist .adjlist.
    A schedule needs .json."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 0)")] = None
    """Seed of the random kinds: random-regular, small-world, erdos-renyi, random-matching."""
    degree: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 4, and 1 of base-k)")] = (
        None
    )
    """Neighbors of each peer: random-regular, small-world; at most, of base-k."""
    period: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 32, and 1 of random-regular)")
    ] = None
    """Graphs to draw, one for each round, after which they repeat: random-matching, random-regular."""
    probability: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.1, and 2 ln n / n)")
    ] = None
    """Probability of rewiring an edge (small-world), or of an edge (erdos-renyi)."""


@dataclass(frozen=True)
class Fix:
    """Repair a graph that is not a valid topology, or convert it to another format.

    Prints all changes. Options are applied in the order addresses, self-loops, parallel edges, direction, component,
    names. Weights and, unless dropped, hosts, ports, devices and public keys are kept; other attributes, such as
    colors and positions, are not.
    """

    file: tyro.conf.Positional[Path]
    """Topology file to read; it is not changed."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="NEW")]
    """File to write; its extension gives the format: .graphml .gml .gexf .json .edgelist .adjlist."""
    undirected: bool = False
    """Make edges undirected; an edge's weight is the mean over both directions, where both have one."""
    merge_parallel: bool = False
    """Keep one of several edges between the same two peers, with the first weight in the file."""
    largest_component: bool = False
    """Keep the largest connected component (of equally large ones, that with the file's first node)."""
    labels: Annotated[
        Literal["ids", "names"] | None,
        tyro.conf.arg(
            metavar="{ids,names}",
            help_behavior_hint="(default: names if all nodes have one and all differ, else ids)",
        ),
    ] = None
    """Name the peers by the nodes' ids, or by their labels (names), numbering equal ones: 'x', 'x (2)'."""
    drop_self_loops: bool = False
    """Drop edges from a peer to itself."""
    drop_addresses: bool = False
    """Drop host, port, device and public_key of all nodes, for files where these have another meaning."""


@dataclass(frozen=True)
class Show:
    """Show degrees, spectral gap and rounds to consensus of a topology; -o draws it.

    Of a schedule, and with --mixing finite-time: what is left of a disagreement after each round, and the rounds to the
    exact average.
    """

    file: tyro.conf.Positional[Path]
    """Topology file."""
    mixing: Annotated[
        str | None,
        tyro.conf.arg(
            metavar=f"{{{','.join(MIXINGS)}}}",
            help_behavior_hint="(default: metropolis-hastings, of a directed file uniform or max-degree; "
            "a schedule's own if they average exactly)",
        ),
    ] = None
    """Weights of the mixing matrix."""
    tolerance: float = 1e-3
    """Fraction of the initial disagreement of peers at which they count as in consensus."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="(default: no picture)"),
    ] = None
    """Picture to write, .png or .svg."""


def make(words: list[str]) -> int:
    """Write a generated topology to a file."""
    arguments = parse(Make, words, "topology make")
    for option, kinds in _OPTIONS_OF.items():
        if getattr(arguments, option) is not None and arguments.kind not in kinds:
            raise ConfigError(f"--{option}: means nothing with {arguments.kind}, only with {' or '.join(kinds)}")
    topology = topologies.make_topology(
        arguments.kind,
        arguments.n,
        seed=arguments.seed or 0,
        degree=arguments.degree,
        probability=arguments.probability,
        period=arguments.period,
    )
    topologies.save_topology(topology, arguments.output)
    listed = f"a schedule of {counted(len(topology.rounds), 'graph')}, " if topology.is_schedule else ""
    print(f"{arguments.output}: {listed}{topology.n} peers, {counted(topology.graph.number_of_edges(), 'edge')}")
    return 0


def fix(words: list[str]) -> int:
    """Repair a graph and write it to another file."""
    arguments = parse(Fix, words, "topology fix")
    wanted = topologies.FixOptions(
        drop_addresses=arguments.drop_addresses,
        drop_self_loops=arguments.drop_self_loops,
        merge_parallel=arguments.merge_parallel,
        undirected=arguments.undirected,
        largest_component=arguments.largest_component,
        labels=arguments.labels,
    )
    topology, changes = topologies.fix_file(arguments.file, arguments.output, wanted)
    print_notes(topology)
    for line in changes or [f"converted {arguments.file}; no repair was requested"]:
        print(line)
    kind = "directed" if topology.directed else "undirected"
    print(f"{arguments.output}: {topology.n} peers, {counted(topology.graph.number_of_edges(), 'edge')}, {kind}")
    return 0


def show(words: list[str]) -> int:
    """Describe a topology, and draw it if asked."""
    arguments = parse(Show, words, "topology show")
    topology = topologies.load_topology(arguments.file)
    print_notes(topology)
    try:
        print(_describe(topology, arguments.mixing, arguments.tolerance))
    except topologies.UnmixedError as error:
        raise TopologyError(f"{topology.source}: {error}") from None
    if arguments.output is not None:
        _draw(topology, arguments.output)
    return 0


def _draw(topology: Topology, picture: Path) -> None:
    from p2pfl.report import draw_schedule, draw_topology

    try:
        (draw_schedule if topology.is_schedule else draw_topology)(topology, picture)
    except (OSError, ValueError) as error:
        raise ConfigError(f"-o {picture}: cannot be written ({error})") from None
    print(f"picture:       {picture}")


def _describe(topology: Topology, mixing: str | None, tolerance: float) -> str:
    if topology.is_schedule:
        return _table(describe_schedule(topology, mixing, tolerance))
    unused = unused_weights(topology) if mixing is None else {}
    mixing = mixing or topologies.mean_keeping(topology)
    graph = topology.graph
    degrees = Counter(dict(graph.out_degree() if topology.directed else graph.degree()).values())
    spread = ", ".join(f"{count} peer{'s' * (count > 1)} with {degree}" for degree, count in sorted(degrees.items()))
    if len(degrees) > _MANY_DEGREES:
        mean = sum(degree * count for degree, count in degrees.items()) / topology.n
        spread = f"{min(degrees)} to {max(degrees)}, {mean:.1f} on average"
    kind = "directed" if topology.directed else "undirected"
    rows = {
        "topology": f"{topology.name}: {topology.n} peers, {counted(graph.number_of_edges(), 'edge')}, {kind}",
        "neighbors": spread,
        **(_unmixed(topology) if mixing is None else _mixed(topology, mixing, tolerance)),
    }
    return _table(rows | unused)


def _table(rows: dict[str, str]) -> str:
    return "\n".join(f"{name + ':':<14} {text}" for name, text in rows.items())


def _mixed(topology: Topology, mixing: str, tolerance: float) -> dict[str, str]:
    if topology.n > _MANY:
        print(f"computing the spectral gap of {topology.n} peers, up to a minute", file=sys.stderr)
    if MIXINGS[mixing].by_round:
        return _finite_time(topology, mixing, tolerance)
    (w,), push_sum = shown_matrices(topology, mixing)
    found = topologies.convergence(w, tolerance)
    reduced = f"disagreement reduced to {tolerance:g} in {counted(found.plain, 'round')}"
    more = f"of plain mixing, {found.accelerated} in the consensus phase of a run"
    return {
        "spectral gap": f"{found.gap:.4f} with {topologies.weights_text(topology, mixing, push_sum)}",
        "consensus": f"{reduced} {'of push-sum' if topologies.is_push_only(w) else more}",
        "final merge": _final_merge(w),
    }


def _finite_time(topology: Topology, mixing: str, tolerance: float) -> dict[str, str]:
    """Rows about finite-time averaging on one graph."""
    found = topologies.finite_time_weights(topology)
    growth = f"what training adds to disagreements in a round grows up to {found.growth:.3g} times before it is nulled"
    return rows_by_round(found.convergence, topologies.weights_text(topology, mixing), tolerance) | {"growth": growth}


def _final_merge(w: Matrix) -> str:
    """Rule of a run's final merge by default, and the rounds of an exact one."""
    if topologies.is_push_only(w):
        return "by push-sum"
    rule = "by Chebyshev's recurrence" if topologies.is_reversible(w) else "by plain mixing"
    if not topologies.is_symmetric(w) or len(w) > _MANY:
        return rule
    found = topologies.finite_time(w)
    if not found.merge_growth <= topologies.MOST_GROWTH:
        return f"{rule}; --final-merge exact would need {counted(found.rounds, 'round')}, too many for float32"
    return f"{rule}; --final-merge exact takes {counted(found.rounds, 'round')}"


def _unmixed(topology: Topology) -> dict[str, str]:
    """Remedies for a directed graph of unequal degrees, on which no run can start."""
    weighted = "--mixing weights uses the file's weights, if those into and out of each peer have the same sum"
    return {
        "mixing": "uniform weights would not preserve the mean of the peers, because their degrees are unequal; "
        + weighted,
        "push-sum": f"{topologies.PUSH_SUM} needs neither",
        "undirected": topologies.undirected_command(topology),
    }
