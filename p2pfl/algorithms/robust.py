"""Mixing by a rule that looks at all vectors of a round at once, as what is to bear hostile neighbors must.

    x_i⁺ = R(x_j of the neighbors, x_i)                 float32 wire
    x_i⁺ = x_i + R(Q(x_j), Q(x_i)) − Q(x_i)             bfloat16 wire: Q rounds; peers that agree stay where they are

in both orders, as `dpsgd` has them. A neighbor's vector waits for the others: memory is as many models as neighbors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from p2pfl.algorithms.base import Hoods, vector_like
from p2pfl.algorithms.blockwise import Pieces
from p2pfl.payload import Codec, Payload
from p2pfl.topology import Neighborhood


class Rule(Protocol):
    """How a peer's next vector follows from its own and its neighbors'."""

    def __call__(self, hood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Iterator[tuple[slice, Tensor]]:
        """Where, and the float32 block that comes there, valid until the next one.

        `vectors`: (sender, vector) in peer order, one's own at its place.
        """


@dataclass
class RobustState:
    """x: trained in place. own: x at the exchange. sent: own as it travels. mixed: where the mix goes.

    own is x unless the order is overlapped; in float32 x itself is sent then, and trades places with mixed at the end
    of the round. gathered: what has come, in peer order, one's own vector among it.
    """

    x: Tensor
    hoods: Hoods
    own: Tensor
    sent: Tensor
    mixed: Tensor
    hood: Neighborhood = field(init=False)
    gathered: list[tuple[int, Pieces]] = field(default_factory=list)


@dataclass(frozen=True)
class Robust:
    """Mix by a rule once a round; all neighbors get the same vector."""

    rule: Rule
    overlapped: bool = False
    codec: Codec = "fp32"
    vectors: tuple[str, ...] = ("x",)
    streaming: bool = False

    def start(self, x: Tensor, hoods: Hoods) -> RobustState:
        exact = self.codec == "fp32"
        if self.overlapped:
            own, mixed = torch.empty_like(x), torch.empty_like(x)
        else:
            own, mixed = x, vector_like(x) if exact else x
        sent = own if exact else torch.empty_like(x, dtype=torch.bfloat16)
        return RobustState(x, hoods, own, sent, mixed)

    def outgoing(self, state: RobustState, round: int) -> list[tuple[int, Payload]]:
        state.hood = state.hoods(round)
        if state.own is not state.x:
            state.own.copy_(state.x)
        if state.sent is not state.own:
            state.sent.copy_(state.own)
        state.gathered.clear()
        payload = Payload({"x": (state.sent,)})
        return [(neighbor, payload) for neighbor in state.hood.outgoing]

    def fold(self, state: RobustState, sender: int, payload: Payload | None) -> None:
        state.gathered.append((sender, (state.sent,) if payload is None else payload.vectors["x"]))

    def finish(self, state: RobustState) -> Tensor:
        for here, block in self.rule(state.hood, state.gathered):
            if state.sent is state.own:
                state.mixed[here] = block
            else:
                torch.add(state.own[here], block.sub_(state.sent[here]), out=state.mixed[here])
        state.gathered.clear()
        if self.overlapped:
            return state.x.sub_(state.own).add_(state.mixed)
        if state.mixed is not state.x:
            state.x, state.mixed = state.mixed, state.x
            state.own = state.sent = state.x
        return state.x
