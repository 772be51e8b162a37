"""Size of an algorithm's part of a checkpoint, measured on a short vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from p2pfl import registry
from p2pfl.algorithms import build_algorithm
from p2pfl.algorithms.base import Algorithm, RoundContext, Saved
from p2pfl.config import RunConfig
from p2pfl.payload import Payload
from p2pfl.topology import Neighborhood, neighborhood
from p2pfl.topology.spectrum import Matrix

SHORT = 64  # elements of the vector
SETTLING = 3  # rounds after which a state grows no longer, beside a period of a schedule
_RATE = 0.1  # learning rate of the rounds; a state is as long with any

Shape = tuple[tuple[tuple[int, ...], ...], ...]
"""In- and out-neighbors by round, numbered as they first occur: peers of one shape have checkpoints of one size."""


@dataclass(frozen=True)
class SavedSize:
    """Size of an algorithm's part of a checkpoint, in the mean over a period.

    `state`: the algorithm's state, in models of float32. `payloads`: different vectors that were sent, in models as
    they travel, of all exchanges of a training round.
    """

    state: float
    payloads: float


def saved_sizes(config: RunConfig, matrices: Sequence[Matrix], peers: Sequence[int]) -> list[SavedSize]:
    """Sizes for some of the peers.

    `matrices`: mixing matrices by round of a period. Raises ConfigError as `build_algorithm` does.
    """
    algorithm = build_algorithm(config, len(matrices[0]))
    known: dict[Shape, SavedSize] = {}
    found = []
    for peer in peers:
        schedule = [neighborhood(matrix, peer) for matrix in matrices]
        shape = _shape(schedule)
        if shape not in known:
            known[shape] = _measured(algorithm, schedule, config)
        found.append(known[shape])
    return found


def _shape(schedule: Sequence[Neighborhood]) -> Shape:
    numbers: dict[int, int] = {}
    for neighbor in chain.from_iterable((*one.incoming, *one.outgoing) for one in schedule):
        numbers.setdefault(neighbor, len(numbers))
    return tuple(tuple(tuple(numbers[n] for n in ends) for ends in (one.incoming, one.outgoing)) for one in schedule)


def _measured(algorithm: Algorithm[Any], schedule: Sequence[Neighborhood], config: RunConfig) -> SavedSize:
    """Size for one peer."""
    try:
        states, sent = _played(algorithm, schedule, config)
    except Exception:
        if registry.entry_of("algorithm", config.gossip.algorithm) is not None:
            raise
        return SavedSize(0.0, 1.0)  # a user's, which needs a real vector: at least what all checkpoints hold
    period = len(schedule)
    return SavedSize(fmean(states[-period:]), fmean(sent[-period:]))


def _played(
    algorithm: Algorithm[Any], schedule: Sequence[Neighborhood], config: RunConfig
) -> tuple[list[float], list[float]]:
    """State and payloads, in models, after each training round.

    Neighbors send what the peer itself does.
    """
    x = torch.linspace(-1.0, 1.0, SHORT)
    state = algorithm.init(x, lambda round: schedule[(round - 1) % len(schedule)])
    exchange, states, sent = 0, [], []
    for _ in range(min(config.training.rounds, len(schedule) + SETTLING)):
        vectors = 0.0
        for _ in range(config.gossip.gossip_steps):
            exchange += 1
            here = schedule[(exchange - 1) % len(schedule)]
            vectors += _exchanged(algorithm, state, RoundContext(exchange, here, 1, 1, 1.0, _RATE, _RATE))
        sent.append(vectors)
        states.append(_models(algorithm.state_dict(state)))
    return states, sent


def _exchanged(algorithm: Algorithm[Any], state: Any, ctx: RoundContext) -> float:  # of the algorithm's own type
    """Play one exchange; different vectors that were sent, in models."""
    payloads = dict(algorithm.outgoing(state, ctx))
    received = next(iter(payloads.values()), None) or algorithm.own(state)
    me = ctx.neighborhood.me
    for sender in sorted([*ctx.neighborhood.incoming, me]):
        algorithm.accumulate(state, sender, algorithm.own(state) if sender == me else received)
    algorithm.finish(state, ctx)
    return _different(payloads) / len(algorithm.encodings)


def _different(payloads: Mapping[int, Payload]) -> int:
    """Number of different vectors; neighbors that are sent the same share it."""
    pieces = (piece for payload in payloads.values() for name in payload.vectors for piece in payload.vectors[name])
    return len({piece.data_ptr() for piece in pieces})


def _models(saved: Saved) -> float:
    tensors = (value for value in saved.values() if isinstance(value, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / (4 * SHORT)
