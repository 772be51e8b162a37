"""Gradient tracking: peers follow estimates of the mean gradient of all.

Gradient tracking (Di Lorenzo & Scutari 2016, "NEXT: in-network nonconvex optimization"; Nedić, Olshevsky & Shi 2017,
"Achieving geometric convergence for distributed optimization over time-varying graphs"), adapt-then-combine:
    x_i⁺ = Σ_j W_ij (x_j − η y_j),  y_i⁺ = Σ_j W_ij y_j + g_i(x_i⁺) − g_i(x_i),  y_i = g_i(x_i) at the start
written with corrections c_i = y_i − g_i(x_i), which sum to 0 over the peers, as K-GT does for K local steps (Liu, Lin,
Koloskova & Stich 2024, "Decentralized gradient tracking with local steps", algorithm 1):
    K times: x_i ← x_i − η (g_i(x_i) + c_i);  z_i: mean of the K vectors g_i + c_i
    x_i⁺ = Σ_j W_ij x_j,  c_i⁺ = c_i − z_i + Σ_j W_ij z_j
x and z travel: twice the bytes of D-PSGD. The local optimizer may have momentum, which then acts on g + c. With AdamW
both moments are those of g + c, as of the tracked gradient in GTAdam (Carnevale, Farina, Notarnicola & Notarstefano
2023, "GTAdam: gradient tracking with adaptive momentum for distributed online optimization"); z stays the mean of the
g + c, whatever the optimizer makes of them. Weight decay is applied by each peer and not tracked. A peer that dies
takes its correction with it: the others continue as if its last gradients still counted.
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
class GradientTrackingState:
    """models, gradients: states of D-PSGD that mix x and z. correction: c_i."""

    models: DPSGDState
    gradients: DPSGDState
    correction: Tensor


@dataclass(frozen=True)
class GradientTracking(Algorithm[GradientTrackingState]):
    """Local steps along an estimate of the mean gradient of all peers."""

    dpsgd: DPSGD = field(default_factory=DPSGD)
    streaming: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        encoding = ENCODINGS[self.dpsgd.wire_dtype]
        return {"x": encoding, "z": encoding}

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(DPSGD(wire_dtype=options.wire_dtype))

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> GradientTrackingState:
        gradients = self.dpsgd.init(torch.zeros_like(x), schedule)
        return GradientTrackingState(self.dpsgd.init(x, schedule), gradients, torch.zeros_like(x))

    def request(self, state: GradientTrackingState, ctx: RoundContext, asked: LocalTraining) -> LocalTraining:
        return replace(asked, correction=state.correction, gradient_sum=state.gradients.buffers.x)

    def outgoing(self, state: GradientTrackingState, ctx: RoundContext) -> Outgoing:
        z = state.gradients.buffers.x
        if ctx.steps:
            z.div_(ctx.steps)
        state.correction.sub_(z)
        self.dpsgd.outgoing(state.models, ctx)
        self.dpsgd.outgoing(state.gradients, ctx)
        return dict.fromkeys(ctx.neighborhood.outgoing, self.own(state))

    def own(self, state: GradientTrackingState) -> Payload:
        models, gradients = self.dpsgd.own(state.models), self.dpsgd.own(state.gradients)
        return Payload({"x": models.vectors["x"], "z": gradients.vectors["x"]}, is_stable=True)

    def accumulate(self, state: GradientTrackingState, sender: int, part: Payload) -> None:
        for name, mixing in (("x", state.models), ("z", state.gradients)):
            if name in part.vectors:
                self.dpsgd.accumulate(mixing, sender, Payload({"x": part.vectors[name]}))

    def add_borrowed(self, state: GradientTrackingState, parts: Mapping[int, Payload]) -> bool:
        [name] = next(iter(parts.values())).vectors
        mixing = {"x": state.models, "z": state.gradients}[name]
        return self.dpsgd.add_borrowed(
            mixing, {sender: Payload({"x": part.vectors[name]}) for sender, part in parts.items()}
        )

    def finish(self, state: GradientTrackingState, ctx: RoundContext) -> Tensor:
        state.correction.add_(self.dpsgd.finish(state.gradients, ctx))
        return self.dpsgd.finish(state.models, ctx)

    def state_dict(self, state: GradientTrackingState) -> Saved:
        return {"correction": state.correction}

    def load_state_dict(self, state: GradientTrackingState, saved: Saved) -> None:
        correction = saved["correction"]
        assert isinstance(correction, Tensor)
        state.correction.copy_(correction)
