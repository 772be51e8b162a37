"""Quasi-global momentum.

QG-DSGDm-N (Lin, Karimireddy, Stich & Jaggi 2021, "Quasi-global momentum: accelerating decentralized deep learning on
heterogeneous data", algorithm 1, with Nesterov momentum as in the experiments):
    m̂ = β m_i + g_i(x_i)                  local momentum of one step, not kept
    x_i⁺ = Σ_j W_ij (x_j − η (g_j + β m̂_j))
    m_i⁺ = β m_i + (1 − β) (x_i − x_i⁺) / η
so that momentum follows the movement of the model after mixing, which is similar for all peers, instead of the local
gradients. With K local steps each starts from m_i, and the movement of the round is divided by the sum of its learning
rates (the authors' code: ητ for τ equal steps). β in the last line is --momentum, also where a schedule swings it.
AdamW is refused: its steps are scaled coordinate by coordinate, and the movement of the model is no mean of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, AlgorithmOptions, Outgoing, RoundContext, Saved
from p2pfl.algorithms.dpsgd import DPSGD, DPSGDState
from p2pfl.payload import Encoding, LocalTraining, Payload
from p2pfl.topology import NeighborhoodSchedule


@dataclass
class QuasiGlobalState:
    """mixing: state of D-PSGD. momentum: m_i. before: x_i at the round's start."""

    mixing: DPSGDState
    momentum: Tensor
    before: Tensor


@dataclass(frozen=True)
class QuasiGlobal(Algorithm[QuasiGlobalState]):
    """D-PSGD whose momentum follows the mixed model (adapt-then-combine)."""

    beta: float = 0.9
    dpsgd: DPSGD = field(default_factory=DPSGD)
    buffers: tuple[slice, ...] = ()
    streaming: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return self.dpsgd.encodings

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(options.momentum, DPSGD(wire_dtype=options.wire_dtype), options.buffers)

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> QuasiGlobalState:
        return QuasiGlobalState(self.dpsgd.init(x, schedule), torch.zeros_like(x), x.clone())

    def request(self, state: QuasiGlobalState, ctx: RoundContext, asked: LocalTraining) -> LocalTraining:
        state.before.copy_(state.mixing.buffers.x)
        return replace(asked, momentum=state.momentum)

    def outgoing(self, state: QuasiGlobalState, ctx: RoundContext) -> Outgoing:
        return self.dpsgd.outgoing(state.mixing, ctx)

    def own(self, state: QuasiGlobalState) -> Payload:
        return self.dpsgd.own(state.mixing)

    def accumulate(self, state: QuasiGlobalState, sender: int, part: Payload) -> None:
        self.dpsgd.accumulate(state.mixing, sender, part)

    def add_borrowed(self, state: QuasiGlobalState, parts: Mapping[int, Payload]) -> bool:
        return self.dpsgd.add_borrowed(state.mixing, parts)

    def finish(self, state: QuasiGlobalState, ctx: RoundContext) -> Tensor:
        mixed = self.dpsgd.finish(state.mixing, ctx)
        if ctx.lr_sum > 0.0:
            movement = state.before.sub_(mixed)
            for place in self.buffers:
                movement[place] = 0.0
            state.momentum.mul_(self.beta).add_(movement, alpha=(1.0 - self.beta) / ctx.lr_sum)
        return mixed

    def state_dict(self, state: QuasiGlobalState) -> Saved:
        return {"momentum": state.momentum}

    def load_state_dict(self, state: QuasiGlobalState, saved: Saved) -> None:
        momentum = saved["momentum"]
        assert isinstance(momentum, Tensor)
        state.momentum.copy_(momentum)
