"""Exact diffusion, also known as D².

D² (Tang, Lian, Yan, Zhang & Liu 2018, "D²: decentralized training over decentralized data", algorithm 1):
    x^{t+1} = W (2 x^t − x^{t−1} − η g^t + η g^{t−1}),  x¹ = W (x⁰ − η g⁰)
as exact diffusion (Yuan, Ying, Zhao & Sayed 2019, "Exact diffusion for distributed optimization and learning", part I,
algorithm 1) writes the same:
    ψ^{t+1} = x^t − η g^t                                       adapt
    φ = ψ^{t+1} + (η_t / η_{t−1}) (x^t − ψ^t)                    correct
    x^{t+1} = W φ                                               combine
x^t − ψ^t sums to 0 over the peers and undoes what the differences between their data contribute. A peer that dies takes
its part with it: the others continue as if its last gradients still counted. Where peers take different numbers of
steps (--round-length epochs), the factor differs between them, and the sum is 0 only up to that. It needs a symmetric
W whose smallest eigenvalue is above −1/3; other symmetric ones are replaced by (I + W) / 2 when the run is set up. The
papers keep η constant; the factor η_t / η_{t−1} keeps the correction in proportion, or x would jump where a schedule
changes η. With K local steps (a rule of ours) ψ is what training makes of x, and η the sum of their learning rates.
AdamW is refused: peers would come to rest where their scaled steps add up to 0, not their gradients.

W φ is computed as φ_i + d_i, d_i = Σ_j W_ij (φ_j − φ_i), and x − ψ as the sum of the d_i so far: a difference of the
long vectors x and ψ would put their rounding errors into the correction, where they add up round by round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import ONLY_X, Algorithm, AlgorithmOptions, Outgoing, RoundContext, Saved
from p2pfl.algorithms.blockwise import Cursor
from p2pfl.algorithms.buffers import vector_like
from p2pfl.payload import ENCODINGS, FP32, Encoding, Payload
from p2pfl.topology import Neighborhood, NeighborhoodSchedule


@dataclass
class ExactDiffusionState:
    """x: trained in place, φ in the exchange. sent: φ in its encoding.

    step: d, so far. correction: x − ψ of the round before. rate: its η, 0 before the first round.
    """

    x: Tensor
    sent: Tensor
    step: Tensor
    correction: Tensor
    rate: float = 0.0
    neighborhood: Neighborhood = field(init=False)
    cursor: Cursor = field(default_factory=Cursor)


@dataclass(frozen=True)
class ExactDiffusion(Algorithm[ExactDiffusionState]):
    """D-PSGD with a correction for different data on the peers."""

    wire_dtype: str = FP32.name
    buffers: tuple[slice, ...] = ()
    streaming: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return ONLY_X[self.wire_dtype]

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(options.wire_dtype, options.buffers)

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> ExactDiffusionState:
        encoding = ENCODINGS[self.wire_dtype]
        sent = x if encoding == FP32 else torch.empty_like(x, dtype=encoding.dtype)
        return ExactDiffusionState(x, sent, vector_like(x), torch.zeros_like(x))

    def outgoing(self, state: ExactDiffusionState, ctx: RoundContext) -> Outgoing:
        state.neighborhood = ctx.neighborhood
        state.cursor.reset()
        if state.rate > 0.0:
            state.correction.mul_(ctx.lr_sum / state.rate)
            state.x.add_(state.correction)
        if state.sent is not state.x:
            state.sent.copy_(state.x)
        state.step.zero_()
        return dict.fromkeys(ctx.neighborhood.outgoing, self.own(state))

    def own(self, state: ExactDiffusionState) -> Payload:
        return Payload({"x": (state.sent,)})

    def accumulate(self, state: ExactDiffusionState, sender: int, part: Payload) -> None:
        if sender == state.neighborhood.me:
            return  # φ_i − φ_i
        weight = state.neighborhood.incoming[sender]
        for here, block in state.cursor.blocks(sender, part.vectors["x"]):
            state.step[here].add_(block.float() - state.sent[here].float(), alpha=weight)

    def finish(self, state: ExactDiffusionState, ctx: RoundContext) -> Tensor:
        state.correction.add_(state.step)
        for place in self.buffers:
            state.correction[place] = 0.0
        state.rate = ctx.lr_sum
        mixed = state.step.add_(state.x)
        if state.sent is state.x:  # neighbors may still be taking it
            state.sent = mixed
        state.x, state.step = mixed, state.x
        return mixed

    def state_dict(self, state: ExactDiffusionState) -> Saved:
        return {"correction": state.correction, "rate": state.rate}

    def load_state_dict(self, state: ExactDiffusionState, saved: Saved) -> None:
        correction = saved["correction"]
        assert isinstance(correction, Tensor)
        state.correction.copy_(correction)
        state.rate = float(saved["rate"])
