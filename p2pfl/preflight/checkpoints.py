"""Number of checkpoints that a process keeps, so that a stopped run can go back."""

from __future__ import annotations

import networkx as nx
import numpy as np

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.modes import Roles, mode_of
from p2pfl.run.retention import KEPT

_EXACT = 4_000_000  # peers times links up to which the diameter is computed; with more it is bounded
_OF_CLIENT = 4  # its newest, those at the coordinator's last two, and the one from which it resumed


def checkpoints_kept(roles: Roles, config: RunConfig) -> int:
    """Checkpoints that a process keeps at the most, without the one that it writes.

    With one after each round, neighbors send each other the vectors by which their newest differ. With one in K rounds
    all go back to the newest that all have, so that those of as many rounds are kept as peers may be apart.
    """
    every = config.record.checkpoint_every
    if every == 1:
        return max(KEPT, roles.most_ahead)
    if roles.coordinator is not None:
        return _OF_CLIENT
    if not roles.mode.mixes:
        return KEPT
    return max(KEPT, 1 + -(-rounds_apart(_diameter(roles), roles, config) // every))


def checkpoints_on_disk(roles: Roles, config: RunConfig) -> int:
    """Checkpoints that a process keeps at the most, in a run of so many rounds.

    The last training round's is one more where it is none of every so many.
    """
    rounds, every, kept = config.training.rounds, config.record.checkpoint_every, checkpoints_kept(roles, config)
    if mode_of(config).has_coordinator:
        return min(kept, rounds)
    return min(kept + (rounds % every > 0), -(-rounds // every))


def check_each_round(config: RunConfig) -> None:
    """Refuse rounds between two checkpoints of a peer that is started alone.

    It sees no other peer's checkpoints, and not the round to which all go back. Raises ConfigError.
    """
    every = config.record.checkpoint_every
    if every > 1 and config.record.checkpoint:
        raise ConfigError(
            f"--checkpoint-every {every}: peers that are started one by one (p2pfl peer) save after each round, since "
            "none sees to which round all can go back; take it out, or use --no-checkpoint"
        )


def _diameter(roles: Roles) -> int:
    """Longest way between two peers in links, or a bound of it."""
    links = nx.Graph((peer, link) for peer, own in enumerate(roles.links) for link in own)
    hops = 0
    for part in nx.connected_components(links):
        some = links.subgraph(part)
        is_small = len(part) * some.number_of_edges() <= _EXACT
        hops = max(hops, nx.diameter(some) if is_small else 2 * nx.eccentricity(some, min(part)))
    return hops


def rounds_apart(hops: int, roles: Roles, config: RunConfig) -> int:
    """Rounds by which checkpoints on disk of peers that many links apart may differ."""
    exchanges = hops * _exchanges_ahead(roles)
    # In the overlapped order a round's vectors leave before the checkpoint of the round before is on disk.
    return -(-exchanges // config.gossip.gossip_steps) + (config.gossip.order == "overlapped")


def _exchanges_ahead(roles: Roles) -> int:
    """Exchanges by which a peer may be ahead of a neighbor at the most."""
    if roles.on_schedule:
        return roles.most_ahead
    pattern = roles.matrix != 0
    # Where a neighbor only receives, it has granted credit for its next exchange, too.
    return 1 if np.array_equal(pattern, pattern.T) else 2
