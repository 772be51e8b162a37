"""Averaging accelerated by Chebyshev's recurrence, for the consensus phase.

Golub & Varga 1961, "Chebyshev semi-iterative methods"; for gossip: Scaman et al. 2017, "Optimal algorithms for smooth
and strongly convex distributed optimization in networks", procedure AcceleratedGossip.

With λ = ‖W − 11ᵀ/n‖₂ of a symmetric W:  x_{k+1} = ω_{k+1} (W x_k − x_{k−1}) + x_{k−1},
    ω_1 = 1,  ω_2 = 1/(1 − λ²/2),  ω_{k+1} = 1/(1 − λ² ω_k / 4)
shrinks the disagreement after k rounds to 1/T_k(1/λ) of its size (T_k: Chebyshev's polynomial) and keeps the mean.
λ = 0 makes every ω 1: plain mixing x_{k+1} = W x_k, which is also right for an unsymmetric W.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Outgoing, RoundContext, Saved
from p2pfl.algorithms.blockwise import Cursor, add_terms
from p2pfl.algorithms.buffers import vector_like
from p2pfl.payload import Payload
from p2pfl.topology import Neighborhood, NeighborhoodSchedule


@dataclass
class ChebyshevState:
    """current, previous: x_k, x_{k−1}. mixed: W x_k so far. omega: ω_k, 0 before ω_1."""

    current: Tensor
    previous: Tensor
    mixed: Tensor
    neighborhood: Neighborhood = field(init=False)
    omega: float = 0.0
    cursor: Cursor = field(default_factory=Cursor)


@dataclass(frozen=True)
class Chebyshev(Algorithm[ChebyshevState]):
    """Mixing without training.

    The vectors rotate through three buffers, so that the one being sent is never written.

    contraction: λ; 0 for plain mixing. first_round: the round of k = 0; None: the first that is asked for.
    second_round: that of a second merge, if there is one. A peer that comes later continues as if it had been at rest.
    """

    contraction: float
    first_round: int | None = None
    second_round: int | None = None
    streaming: bool = True

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> ChebyshevState:
        return ChebyshevState(x, previous=vector_like(x).zero_(), mixed=torch.empty_like(x))

    def outgoing(self, state: ChebyshevState, ctx: RoundContext) -> Outgoing:
        state.neighborhood = ctx.neighborhood
        state.cursor.reset()
        if state.omega == 0.0 and (late := ctx.round - self._begin(ctx.round)):
            state.previous.copy_(state.current)
            for _ in range(late):
                state.omega = self._next(state.omega)
        return dict.fromkeys(ctx.neighborhood.outgoing, self.own(state))

    def own(self, state: ChebyshevState) -> Payload:
        return Payload({"x": (state.current,)})

    def accumulate(self, state: ChebyshevState, sender: int, part: Payload) -> None:
        neighborhood = state.neighborhood
        weight = neighborhood.self_weight if sender == neighborhood.me else neighborhood.incoming[sender]
        first = sender == min([neighborhood.me, *neighborhood.incoming])
        for here, block in state.cursor.blocks(sender, part.vectors["x"]):
            add_terms(state.mixed[here], [(block, weight)], first)

    def finish(self, state: ChebyshevState, ctx: RoundContext) -> Tensor:
        state.omega = self._next(state.omega)
        following = state.previous.mul_(1.0 - state.omega).add_(state.mixed, alpha=state.omega)
        state.previous, state.current = state.current, following
        return following

    def state_dict(self, state: ChebyshevState) -> Saved:
        return {"previous": state.previous, "omega": state.omega}

    def load_state_dict(self, state: ChebyshevState, saved: Saved) -> None:
        previous = saved["previous"]
        assert isinstance(previous, Tensor)
        state.previous.copy_(previous)
        state.omega = float(saved["omega"])

    def _begin(self, round: int) -> int:
        """The round of k = 0 for a peer that begins in this round."""
        if self.second_round is not None and round >= self.second_round:
            return self.second_round
        return round if self.first_round is None else self.first_round

    def _next(self, omega: float) -> float:
        if omega == 0.0:
            return 1.0
        square = self.contraction**2
        return 1.0 / (1.0 - square / 2.0) if omega == 1.0 else 1.0 / (1.0 - square * omega / 4.0)
