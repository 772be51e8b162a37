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

from p2pfl.algorithms.base import Hoods, add_terms, blocks, vector_like
from p2pfl.payload import Codec, Payload
from p2pfl.topology import Neighborhood


@dataclass
class DPSGDState:
    """x: trained in place. own: x at the exchange. sent: own as it travels. mixed: the average so far.

    Unless the order is overlapped, nobody trains x while others' vectors come in, so own is x. In float32 x itself is
    sent then, and trades places with mixed at the end of the round; in bfloat16 the average grows in x.
    own_terms: what one's own vector adds to the average, as (vector, weight). own_before, own_after: the neighbor
    with whose vector that is added. fresh: the neighbor whose vector finds nothing of this round in mixed.
    sender, filled: whose vector is being added, and how many elements of it have been.
    """

    x: Tensor
    hoods: Hoods
    own: Tensor
    sent: Tensor
    mixed: Tensor
    hood: Neighborhood = field(init=False)
    own_terms: list[tuple[Tensor, float]] = field(default_factory=list)
    own_before: int | None = None
    own_after: int | None = None
    fresh: int | None = None
    sender: int | None = None
    filled: int = 0


@dataclass(frozen=True)
class DPSGD:
    """Mix by the rows of W once a round; all of x's neighbors get the same vector."""

    overlapped: bool = False
    codec: Codec = "fp32"
    vectors: tuple[str, ...] = ("x",)
    streaming: bool = True

    def start(self, x: Tensor, hoods: Hoods) -> DPSGDState:
        exact = self.codec == "fp32"
        if self.overlapped:
            own, mixed = torch.empty_like(x), torch.empty_like(x)
        else:
            own, mixed = x, vector_like(x) if exact else x
        sent = own if exact else torch.empty_like(x, dtype=torch.bfloat16)
        return DPSGDState(x, hoods, own, sent, mixed)

    def outgoing(self, state: DPSGDState, round: int) -> list[tuple[int, Payload]]:
        state.hood = state.hoods(round)
        if state.own is not state.x:
            state.own.copy_(state.x)
        if state.sent is not state.own:
            state.sent.copy_(state.own)
        state.sender = None
        if state.hood.incoming:
            self._place_own(state)
        payload = Payload({"x": (state.sent,)})
        return [(neighbor, payload) for neighbor in state.hood.outgoing]

    def _place_own(self, state: DPSGDState) -> None:
        """One's own vector is added block by block together with a neighbor's.

        In a pass of its own it takes as long as a neighbor's: the average would go through memory once more.
        """
        hood, lowest = state.hood, min(state.hood.incoming)
        state.own_before, state.own_after, state.fresh = lowest, None, lowest
        if self.codec != "fp32":
            # x_i + Σ_j W_ij (Q(x_j) − Q(x_i)): what rounding adds to one peer it takes from another, so that the
            # mean over all peers does not drift (the form of CHOCO-Gossip, Koloskova, Stich & Jaggi 2019, algorithm 1).
            state.own_terms = [(state.sent, -sum(hood.incoming.values()))]
            if self.overlapped:
                state.own_terms.insert(0, (state.own, 1.0))
            else:
                state.fresh = None
            return
        # At its place in peer order, so that a full mesh with equal weights gives everybody the same bits.
        state.own_before = min((sender for sender in hood.incoming if sender > hood.me), default=None)
        if state.own_before is None:
            state.own_after = max(hood.incoming)
        state.own_terms = [(state.own, hood.self_weight)]

    def fold(self, state: DPSGDState, sender: int, payload: Payload | None) -> None:
        if payload is None:
            return  # one's own vector goes with a neighbor's: `_place_own`
        if sender != state.sender:
            state.sender, state.filled = sender, 0
        weight = state.hood.incoming[sender]
        for piece in payload.vectors["x"]:
            for block in blocks(piece):
                here = slice(state.filled, state.filled + block.numel())
                terms = [(block, weight)]
                if sender in (state.own_before, state.own_after):
                    own = [(vector[here], share) for vector, share in state.own_terms]
                    terms = own + terms if sender == state.own_before else terms + own
                add_terms(state.mixed[here], terms, first=sender == state.fresh)
                state.filled = here.stop

    def finish(self, state: DPSGDState) -> Tensor:
        if not state.hood.incoming:  # nothing has come
            if not state.hood.outgoing or state.sent is not state.x:
                return state.x
            state.mixed.copy_(state.x)
        if self.overlapped:
            return state.x.sub_(state.own).add_(state.mixed)
        if state.mixed is not state.x:
            state.x, state.mixed = state.mixed, state.x
            state.own = state.sent = state.x
        return state.x
