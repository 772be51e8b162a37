"""Description of a schedule of graphs, for `topology show`."""

from __future__ import annotations

from p2pfl import topology as topologies
from p2pfl.errors import TopologyError
from p2pfl.topology import ScheduleConvergence, Topology
from p2pfl.topology.spectrum import Matrix
from p2pfl.util.units import counted

_SHOWN = 16  # rounds whose contraction is printed


def describe_schedule(topology: Topology, mixing: str | None, tolerance: float) -> dict[str, str]:
    """Rows of a description, by name.

    Raises TopologyError where `mixing` does not fit a graph.
    """
    unused: dict[str, str] = {}
    if mixing is None and topologies.exact_by_weights(topology):
        mixing = "weights"
    elif mixing is None:
        mixing, unused = topologies.mean_keeping(topology), unused_weights(topology)
    kind = "directed" if topology.directed else "undirected"
    degrees = [degree for graph in topology.rounds for _, degree in _degrees(graph)]
    union = [degree for _, degree in _degrees(topology.graph)]
    rows = {
        "topology": f"{topology.name}: {counted(topology.n, 'peer')}, a schedule of "
        f"{counted(len(topology.rounds), 'graph')}, {kind}",
        "neighbors": f"{_span(degrees)} in a round, {_span(union)} in all rounds together",
    }
    if mixing is None:
        return rows | {
            "mixing": "no weights computed from the edges preserve the mean of the peers, because some peer sends to "
            "more or fewer than it receives from; --mixing weights uses the file's",
            "push-sum": f"{topologies.PUSH_SUM} needs neither",
            **unused,
        }
    matrices, push_sum = shown_matrices(topology, mixing)
    found = topologies.schedule_convergence(matrices)
    return rows | rows_by_round(found, topologies.weights_text(topology, mixing, push_sum), tolerance) | unused


def shown_matrices(topology: Topology, mixing: str) -> tuple[tuple[Matrix, ...], bool]:
    """Mixing matrices by round, and whether these fit push-sum only.

    Raises TopologyError where the weights fit no algorithm.
    """
    try:
        return topologies.mixing_matrices(topology, mixing), False
    except TopologyError as refused:
        try:
            return topologies.mixing_matrices(topology, mixing, push_sum=True), True
        except TopologyError:
            raise refused from None


def unused_weights(topology: Topology) -> dict[str, str]:
    """Row about weights in a file, if it has any, which the default mixing ignores.

    It says whether a run can use them, or why it cannot.
    """
    if not any("weight" in data for one in topology.by_round for *_, data in one.graph.edges(data=True)):
        return {}
    try:
        _, push_sum = shown_matrices(topology, "weights")
    except TopologyError as error:
        why = str(error).removeprefix(f"{topology.source}: ")
        return {"file weights": f"not used here, and unusable with --mixing weights: {why}"}
    which = "--algorithm push-sum --mixing weights" if push_sum else "--mixing weights"
    return {"file weights": f"not used here; {which} uses them"}


def rows_by_round(found: ScheduleConvergence, weights: str, tolerance: float) -> dict[str, str]:
    """Rows about mixing matrices that differ by round; `weights` names theirs."""
    return {"exact average": _exact(found, weights), "left": _left(found)} | _consensus(found, tolerance)


def _degrees(graph: object) -> list[tuple[int, int]]:
    return list(graph.out_degree() if graph.is_directed() else graph.degree())  # type: ignore[attr-defined]


def _span(values: list[int]) -> str:
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least} to {most}"


def _exact(found: ScheduleConvergence, weights: str) -> str:
    if found.exact is None:
        return f"not within the {counted(found.period, 'round')} of a period, with {weights}"
    return f"after {counted(found.exact, 'round')}, with {weights}"


def _left(found: ScheduleConvergence) -> str:
    """Share of a disagreement that is left after each round."""
    lines = [
        f"round {number:>3}: {100 * worst:>6.3g} % at worst, {100 * share:>6.3g} % of random vectors"
        for number, (worst, share) in enumerate(zip(found.contractions, found.shares, strict=True), start=1)
    ]
    if len(lines) > _SHOWN:
        lines = [*lines[: _SHOWN - 1], "…", lines[-1]]
    return f"\n{'':<15}".join(["of a disagreement after", *lines])


def _consensus(found: ScheduleConvergence, tolerance: float) -> dict[str, str]:
    rounds = counted(found.rounds(tolerance), "round") + (" of push-sum" if found.pushed else "")
    if found.exact is not None:
        return {"consensus": f"the consensus phase of a run takes {rounds} and is exact"}
    return {"consensus": f"disagreement reduced to {tolerance:g} in {rounds}, which the consensus phase of a run takes"}
