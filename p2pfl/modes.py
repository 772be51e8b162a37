"""Modes of a run as objects, and the roles of its processes in each.

A mode defines the processes of a run, their links, and the properties that depend on these. Other modules ask for its
attributes and never test for its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import networkx as nx
import numpy as np

from p2pfl import registry
from p2pfl.config import Mode as ModeName
from p2pfl.config import RunConfig, is_robust
from p2pfl.errors import ConfigError
from p2pfl.merge import FinalMerge, final_merge_of
from p2pfl.mixing import Mixing, Sizes, mixing_of
from p2pfl.topology import (
    Topology,
    build_topology,
    influence_rounds,
    neighborhood,
)
from p2pfl.topology.spectrum import Matrix

COORDINATOR = "coordinator"


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

    `mixing`: mixing matrices (n, n) of the training rounds, the identity where no weights are mixed. `links[i]`: the
    processes with which process i exchanges messages. `shards`: the first so many processes train, each on the shard of
    its number; a coordinator comes last. `merge`: the final merge, None where no weights are mixed; it is done `merges`
    times. `awaits_sizes`: peers count by their samples, and as these are not known yet, matrices and rounds are those
    of equal shards.
    """

    mode: Mode
    topology: Topology
    mixing: Mixing
    links: tuple[frozenset[int], ...]
    shards: int
    merge: FinalMerge | None = None
    merges: int = 1
    awaits_sizes: bool = False

    @property
    def matrix(self) -> Matrix:
        """Mixing matrix W; of a schedule of graphs the product of a period."""
        return self.mixing.w

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Mixing matrices by training round, from the first one on; they repeat."""
        return self.mixing.matrices

    @property
    def consensus_rounds(self) -> int:
        """Rounds of mixing only, after the training rounds."""
        return 0 if self.merge is None else self.merges * self.merge.rounds

    @property
    def on_schedule(self) -> bool:
        """Whether weights are mixed on a schedule of graphs."""
        return self.mode.mixes and self.topology.is_schedule

    @property
    def period(self) -> int:
        """Rounds after which the graphs repeat; 1 where one graph is for all rounds."""
        return len(self.matrices) if self.topology.is_schedule else 1

    @property
    def most_ahead(self) -> int:
        """Rounds by which a peer may be ahead of a neighbor at the most."""
        if not self.on_schedule:
            return 1
        # Where an edge is used again within a period there may be credit for it two rounds before.
        return min(influence_rounds(self.matrices), self.period + 2)

    def vectors_in(self, rounds: int) -> int:
        """Vectors sent in the first rounds of the final merge, by nonzero weights."""
        matrices = self.matrices if self.merge is None else self.merge.mixing.matrices
        found = [int(np.count_nonzero(w - np.diag(np.diag(w)))) for w in matrices]
        return rounds // len(found) * sum(found) + sum(found[: rounds % len(found)])

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
        if not self.mode.has_common_model or (self.merge is not None and self.merge.rule == "none"):
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
    mixing = mixing_of(config, topology, sizes)
    neighborhoods = [[neighborhood(matrix, peer) for matrix in mixing.matrices] for peer in range(topology.n)]
    if is_robust(config):
        least = [min(len(one.incoming) for one in by_round) for by_round in neighborhoods]
        _check_byzantine(config.robust.byzantine or 0, topology, least)
    return Roles(
        mode=MODES["gossip"],
        topology=topology,
        mixing=mixing,
        links=tuple(frozenset(p for one in own for p in (*one.incoming, *one.outgoing)) for own in neighborhoods),
        shards=topology.n,
        merge=final_merge_of(config, topology, mixing),
        merges=2 if config.gossip.batch_norm_statistics == "reestimated" else 1,
        awaits_sizes=sizes is None and registry.MIXINGS[config.gossip.mixing].weighs_by_samples,
    )


def has_final_model(config: RunConfig) -> bool:
    """Whether a run ends with one model of all processes."""
    mode = mode_of(config)
    return mode.has_common_model and not (mode.mixes and config.gossip.final_merge == "none")


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
    return Roles(mode_of(config), topology, Mixing.fixed(np.eye(n)), links=(frozenset[int](),) * n, shards=n)


def _centralized(config: RunConfig, topology: Topology, sizes: Sizes) -> Roles:
    clients = topology.n - 1
    links = (frozenset({clients}),) * clients + (frozenset(range(clients)),)
    return Roles(MODES["centralized"], topology, Mixing.fixed(np.eye(topology.n)), links, shards=clients)


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
