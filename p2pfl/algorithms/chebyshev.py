"""Averaging accelerated by Chebyshev's recurrence, for the consensus phase.

Golub & Varga 1961, "Chebyshev semi-iterative methods"; for gossip: Scaman et al. 2017, "Optimal algorithms for smooth
and strongly convex distributed optimization in networks", procedure AcceleratedGossip.

With λ = ‖W − 11ᵀ/n‖₂ of a symmetric W:  x_{k+1} = ω_{k+1} (W x_k − x_{k−1}) + x_{k−1},
    ω_1 = 1,  ω_2 = 1/(1 − λ²/2),  ω_{k+1} = 1/(1 − λ² ω_k / 4)
shrinks the disagreement after k rounds to 1/T_k(1/λ) of what it was (T_k: Chebyshev's polynomial) and keeps the
mean. λ = 0 makes every ω 1: plain mixing x_{k+1} = W x_k, which is also what an unsymmetric W needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2pfl.algorithms.base import Hoods, add_weighted, vector_like
from p2pfl.payload import Codec, Payload
from p2pfl.topology import Neighborhood


@dataclass
class ChebyshevState:
    """current, previous: x_k, x_{k−1}. mixed: W x_k so far. omega: ω_k, 0 before ω_1.

    sender, filled: whose vector is being added, and how many elements of it have been.
    """

    hoods: Hoods
    current: Tensor
    previous: Tensor
    mixed: Tensor
    hood: Neighborhood = field(init=False)
    omega: float = 0.0
    sender: int | None = None
    filled: int = 0


@dataclass(frozen=True)
class Chebyshev:
    """Mixing only. The vectors rotate through three buffers, so that the one being sent is never written."""

    contraction: float
    """λ; 0 for plain mixing."""
    first_round: int | None = None
    """The round of k = 0; None: the first that is asked for. Who comes later goes on as if it had been at rest."""
    overlapped: bool = False
    codec: Codec = "fp32"
    vectors: tuple[str, ...] = ("x",)
    streaming: bool = True

    def start(self, x: Tensor, hoods: Hoods) -> ChebyshevState:
        return ChebyshevState(hoods, x, previous=vector_like(x).zero_(), mixed=torch.empty_like(x))

    def outgoing(self, state: ChebyshevState, round: int) -> list[tuple[int, Payload]]:
        state.hood = state.hoods(round)
        state.sender = None
        if state.omega == 0.0 and self.first_round is not None and round > self.first_round:
            state.previous.copy_(state.current)
            for _ in range(round - self.first_round):
                state.omega = self._next(state.omega)
        payload = Payload({"x": (state.current,)})
        return [(neighbor, payload) for neighbor in state.hood.outgoing]

    def fold(self, state: ChebyshevState, sender: int, payload: Payload | None) -> None:
        own = payload is None
        pieces = (state.current,) if payload is None else payload.vectors["x"]
        weight = state.hood.self_weight if own else state.hood.incoming[sender]
        if sender != state.sender:
            state.sender, state.filled = sender, 0
        first = sender == min([state.hood.me, *state.hood.incoming])
        state.filled = add_weighted(state.mixed, pieces, weight, first, state.filled)

    def finish(self, state: ChebyshevState) -> Tensor:
        state.omega = self._next(state.omega)
        following = state.previous.mul_(1.0 - state.omega).add_(state.mixed, alpha=state.omega)
        state.previous, state.current = state.current, following
        return following

    def _next(self, omega: float) -> float:
        if omega == 0.0:
            return 1.0
        square = self.contraction**2
        return 1.0 / (1.0 - square / 2.0) if omega == 1.0 else 1.0 / (1.0 - square * omega / 4.0)
