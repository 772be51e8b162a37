"""Synchronous decentralized SGD.

Adapt-then-combine (Chen & Sayed 2012, "Diffusion adaptation strategies", the ATC form):
    x_i⁺ = Σ_j W_ij (x_j − η g_j(x_j))
Overlapped (Lian et al. 2017, "Can decentralized algorithms outperform centralized algorithms?", algorithm 1):
    x_i⁺ = Σ_j W_ij x_j + Δ_i,  Δ_i: this round's local training from x_i, while the x_j are exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2pfl.gossip.interface import Hoods, Payload, add_weighted
from p2pfl.topology import Neighborhood
from p2pfl.wire import Codec


@dataclass
class DPSGDState:
    """x: trained in place. own: x at the exchange. sent: own as it travels. mixed: the average so far, may be x."""

    x: Tensor
    hoods: Hoods
    own: Tensor
    sent: Tensor
    mixed: Tensor
    hood: Neighborhood = field(init=False)
    first: bool = True


@dataclass(frozen=True)
class DPSGD:
    """Mix by the rows of W once a round; all of x's neighbors get the same vector."""

    overlapped: bool = False
    codec: Codec = "fp32"
    vectors: tuple[str, ...] = ("x",)

    def start(self, x: Tensor, hoods: Hoods) -> DPSGDState:
        own = torch.empty_like(x)
        sent = own if self.codec == "fp32" else torch.empty_like(x, dtype=torch.bfloat16)
        # Nobody trains x while others' vectors come in, unless the order is overlapped: then the mix needs room.
        return DPSGDState(x, hoods, own, sent, mixed=torch.empty_like(x) if self.overlapped else x)

    def outgoing(self, state: DPSGDState, round: int) -> list[tuple[int, Payload]]:
        state.hood = state.hoods(round)
        state.own.copy_(state.x)
        if state.sent is not state.own:
            state.sent.copy_(state.own)
        state.first = True
        payload = Payload({"x": (state.sent,)})
        return [(neighbor, payload) for neighbor in state.hood.outgoing]

    def fold(self, state: DPSGDState, sender: int, payload: Payload | None) -> None:
        if payload is not None:
            pieces, weight = payload.vectors["x"], state.hood.incoming[sender]
            add_weighted(state.mixed, pieces, weight, state.first)
        elif state.sent is state.own:
            add_weighted(state.mixed, (state.own,), state.hood.self_weight, state.first)
        else:
            # x_i + Σ_j W_ij (Q(x_j) − Q(x_i)): what rounding adds to one peer it takes from another, so that the
            # mean over all peers does not drift (the form of CHOCO-Gossip, Koloskova, Stich & Jaggi 2019, algorithm 1).
            others = sum(state.hood.incoming.values())
            add_weighted(state.mixed, (state.own,), 1.0, state.first)
            add_weighted(state.mixed, (state.sent,), -others, first=False)
        state.first = False

    def finish(self, state: DPSGDState) -> None:
        if self.overlapped:
            state.x.sub_(state.own).add_(state.mixed)
