"""Mixing of a gossip run: matrices by round, from --mixing and the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from p2pfl import registry
from p2pfl.config import RunConfig, gossip_entry
from p2pfl.errors import TopologyError
from p2pfl.topology import (
    FiniteTime,
    ScheduleConvergence,
    Topology,
    check_self_weights,
    diameter,
    is_symmetric,
    lazy,
    mixing_matrices,
    mixing_matrix,
    period_matrix,
    push_weight_span,
    schedule_convergence,
    smallest_eigenvalue,
    spanning_tree,
)
from p2pfl.topology.spectrum import Matrix

Sizes = Sequence[int] | None


@dataclass(frozen=True)
class Mixing:
    """Mixing matrices by round, which repeat, each (n, n).

    `w`: the one of all rounds; of a schedule of graphs the product of a period, and of finite-time averaging the W
    whose eigenvalues it nulls. `convergence`: where the matrices differ by round, that of a period, else None.
    """

    matrices: tuple[Matrix, ...]
    w: Matrix
    convergence: ScheduleConvergence | None = None

    @classmethod
    def fixed(cls, w: Matrix) -> Mixing:
        """Mixing by the same matrix in every round."""
        return cls((w,), w)

    @classmethod
    def of_schedule(cls, matrices: Sequence[Matrix]) -> Mixing:
        """Mixing by the graphs of a schedule."""
        return cls(tuple(matrices), period_matrix(matrices), schedule_convergence(matrices))

    @classmethod
    def in_finite_time(cls, found: FiniteTime) -> Mixing:
        """Mixing by nulling the eigenvalues of one matrix in turn."""
        return cls(found.matrices, found.w, found.convergence)


def mixing_of(config: RunConfig, topology: Topology, sizes: Sizes = None) -> Mixing:
    """Mixing of a gossip run in its training rounds.

    Raises TopologyError as `mixing_matrix_of` does, and where the algorithm needs the same in every round.
    """
    weights = registry.MIXINGS[config.gossip.mixing]
    if weights.by_round:
        return Mixing.in_finite_time(registry.load(weights)(topology))
    if not topology.is_schedule:
        return Mixing.fixed(mixing_matrix_of(config, topology, sizes))
    entry, name = gossip_entry(config), config.gossip.algorithm
    if entry is not None and entry.fixed_mixing:
        raise TopologyError(
            f"{topology.source}: a schedule of {len(topology.rounds)} graphs, and --algorithm {name} needs the same "
            "mixing matrix in every round; choose another --algorithm, or a topology of one graph"
        )
    matrices = mixing_matrices(topology, config.gossip.mixing, sizes, push_sum=pushes_sums(config))
    if pushes_sums(config):
        for one, matrix in zip(topology.by_round, matrices, strict=True):
            check_self_weights(one, matrix)
    return Mixing.of_schedule(matrices)


def mixing_matrix_of(config: RunConfig, topology: Topology, sizes: Sizes = None) -> Matrix:
    """Mixing matrix of a gossip run, as its algorithm needs it.

    That of --mixing, (I + W) / 2, or that of a spanning tree. `sizes`: samples of the shards, for --mixing samples.
    Raises TopologyError where the algorithm needs a symmetric one, or positive self-weights.
    """
    entry, name = gossip_entry(config), config.gossip.algorithm
    if uses_tree(config):
        return mixing_matrix(spanning_tree(topology))
    matrix = mixing_matrix(topology, config.gossip.mixing, sizes, push_sum=pushes_sums(config))
    if pushes_sums(config):
        check_self_weights(topology, matrix)
    if entry is None or entry.least_eigenvalue is None:
        return matrix
    if not is_symmetric(matrix):
        raise TopologyError(
            f"{topology.source}: --algorithm {name} needs a symmetric mixing matrix, and --mixing "
            f"{config.gossip.mixing} gives another one here; make the graph undirected or choose another --algorithm"
        )
    return lazy(matrix) if smallest_eigenvalue(matrix) <= entry.least_eigenvalue else matrix


def uses_tree(config: RunConfig) -> bool:
    """Whether sums are relayed along a spanning tree, so that no spectral gap applies."""
    entry = gossip_entry(config)
    return entry is not None and entry.uses_tree


def pushes_sums(config: RunConfig) -> bool:
    """Whether peers push shares of sums, so that also the final merge is push-sum."""
    entry = gossip_entry(config)
    return entry is not None and entry.pushes_sums


def mixing_note(config: RunConfig, topology: Topology) -> str | None:
    """Note on a mixing matrix other than that of --mixing; None without one."""
    if pushes_sums(config):
        return _push_note(mixing_of(config, topology))
    if topology.is_schedule:
        return None
    if uses_tree(config):
        tree = spanning_tree(topology)
        count = f"{tree.graph.number_of_edges()} of {topology.graph.number_of_edges()} edges"
        return f"weights travel along a spanning tree of {count} and diameter {diameter(tree)}"
    entry = gossip_entry(config)
    if entry is None or entry.least_eigenvalue is None:
        return None
    plain = mixing_matrix(topology, config.gossip.mixing)
    if smallest_eigenvalue(plain) > entry.least_eigenvalue:
        return None
    return (
        f"mixes with (I + W) / 2: the smallest eigenvalue of W is {smallest_eigenvalue(plain):.4f}, and "
        f"{config.gossip.algorithm} needs one above {Fraction(entry.least_eigenvalue).limit_denominator(10)}"
    )


def _push_note(mixing: Mixing) -> str | None:
    """Note on the weights w of push-sum; None where all stay 1."""
    least, most = push_weight_span(mixing.matrices)
    found = f"the peers' weights of push-sum approach {least:.3g} to {most:.3g}"
    unequal = most - least > 1e-6
    return f"{found}; a model moves by the learning rate divided by its peer's weight" if unequal else None
