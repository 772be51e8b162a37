"""Who takes part in a run of each mode, and who exchanges weights with whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import networkx as nx
import numpy as np

from p2pfl.config import Mode, RunConfig, is_robust
from p2pfl.errors import ConfigError
from p2pfl.topology import Topology, build_topology, consensus_rounds, mixing_matrix, mixing_rounds, neighborhood
from p2pfl.topology.spectrum import Matrix

COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Cast:
    """The processes of a run: one for each node of the topology, in its order.

    `matrix` is the (n, n) mixing matrix; the identity where nobody mixes. `links[i]` are those that process i talks
    to. The first `shards` processes train, each on the shard of its number; in centralized mode the last one is the
    coordinator. `consensus_rounds` of mixing only follow on the training rounds.
    """

    mode: Mode
    topology: Topology
    matrix: Matrix
    links: tuple[frozenset[int], ...]
    shards: int
    consensus_rounds: int = 0

    @property
    def channels(self) -> int:
        """How many vectors a round of mixing sends: one for each ordered pair that W gives a weight."""
        return int(np.count_nonzero(self.matrix - np.diag(np.diag(self.matrix))))

    @property
    def coordinator(self) -> int | None:
        """The coordinator's number, if there is one."""
        return self.shards if self.mode == "centralized" else None

    @property
    def evaluators(self) -> frozenset[int]:
        """Those that evaluate during the run: the coordinator where there is one, else everybody."""
        return frozenset(range(self.shards)) if self.coordinator is None else frozenset({self.coordinator})

    @property
    def model_holder(self) -> int | None:
        """Who has the run's model at the end; None where there is no common model."""
        if self.mode == "local":
            return None
        return 0 if self.coordinator is None else self.coordinator


def cast(config: RunConfig, topology: Topology) -> Cast:
    """The processes of a run with these settings.

    Raises TopologyError where W would not keep the mean, ConfigError where hostile neighbors could be too many.
    """
    return _CASTS[config.mode](config, topology)


def topology_of(config: RunConfig) -> Topology | None:
    """The topology of a mode that needs no file; None where a file says it."""
    if config.mode == "sgd":
        alone = nx.Graph()
        alone.add_node("0")
        return build_topology(alone, name="all-data", source="sgd", least=1)
    if config.mode == "centralized":
        clients = config.centralized.num_clients
        star = nx.Graph((str(client), COORDINATOR) for client in range(clients))
        return build_topology(star, name=f"star-{clients}-clients", source="--num-clients")
    return None


def _gossip(config: RunConfig, topology: Topology) -> Cast:
    matrix = mixing_matrix(topology, config.gossip.mixing)
    hoods = [neighborhood(matrix, peer) for peer in range(topology.n)]
    if is_robust(config):
        _check_byzantine(config.robust.byzantine or 0, topology, [len(hood.incoming) for hood in hoods])
    # Robust rules are not accelerated; what they let pass mixes like W, so that is the best guess there is.
    count = mixing_rounds if is_robust(config) else consensus_rounds
    return Cast(
        mode="gossip",
        topology=topology,
        matrix=matrix,
        links=tuple(frozenset({*hood.incoming, *hood.outgoing}) for hood in hoods),
        shards=topology.n,
        consensus_rounds=count(matrix, config.gossip.consensus_tolerance),
    )


def _check_byzantine(byzantine: int, topology: Topology, degrees: list[int]) -> None:
    """Raises ConfigError where hostile neighbors could be half of all the vectors that a peer averages."""
    peer = min(range(topology.n), key=degrees.__getitem__)
    if 2 * byzantine >= degrees[peer] + 1:
        raise ConfigError(
            f"--byzantine {byzantine}: peer {topology.names[peer]} has {degrees[peer]} neighbors, and its own vector "
            f"and theirs bear at most {degrees[peer] // 2}; give it more neighbors or choose a smaller number"
        )


def _alone(config: RunConfig, topology: Topology) -> Cast:
    n = topology.n
    return Cast(config.mode, topology, np.eye(n), links=(frozenset[int](),) * n, shards=n)


def _centralized(config: RunConfig, topology: Topology) -> Cast:
    clients = topology.n - 1
    links = (frozenset({clients}),) * clients + (frozenset(range(clients)),)
    return Cast("centralized", topology, np.eye(topology.n), links, shards=clients)


_CASTS: dict[Mode, Callable[[RunConfig, Topology], Cast]] = {
    "gossip": _gossip,
    "centralized": _centralized,
    "sgd": _alone,
    "local": _alone,
}
