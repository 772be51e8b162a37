"""Gossip by a Byzantine-robust rule: clipped, trimmed mean and median.

    x_i⁺ = R(x_j of the neighbors, x_i)                 float32 wire
    x_i⁺ = x_i + R(Q(x_j), Q(x_i)) − Q(x_i)             bfloat16 wire: Q rounds; peers that agree stay where they are

in both orders, as in `dpsgd`. A neighbor's vector waits for the others: memory is as many models as neighbors, but for
vectors in shared memory, which wait where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from p2pfl.algorithms.base import ONLY_X, Algorithm, AlgorithmOptions, Outgoing, RoundContext
from p2pfl.algorithms.blockwise import Pieces
from p2pfl.algorithms.buffers import Buffers
from p2pfl.algorithms.rules import Blocks, clip_and_mix, median, trimmed_mean
from p2pfl.payload import ENCODINGS, Encoding, Payload
from p2pfl.topology import Neighborhood, NeighborhoodSchedule


class Rule(Protocol):
    """A peer's next vector from its own and its neighbors'."""

    def __call__(self, neighborhood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Blocks:
        """Blocks of the next vector.

        `vectors`: (sender, vector) in peer order, the peer's own at its place.
        """


@dataclass(frozen=True)
class Clipped:
    """Self-centered clipping against `byzantine` malicious neighbors.

    See `rules.clip_and_mix`. `radius`: a fixed τ.
    """

    byzantine: int
    radius: float | None = None

    def __call__(self, neighborhood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Blocks:
        return clip_and_mix(neighborhood, vectors, self.byzantine, self.radius)

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Robust:
        """Gossip by this rule."""
        return Robust(cls(options.byzantine), options.overlapped, options.wire_dtype, options.buffers)


@dataclass(frozen=True)
class TrimmedMean:
    """Coordinate-wise trimmed mean against `byzantine` malicious neighbors.

    See `rules.trimmed_mean`.
    """

    byzantine: int

    def __call__(self, neighborhood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Blocks:
        return trimmed_mean([pieces for _, pieces in vectors], self.byzantine)

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Robust:
        """Gossip by this rule."""
        return Robust(cls(options.byzantine), options.overlapped, options.wire_dtype, options.buffers)


@dataclass(frozen=True)
class Median:
    """Coordinate-wise median (`rules.median`).

    Tolerates any number of malicious vectors below half of all.
    """

    def __call__(self, neighborhood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Blocks:
        return median([pieces for _, pieces in vectors])

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Robust:
        """Gossip by this rule."""
        return Robust(cls(), options.overlapped, options.wire_dtype, options.buffers)


@dataclass
class RobustState:
    """Vectors of the peer and of this round.

    gathered: (sender, vector) in peer order, the peer's own among them.
    """

    buffers: Buffers
    neighborhood: Neighborhood = field(init=False)
    gathered: list[tuple[int, Pieces]] = field(default_factory=list)


@dataclass(frozen=True)
class Robust(Algorithm[RobustState]):
    """Mix by a rule once a round; all neighbors get the same vector."""

    rule: Rule
    overlapped: bool = False
    wire_dtype: str = "fp32"
    buffers: tuple[slice, ...] = ()
    is_robust: bool = True
    reads_borrowed: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return ONLY_X[self.wire_dtype]

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> RobustState:
        return RobustState(Buffers.of_vector(x, self.overlapped, ENCODINGS[self.wire_dtype]))

    def outgoing(self, state: RobustState, ctx: RoundContext) -> Outgoing:
        state.neighborhood = ctx.neighborhood
        state.buffers.begin(ctx.memory)
        state.gathered.clear()
        return dict.fromkeys(ctx.neighborhood.outgoing, state.buffers.payload)

    def own(self, state: RobustState) -> Payload:
        return state.buffers.payload

    def accumulate(self, state: RobustState, sender: int, part: Payload) -> None:
        state.gathered.append((sender, part.vectors["x"]))

    def finish(self, state: RobustState, ctx: RoundContext) -> Tensor:
        buffers = state.buffers
        for here, block in self.rule(state.neighborhood, state.gathered):
            if buffers.is_exact:
                buffers.mixed[here] = block
            else:
                torch.add(buffers.own[here], block.sub_(buffers.sent[here]), out=buffers.mixed[here])
        state.gathered.clear()
        return buffers.finish(self.buffers)
