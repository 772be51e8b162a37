"""Estimate of an exchange's messages and memory."""

from __future__ import annotations

import os
from statistics import fmean

from p2pfl import registry
from p2pfl.algorithms.blockwise import SIDE_BLOCK
from p2pfl.config import RunConfig, is_robust, shares_memory, spans_machines
from p2pfl.mixing import pushes_sums
from p2pfl.modes import Roles, mode_of
from p2pfl.protocol.inbox import WINDOW
from p2pfl.topology import neighborhood

SEGMENTS = 3  # of a payload in shared memory: this round's, and two before that a slow neighbor has not averaged
CONSENSUS_VECTORS = 2  # kept by accelerated averaging besides the model's: the previous and the next


def vectors_sent(roles: Roles, config: RunConfig) -> tuple[list[float], int]:
    """Vectors that each process sends in a round, and the most that one receives.

    Received in an exchange. Of a schedule the mean of its graphs.
    """
    if roles.coordinator is not None:
        selected = config.centralized.num_selected
        return [1.0] * selected + [float(selected)], selected
    by_round = [[neighborhood(matrix, peer) for peer in range(roles.shards)] for matrix in roles.matrices]
    steps = config.gossip.gossip_steps
    sent = [steps * fmean(len(own[peer].outgoing) for own in by_round) for peer in range(roles.shards)]
    return sent, max(len(one.incoming) for own in by_round for one in own)


def shares_kept(roles: Roles, config: RunConfig) -> int:
    """Vectors that push-sum may keep for absent edges of a schedule.

    Two for each out-neighbor of a period, as rounds of the same edge may follow each other; one for each graph.
    """
    if roles.period == 1 or not pushes_sums(config):
        return 0
    receivers = sum(matrix != 0 for matrix in roles.matrices).astype(bool)
    return min(roles.period - 1, 2 * int(receivers.sum(axis=0).max() - 1))


def shared_memory(config: RunConfig, roles: Roles, whole: int, coded: int) -> int:
    """Peak bytes of a process's segments, on one machine; 0 where there are none.

    `whole`, `coded`: bytes of a vector in float32 and as it travels. Where each neighbor gets another payload, there
    are segments for each.
    """
    if not is_shared(config) or not any(roles.links):
        return 0
    entry = registry.entry_of("algorithm", config.gossip.algorithm) if roles.mode.mixes else None
    payloads = max(map(len, roles.links)) if entry is not None and entry.differs_by_neighbor else 1
    merged = whole if roles.consensus_rounds else 0
    return SEGMENTS * max(payloads * coded, merged)


def is_shared(config: RunConfig) -> bool:
    """Whether this system shares memory, and the run on it does."""
    may_spread = spans_machines(config) and config.exchange.transport == "auto"
    return hasattr(os, "memfd_create") and shares_memory(config.exchange) and not may_spread


def exchange_memory(config: RunConfig, whole: int, coded: int, degree: int, shares: int = 0) -> int:
    """Peak bytes of sent vectors, averages, and received vectors not yet folded.

    `whole`, `coded`: bytes of a vector in float32 and as it travels. `degree`: the most neighbors of a peer. `shares`:
    those of `shares_kept`.
    """
    if not degree:
        return 0
    waiting = min(degree, WINDOW)
    # The checkpoint of a round holds what each of its exchanges has sent.
    copies = (config.gossip.gossip_steps - 1) * coded if config.record.checkpoint else 0
    if is_robust(config):
        blocks = (degree + 2) * SIDE_BLOCK * 4
        if mode_of(config).mixes and is_shared(config):  # neighbors' vectors stay in their memory
            return copies + coded + whole + blocks
        if mode_of(config).mixes:  # the consensus phase again: every neighbor's vector, and those of the next round
            return copies + coded + (1 + degree + waiting) * whole + blocks
        return 2 * whole + (coded if coded != whole else 0) + degree * coded + blocks
    if mode_of(config).mixes:
        entry = registry.entry_of("algorithm", config.gossip.algorithm)
        kept, beside = (0, 0) if entry is None else (entry.kept_vectors, entry.kept_per_neighbor * degree)
        kept += 2 * config.gossip.average_momentum  # the momentum that is carried, and its mix
        training = copies + (kept + beside + 1) * whole + (1 + waiting + shares) * coded
        # The consensus phase exchanges float32 while what training sent last is kept.
        merging = CONSENSUS_VECTORS if entry is None or not entry.pushes_sums else kept
        last = coded if config.gossip.batch_norm_statistics != "reestimated" else whole  # then a merge sent last, too
        return max(training, last + (merging + beside + waiting + shares) * whole)
    return 2 * whole + (coded if coded != whole else 0) + waiting * coded
