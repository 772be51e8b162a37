"""Modes of a run as objects, and the roles of its processes in each.

A mode defines the processes of a run, their links, and the properties that depend on these. Other modules ask for its
attributes and never test for its name.
"""

# Longer than other modules: a mode's mixing matrix asks the mode, which asks for the matrix.
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from p2pfl import registry
from p2pfl.config import Mode as ModeName
from p2pfl.config import RunConfig, is_robust
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.topology import (
    Topology,
    build_topology,
    consensus_rounds,
    diameter,
    influence_rounds,
    is_symmetric,
    lazy,
    mixing_matrices,
    mixing_matrix,
    mixing_rounds,
    neighborhood,
    period_matrix,
    push_weights,
    schedule_convergence,
    smallest_eigenvalue,
    spanning_tree,
)
from p2pfl.topology.spectrum import Matrix

COORDINATOR = "coordinator"
LEAST_SELF_WEIGHT = 1e-6  # of a peer that pushes sums; rounding errors are below
Sizes = Sequence[int] | None


@dataclass(frozen=True)
class Mode:
    """One mode of a run.

    `assign_roles`: the processes of a run. `make_topology`: its topology, where no file gives one.
    `has_topology_file`: a file gives the nodes. `least_nodes`: of its topology.
    `mixes`: peers mix with their neighbors, and a consensus phase follows. `has_coordinator`: clients train for a
    coordinator, whose weights are the run's. `exchanges`: processes send weights.
    `pools_data`: one process trains on all samples, and nothing is partitioned.
    `has_peers`: each process has its own weights, and their consensus distance is recorded as sketches.
    `model_name`: of the one model with which the run ends, in texts; empty without one.
    `evaluates_fully`: evaluations during the run use all test samples by default, since few processes evaluate.
    `evaluates_each_round`: by default.
    """

    name: ModeName
    assign_roles: Callable[[RunConfig, Topology, Sizes], Roles]
    make_topology: Callable[[RunConfig], Topology] | None = None
    least_nodes: int = 2
    mixes: bool = False
    has_coordinator: bool = False
    has_peers: bool = False
    pools_data: bool = False
    model_name: str = ""
    evaluates_fully: bool = False
    evaluates_each_round: bool = False

    @property
    def has_topology_file(self) -> bool:
        return self.make_topology is None

    @property
    def has_common_model(self) -> bool:
        return self.model_name != ""

    @property
    def exchanges(self) -> bool:
        return self.mixes or self.has_coordinator


@dataclass(frozen=True)
class Roles:
    """Processes of a run: one for each node of the topology, in its order.

    `matrix`: the (n, n) mixing matrix, the identity where no weights are mixed. Of a schedule of graphs it is the
    product of a period, and `schedule` has the matrices by round, which repeat. `links[i]`: the processes with which
    process i exchanges messages. `shards`: the first so many processes train, each on the shard of its number; a
    coordinator comes last. `consensus_rounds`: rounds of mixing only, after the training rounds, in `merges` parts of
    equal length. `awaits_sizes`: peers count by their samples, and as these are not known yet, matrix and consensus
    rounds are those of equal shards.
    """

    mode: Mode
    topology: Topology
    matrix: Matrix
    links: tuple[frozenset[int], ...]
    shards: int
    consensus_rounds: int = 0
    merges: int = 1
    awaits_sizes: bool = False
    schedule: tuple[Matrix, ...] = ()

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Mixing matrices by round of each phase, from its first round on; they repeat."""
        return self.schedule or (self.matrix,)

    @property
    def period(self) -> int:
        """Rounds after which the mixing matrices repeat."""
        return len(self.matrices)

    @property
    def most_ahead(self) -> int:
        """Rounds by which a peer may be ahead of a neighbor at the most."""
        # Where an edge is used again within a period there may be credit for it two rounds before.
        return min(influence_rounds(self.schedule), self.period + 2) if self.schedule else 1

    def vectors_in(self, rounds: int) -> int:
        """Vectors sent in the first rounds of a phase, by nonzero weights off diagonals."""
        found = [int(np.count_nonzero(w - np.diag(np.diag(w)))) for w in self.matrices]
        return rounds // self.period * sum(found) + sum(found[: rounds % self.period])

    def vectors_in_merges(self, rounds: int) -> int:
        """Vectors sent in so many consensus rounds of all merges."""
        return self.merges * self.vectors_in(rounds // self.merges)

    @property
    def coordinator(self) -> int | None:
        """Number of the coordinator, if there is one."""
        return self.shards if self.mode.has_coordinator else None

    @property
    def evaluators(self) -> frozenset[int]:
        """Processes that evaluate during the run: the coordinator, or else all."""
        return frozenset(range(self.shards)) if self.coordinator is None else frozenset({self.coordinator})

    @property
    def model_owner(self) -> int | None:
        """Process that saves the run's model at the end; None without a common model."""
        if not self.mode.has_common_model:
            return None
        return 0 if self.coordinator is None else self.coordinator


def mode_of(config: RunConfig) -> Mode:
    """Mode of a run with these settings."""
    return MODES[config.mode]


def assign_roles(config: RunConfig, topology: Topology, sizes: Sizes = None) -> Roles:
    """Assign the processes of a run with these settings.

    `sizes`: samples of the shards, once they are known; they matter to --mixing samples only.

    Raises TopologyError where W does not keep the mean, ConfigError where malicious neighbors could be too many.
    """
    return mode_of(config).assign_roles(config, topology, sizes)


def topology_of(config: RunConfig) -> Topology | None:
    """Topology of a mode that needs no file; None where a file gives it."""
    make = mode_of(config).make_topology
    return None if make is None else make(config)


def _one_node(config: RunConfig) -> Topology:
    alone = nx.Graph()
    alone.add_node("0")
    return build_topology(alone, name="all-data", source="sgd", least=1)


def _star(config: RunConfig) -> Topology:
    clients = config.centralized.num_clients
    star = nx.Graph((str(client), COORDINATOR) for client in range(clients))
    return build_topology(star, name=f"star-{clients}-clients", source="--num-clients")


def _gossip(config: RunConfig, topology: Topology, sizes: Sizes) -> Roles:
    matrices = mixing_matrices_of(config, topology, sizes)
    neighborhoods = [[neighborhood(matrix, peer) for matrix in matrices] for peer in range(topology.n)]
    if is_robust(config):
        least = [min(len(one.incoming) for one in by_round) for by_round in neighborhoods]
        _check_byzantine(config.robust.byzantine or 0, topology, least)
    if topology.is_schedule:
        last_rounds = schedule_convergence(matrices).rounds(config.gossip.consensus_tolerance)
    elif uses_tree(config):
        last_rounds = diameter(spanning_tree(topology))
    else:
        # Robust rules are not accelerated; the vectors that they accept mix like W, which is the best estimate.
        count = mixing_rounds if is_robust(config) or pushes_sums(config) else consensus_rounds
        last_rounds = count(matrices[0], config.gossip.consensus_tolerance)
    merges = 2 if config.gossip.batch_norm_statistics == "reestimated" else 1
    return Roles(
        mode=MODES["gossip"],
        topology=topology,
        matrix=period_matrix(matrices),
        links=tuple(frozenset(p for one in own for p in (*one.incoming, *one.outgoing)) for own in neighborhoods),
        shards=topology.n,
        consensus_rounds=merges * last_rounds,
        merges=merges,
        awaits_sizes=sizes is None and registry.MIXINGS[config.gossip.mixing].weighs_by_samples,
        schedule=matrices if topology.is_schedule else (),
    )


def uses_tree(config: RunConfig) -> bool:
    """Whether sums are relayed along a spanning tree, so that no spectral gap applies."""
    entry = registry.entry_of("algorithm", config.gossip.algorithm)
    return mode_of(config).mixes and entry is not None and entry.uses_tree


def mixing_matrices_of(config: RunConfig, topology: Topology, sizes: Sizes = None) -> tuple[Matrix, ...]:
    """Mixing matrices of a gossip run by round: those of a schedule's graphs, or one.

    Raises TopologyError as `mixing_matrix_of` does, and where the algorithm needs the same in every round.
    """
    if not topology.is_schedule:
        return (mixing_matrix_of(config, topology, sizes),)
    entry, name = registry.entry_of("algorithm", config.gossip.algorithm), config.gossip.algorithm
    if entry is not None and entry.fixed_mixing:
        raise TopologyError(
            f"{topology.source}: a schedule of {len(topology.rounds)} graphs, and --algorithm {name} needs the same "
            "mixing matrix in every round; choose another --algorithm, or a topology of one graph"
        )
    return mixing_matrices(topology, config.gossip.mixing, sizes)


def pushes_sums(config: RunConfig) -> bool:
    """Whether peers push shares of sums, so that also the final merge is push-sum."""
    entry = registry.entry_of("algorithm", config.gossip.algorithm)
    return mode_of(config).mixes and entry is not None and entry.pushes_sums


def mixing_matrix_of(config: RunConfig, topology: Topology, sizes: Sizes = None) -> Matrix:
    """Mixing matrix of a gossip run, as its algorithm needs it.

    That of --mixing, (I + W) / 2, or that of a spanning tree. `sizes`: samples of the shards, for --mixing samples.
    Raises TopologyError where the algorithm needs a symmetric one, or positive self-weights.
    """
    entry, name = registry.entry_of("algorithm", config.gossip.algorithm), config.gossip.algorithm
    if uses_tree(config):
        return mixing_matrix(spanning_tree(topology))
    matrix = mixing_matrix(topology, config.gossip.mixing, sizes)
    if pushes_sums(config) and float(matrix.diagonal().min()) < LEAST_SELF_WEIGHT:
        raise TopologyError(
            f"{topology.source}: peer {topology.names[int(matrix.diagonal().argmin())]!r} has no self-weight, and with "
            f"--algorithm {name} would have nothing left when its neighbors are lost; use --mixing column-stochastic"
        )
    if entry is None or entry.least_eigenvalue is None:
        return matrix
    if not is_symmetric(matrix):
        raise TopologyError(
            f"{topology.source}: --algorithm {name} needs a symmetric mixing matrix, and --mixing "
            f"{config.gossip.mixing} gives another one here; make the graph undirected or choose another --algorithm"
        )
    return lazy(matrix) if smallest_eigenvalue(matrix) <= entry.least_eigenvalue else matrix


def mixing_note(config: RunConfig, topology: Topology) -> str | None:
    """Note on a mixing matrix other than that of --mixing; None without one."""
    if not mode_of(config).mixes or topology.is_schedule:
        return None
    if uses_tree(config):
        tree = spanning_tree(topology)
        count = f"{tree.graph.number_of_edges()} of {topology.graph.number_of_edges()} edges"
        return f"weights travel along a spanning tree of {count} and diameter {diameter(tree)}"
    entry = registry.entry_of("algorithm", config.gossip.algorithm)
    if pushes_sums(config):
        weights = push_weights(mixing_matrix(topology, config.gossip.mixing))
        unequal = weights.max() - weights.min() > 1e-6
        found = f"the peers' weights of push-sum approach {weights.min():.3g} to {weights.max():.3g}"
        return f"{found}; a model moves by the learning rate divided by its peer's weight" if unequal else None
    if entry is None or entry.least_eigenvalue is None:
        return None
    plain = mixing_matrix(topology, config.gossip.mixing)
    if smallest_eigenvalue(plain) > entry.least_eigenvalue:
        return None
    return (
        f"mixes with (I + W) / 2: the smallest eigenvalue of W is {smallest_eigenvalue(plain):.4f}, and "
        f"{config.gossip.algorithm} needs one above {entry.least_eigenvalue:.4f}"
    )


def _check_byzantine(byzantine: int, topology: Topology, degrees: list[int]) -> None:
    """Raise ConfigError if malicious vectors could be half of those a peer averages."""
    peer = min(range(topology.n), key=degrees.__getitem__)
    if 2 * byzantine >= degrees[peer] + 1:
        raise ConfigError(
            f"--byzantine {byzantine}: peer {topology.names[peer]} has {degrees[peer]} neighbors and tolerates at "
            f"most {degrees[peer] // 2} malicious ones; give it more neighbors or choose a smaller number"
        )


def _alone(config: RunConfig, topology: Topology, sizes: Sizes) -> Roles:
    n = topology.n
    return Roles(mode_of(config), topology, np.eye(n), links=(frozenset[int](),) * n, shards=n)


def _centralized(config: RunConfig, topology: Topology, sizes: Sizes) -> Roles:
    clients = topology.n - 1
    links = (frozenset({clients}),) * clients + (frozenset(range(clients)),)
    return Roles(MODES["centralized"], topology, np.eye(topology.n), links, shards=clients)


MODES: dict[ModeName, Mode] = {
    "gossip": Mode("gossip", _gossip, model_name="consensus model", mixes=True, has_peers=True),
    "centralized": Mode(
        "centralized",
        _centralized,
        _star,
        model_name="global model",
        has_coordinator=True,
        evaluates_fully=True,
        evaluates_each_round=True,
    ),
    "sgd": Mode("sgd", _alone, _one_node, least_nodes=1, pools_data=True, model_name="model", evaluates_fully=True),
    "local": Mode("local", _alone, has_peers=True),
}
