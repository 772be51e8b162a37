"""Adaptive consensus, which lets peers disagree while the learning rate is low.

DSGD-AC (Wang & Johansson 2026, arXiv 2602.02899, "Decentralized SGD with controlled disagreement finds flatter
minima"):
    x_i⁺ = (1 − γ_t) x_i + γ_t Σ_j W_ij x_j − η_t u_i
with γ_t = 1 until the learning rate has reached its peak and (η_t / η_max)^p afterwards, p = 3; u_i: the update of the
local optimizer, SGD or AdamW, at x_i. That is the overlapped order. Adapt-then-combine (a rule of ours) takes the same
share of the way from the trained x_i to the average of the trained ones. With K local steps η_t is their mean learning
rate; K has to be the same for all peers, whose mean is kept only if all have the same γ. Peers do not agree at the end:
the consensus phase is part of the method. Buffers are mixed with γ = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, AlgorithmOptions, Outgoing, RoundContext
from p2pfl.algorithms.dpsgd import DPSGD, DPSGDState
from p2pfl.payload import Encoding, Payload
from p2pfl.topology import NeighborhoodSchedule

POWER = 3.0  # p, the paper's choice


@dataclass
class AdaptiveConsensusState:
    """mixing: state of D-PSGD. trained: x before mixing, where that writes to x."""

    mixing: DPSGDState
    trained: Tensor | None


@dataclass(frozen=True)
class AdaptiveConsensus(Algorithm[AdaptiveConsensusState]):
    """D-PSGD whose peers move only a share γ_t of the way to their average.

    max_lr: η_max. peak_round: round in which the learning rate reaches it; γ is 1 until then.
    """

    dpsgd: DPSGD = field(default_factory=DPSGD)
    max_lr: float = 1.0
    peak_round: int = 1
    buffers: tuple[slice, ...] = ()
    streaming: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return self.dpsgd.encodings

    @property
    def overlapped(self) -> bool:
        return self.dpsgd.overlapped

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(DPSGD.of(options), options.max_lr, options.peak_round, options.buffers)

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> AdaptiveConsensusState:
        mixing = self.dpsgd.init(x, schedule)
        buffers = mixing.buffers
        return AdaptiveConsensusState(mixing, torch.empty_like(x) if buffers.mixed is buffers.x else None)

    def outgoing(self, state: AdaptiveConsensusState, ctx: RoundContext) -> Outgoing:
        if state.trained is not None:
            state.trained.copy_(state.mixing.buffers.x)
        return self.dpsgd.outgoing(state.mixing, ctx)

    def own(self, state: AdaptiveConsensusState) -> Payload:
        return self.dpsgd.own(state.mixing)

    def accumulate(self, state: AdaptiveConsensusState, sender: int, part: Payload) -> None:
        self.dpsgd.accumulate(state.mixing, sender, part)

    def add_borrowed(self, state: AdaptiveConsensusState, parts: Mapping[int, Payload]) -> bool:
        return self.dpsgd.add_borrowed(state.mixing, parts)

    def finish(self, state: AdaptiveConsensusState, ctx: RoundContext) -> Tensor:
        gamma, buffers = self.share(ctx), state.mixing.buffers
        if gamma < 1.0 and ctx.neighborhood.incoming:
            kept = [buffers.mixed[place].clone() for place in self.buffers]
            buffers.mixed.lerp_(buffers.own if state.trained is None else state.trained, 1.0 - gamma)
            for place, values in zip(self.buffers, kept, strict=True):
                buffers.mixed[place] = values
        return self.dpsgd.finish(state.mixing, ctx)

    def share(self, ctx: RoundContext) -> float:
        """γ of a round: the share of the way to the average that a peer moves."""
        if ctx.round <= self.peak_round or ctx.steps == 0:
            return 1.0
        return float(min(1.0, ctx.lr_sum / ctx.steps / self.max_lr) ** POWER)
