"""Cost of a swarm by its size and topology: bytes, messages, memory, disk, rounds."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfl.config import RunConfig
from p2pfl.model.vector import Layout
from p2pfl.modes import Roles
from p2pfl.preflight.estimate import coded_bytes, disk_space_needed
from p2pfl.preflight.exchanges import exchange_memory, shares_kept, vectors_sent
from p2pfl.protocol.wire import chunk_count
from p2pfl.topology.spectrum import convergence
from p2pfl.training.optimizer import state_vectors

# Bytes of messages besides their numbers, as measured in the first rounds; later ones have a few more for the round.
GRANT_BYTES, ACK_BYTES, CHUNK_HEADER_BYTES = 60, 58, 85


@dataclass(frozen=True)
class SwarmCost:
    """Cost of a gossip swarm.

    Bytes and messages are of a training round without losses, `neighbors` of the peer with most. `plain` and `phase`:
    rounds of mixing that shrink a disagreement to --consensus-tolerance, as in training rounds and in the consensus
    phase. `connections`: of a peer with its neighbors, in both directions. `memory`: bytes of weights and exchange of a
    peer, without activations, libraries and data. `disk`: bytes of a peer's checkpoints at their most.
    """

    peers: int
    neighbors: int
    gap: float
    plain: int
    phase: int
    bytes_by_peer: float
    bytes_in_all: int
    messages_in_all: int
    phase_bytes: int
    connections: int
    memory: int
    disk: int


def swarm_cost(roles: Roles, config: RunConfig, layout: Layout) -> SwarmCost:
    """Compute the cost of a swarm on one graph from its roles, settings and model.

    For each vector a peer gets the receiver's credit (a grant), sends chunks, and gets an acknowledgment.
    """
    whole, coded = layout.size * 4, coded_bytes(config, layout)
    sent, degree = vectors_sent(roles, config)
    vectors, chunks = round(sum(sent)), chunk_count(coded)
    in_all = vectors * (coded + chunks * CHUNK_HEADER_BYTES + GRANT_BYTES + ACK_BYTES)
    found = convergence(roles.matrix, config.gossip.consensus_tolerance)
    links = max(len(own) for own in roles.links)
    weights = (2 + state_vectors(config.training)) * whole
    return SwarmCost(
        peers=roles.shards,
        neighbors=links,
        gap=found.gap,
        plain=found.plain,
        phase=found.accelerated,
        bytes_by_peer=in_all / roles.shards,
        bytes_in_all=in_all,
        messages_in_all=vectors * (chunks + 2),
        phase_bytes=roles.vectors_in_merges(found.accelerated) * whole,
        connections=2 * links,
        memory=weights + exchange_memory(config, whole, coded, degree, shares_kept(roles, config)),
        disk=disk_space_needed(roles, config, layout, 1),
    )
