"""Averaged momentum: D-PSGD that mixes momentum as it mixes models.

Momentum SGD with averaging of models and momentum buffers (Yu, Jin & Yang 2019, "On the linear speedup analysis of
communication efficient momentum SGD for distributed non-convex optimization": the mean of all after every K local
steps, and with a mixing matrix W after each step; K steps with W: Gao & Huang 2020, "Periodic stochastic gradient
descent with momentum for decentralized training"), here with Nesterov momentum as --momentum has it:
    K times: m_i ← β m_i + g_i(x_i),  x_i ← x_i − η (g_i + β m_i)
    x_i⁺ = Σ_j W_ij x_j,  m_i⁺ = Σ_j W_ij m_j
x and m travel: twice the bytes of D-PSGD. Where a neighbor's vectors do not come, the peer's own stand in for both. A
peer that takes its neighbors' weights (bootstrap) keeps its own momentum, which is 0 if it has lost that, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, AlgorithmOptions, Outgoing, RoundContext, Saved
from p2pfl.algorithms.dpsgd import DPSGD, DPSGDState
from p2pfl.payload import ENCODINGS, Encoding, LocalTraining, Payload
from p2pfl.topology import NeighborhoodSchedule


@dataclass
class AveragedMomentumState:
    """models, momenta: states of D-PSGD that mix x and m."""

    models: DPSGDState
    momenta: DPSGDState


@dataclass(frozen=True)
class AveragedMomentum(Algorithm[AveragedMomentumState]):
    """D-PSGD that mixes models and momentum by W (adapt-then-combine)."""

    dpsgd: DPSGD = field(default_factory=DPSGD)
    streaming: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        encoding = ENCODINGS[self.dpsgd.wire_dtype]
        return {"x": encoding, "m": encoding}

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(DPSGD(wire_dtype=options.wire_dtype, buffers=options.buffers))

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> AveragedMomentumState:
        return AveragedMomentumState(self.dpsgd.init(x, schedule), self.dpsgd.init(torch.zeros_like(x), schedule))

    def request(self, state: AveragedMomentumState, ctx: RoundContext, asked: LocalTraining) -> LocalTraining:
        return replace(asked, carried_momentum=state.momenta.buffers.x)

    def outgoing(self, state: AveragedMomentumState, ctx: RoundContext) -> Outgoing:
        self.dpsgd.outgoing(state.models, ctx)
        self.dpsgd.outgoing(state.momenta, ctx)
        return dict.fromkeys(ctx.neighborhood.outgoing, self.own(state))

    def own(self, state: AveragedMomentumState) -> Payload:
        models, momenta = self.dpsgd.own(state.models), self.dpsgd.own(state.momenta)
        return Payload({"x": models.vectors["x"], "m": momenta.vectors["x"]}, is_stable=True)

    def accumulate(self, state: AveragedMomentumState, sender: int, part: Payload) -> None:
        for name, mixing in (("x", state.models), ("m", state.momenta)):
            if name in part.vectors:
                self.dpsgd.accumulate(mixing, sender, Payload({"x": part.vectors[name]}))

    def add_borrowed(self, state: AveragedMomentumState, parts: Mapping[int, Payload]) -> bool:
        [name] = next(iter(parts.values())).vectors
        mixing = {"x": state.models, "m": state.momenta}[name]
        return self.dpsgd.add_borrowed(
            mixing, {sender: Payload({"x": part.vectors[name]}) for sender, part in parts.items()}
        )

    def finish(self, state: AveragedMomentumState, ctx: RoundContext) -> Tensor:
        self.dpsgd.finish(state.momenta, ctx)
        return self.dpsgd.finish(state.models, ctx)

    def state_dict(self, state: AveragedMomentumState) -> Saved:
        return {"momentum": state.momenta.buffers.x}

    def load_state_dict(self, state: AveragedMomentumState, saved: Saved) -> None:
        momentum = saved["momentum"]
        assert isinstance(momentum, Tensor)
        state.momenta.buffers.x.copy_(momentum)
