"""Final merge of a gossip run: its rule, and the rounds that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from p2pfl import registry
from p2pfl.config import RunConfig, gossip_entry, is_robust
from p2pfl.errors import TopologyError
from p2pfl.mixing import Mixing, pushes_sums, uses_tree
from p2pfl.topology import (
    Topology,
    UnmixedError,
    checked_finite_time,
    consensus_rounds,
    diameter,
    is_reversible,
    mixing_matrix,
    mixing_rounds,
    spanning_tree,
    spectral_gap,
)
from p2pfl.topology.spectrum import Matrix

Rule = Literal["exact", "chebyshev", "plain", "push-sum", "robust", "none"]


@dataclass(frozen=True)
class FinalMerge:
    """Final merge of the peers' models.

    `by`: the rule in words. `rounds`: consensus rounds that it takes. `mixing`: that of these rounds, from their first
    one on.
    """

    rule: Rule
    by: str
    rounds: int
    mixing: Mixing

    @property
    def is_exact(self) -> bool:
        """Whether all peers have the exact mean after it, if none is missing."""
        return self.rule == "exact"


def final_merge_of(config: RunConfig, topology: Topology, mixing: Mixing) -> FinalMerge:
    """Final merge of a gossip run.

    `mixing`: that of its training rounds. Raises TopologyError where --final-merge names a rule that the graph or its
    weights do not have.
    """
    if config.gossip.final_merge == "none":
        return FinalMerge("none", "no final merge", 0, mixing)
    try:
        own = _merge_of_algorithm(config, topology, mixing)
        if own is not None:
            return own
        return (_on_schedule if topology.is_schedule else _on_one_graph)(config, topology, mixing)
    except UnmixedError as error:
        raise TopologyError(f"{topology.source}: {error}") from None


def _merge_of_algorithm(config: RunConfig, topology: Topology, mixing: Mixing) -> FinalMerge | None:
    """Final merge that the algorithm brings, None where it brings none."""
    tolerance = config.gossip.consensus_tolerance
    if uses_tree(config):
        return FinalMerge("exact", "relayed sums", diameter(spanning_tree(topology)), mixing)
    if pushes_sums(config):
        return _by_push_sum(mixing, tolerance)
    if not is_robust(config):
        return None
    # Robust rules are not accelerated; the vectors that they accept mix like W, which is the best estimate.
    rounds = _rounds(mixing, tolerance)
    return FinalMerge("robust", config.gossip.algorithm, rounds, mixing)


def _by_push_sum(mixing: Mixing, tolerance: float) -> FinalMerge:
    """Final merge by push-sum from x = z and w = 1; exact where a schedule is."""
    found = mixing.convergence
    if found is not None and found.exact is not None:
        return FinalMerge("exact", "push-sum on the schedule's graphs", found.exact, mixing)
    return FinalMerge("push-sum", "push-sum", _rounds(mixing, tolerance), mixing)


def _rounds(mixing: Mixing, tolerance: float) -> int:
    """Rounds of plain mixing, or push-sum, to the tolerance."""
    found = mixing.convergence
    return mixing_rounds(mixing.w, tolerance) if found is None else found.rounds(tolerance)


def _on_schedule(config: RunConfig, topology: Topology, mixing: Mixing) -> FinalMerge:
    """Final merge by the graphs in turn, from the first one on."""
    assert mixing.convergence is not None
    chosen, exact = config.gossip.final_merge, mixing.convergence.exact
    if chosen == "chebyshev":
        raise TopologyError(
            f"{topology.source}: --final-merge chebyshev needs the same mixing matrix in every round, and this is a "
            f"schedule of {len(topology.rounds)} graphs; use --final-merge auto"
        )
    if chosen == "exact" and exact is None:
        raise TopologyError(
            f"{topology.source}: --final-merge exact: its {len(topology.rounds)} graphs do not average exactly within "
            f"a period with --mixing {config.gossip.mixing}; use --final-merge auto, or a schedule such as base-k"
        )
    rounds = mixing.convergence.rounds(config.gossip.consensus_tolerance)
    if exact is None:
        return FinalMerge("plain", _text(config, "plain mixing"), rounds, mixing)
    return FinalMerge("exact", _text(config, "the schedule's graphs"), rounds, mixing)


def _on_one_graph(config: RunConfig, topology: Topology, mixing: Mixing) -> FinalMerge:
    chosen, tolerance, w = config.gossip.final_merge, config.gossip.consensus_tolerance, mixing.w
    if chosen == "exact" or (chosen == "auto" and mixing.convergence is not None):
        if mixing.convergence is None:
            mixing = Mixing.in_finite_time(
                checked_finite_time(
                    w, f"{topology.source}: --final-merge {chosen}", "use --final-merge auto", trains=False
                )
            )
        return FinalMerge("exact", _text(config, "finite-time averaging"), len(mixing.matrices), mixing)
    w = _merging_matrix(config, topology, w)
    fixed, can_accelerate = Mixing.fixed(w), is_reversible(w)
    if chosen == "chebyshev" and not can_accelerate:
        raise TopologyError(
            f"{topology.source}: --final-merge chebyshev needs an undirected graph with symmetric weights; use "
            "--final-merge auto"
        )
    if chosen == "plain" or not can_accelerate:
        return FinalMerge("plain", _text(config, "plain mixing"), mixing_rounds(w, tolerance), fixed)
    return FinalMerge("chebyshev", _text(config, "Chebyshev's recurrence"), consensus_rounds(w, tolerance), fixed)


def _merging_matrix(config: RunConfig, topology: Topology, w: Matrix) -> Matrix:
    """Faster of a run's matrix and W itself, where its algorithm needs (I + W) / 2."""
    entry = gossip_entry(config)
    if entry is None or entry.least_eigenvalue is None:
        return w
    return max(w, mixing_matrix(topology, config.gossip.mixing), key=spectral_gap)


def _text(config: RunConfig, rule: str) -> str:
    """A rule in words; the user's own algorithm may bring another one."""
    is_own = registry.entry_of("algorithm", config.gossip.algorithm) is None
    return f"{rule}, or as its own algorithm says" if is_own and config.gossip.final_merge == "auto" else rule
