"""Relayed sums along a spanning tree, which average exactly in finite time.

RelaySGD (Vogels, He, Koloskova, Lin, Karimireddy, Stich & Jaggi 2021, "RelaySum for decentralized deep learning on
heterogeneous data", algorithm 1), on a tree of n peers, with h_i what training makes of x_i in this round:
    m_{i→j} = h_i + Σ_{k ≠ j} m_{k→i},  c_{i→j} = 1 + Σ_{k ≠ j} c_{k→i}    (m, c on the right: of the round before)
    x_i⁺ = (Σ_j m_{j→i} + (n − Σ_j c_{j→i}) h_i) / n                       (on the right: of this round)
Each x_j thus enters x_i once, as old as its distance in the tree; in the first rounds, and where a neighbor is missing,
h_i stands in for what has not come. Any number of local steps makes an h_i.

As the final merge every h_i stays what it is and nothing stands in for what is missing, so that after as many rounds as
the tree's diameter all hold the mean: of all peers, or of those that the living part of the tree connects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, AlgorithmOptions, Outgoing, RoundContext, Saved
from p2pfl.algorithms.blockwise import Cursor
from p2pfl.algorithms.buffers import vector_like
from p2pfl.payload import Payload
from p2pfl.topology import Neighborhood, NeighborhoodSchedule

COUNT = "count"  # scalar of a payload: c, the number of peers in its sum


@dataclass
class RelaySumState:
    """x: trained in place, h in the exchange. mixed: destination of the mix.

    messages, counts: m and c by neighbor, of the last round or as far as they have come in this one. outdated:
    neighbors whose message counts in this round, but is not relayed in the next. sent: this round's messages to them.
    round: the last one.
    """

    x: Tensor
    mixed: Tensor
    neighborhood: Neighborhood = field(init=False)
    messages: dict[int, Tensor] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    outdated: set[int] = field(default_factory=set)
    sent: dict[int, Tensor] = field(default_factory=dict)
    round: int | None = None
    cursor: Cursor = field(default_factory=Cursor)


@dataclass(frozen=True)
class RelaySum(Algorithm[RelaySumState]):
    """Sums relayed along a tree (adapt-then-combine).

    peers: n. is_merge: the final merge, whose h is x before its first round.
    """

    peers: int = 1
    is_merge: bool = False
    streaming: bool = True

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(options.peers)

    def merge(self) -> RelaySum:
        return replace(self, is_merge=True)

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> RelaySumState:
        return RelaySumState(x, vector_like(x))

    def outgoing(self, state: RelaySumState, ctx: RoundContext) -> Outgoing:
        state.neighborhood = ctx.neighborhood
        state.cursor.reset()
        skipped = state.round is not None and ctx.round != state.round + 1
        for neighbor in list(state.counts) if skipped else state.outdated:
            state.counts.pop(neighbor, None)
        state.outdated.clear()
        state.round = ctx.round
        payloads = {}
        for neighbor in ctx.neighborhood.outgoing:
            message = state.sent.setdefault(neighbor, torch.empty_like(state.x)).copy_(state.x)
            others = [k for k in self._known(state, state.counts) if k != neighbor]
            for k in others:
                message.add_(state.messages[k])
            count = 1 + sum(state.counts[k] for k in others)
            payloads[neighbor] = Payload({"x": (message,)}, {COUNT: float(count)})
        return payloads

    def own(self, state: RelaySumState) -> Payload:
        return Payload({"x": (state.x,)}, {COUNT: 1.0})

    def accumulate(self, state: RelaySumState, sender: int, part: Payload) -> None:
        if sender == state.neighborhood.me:
            return  # `finish` adds it
        if not state.cursor.has_begun(sender):
            state.outdated.discard(sender)
            state.counts[sender] = max(0, min(int(part.scalars.get(COUNT, 0.0)), self.peers - 1))
        message = state.messages.setdefault(sender, torch.empty_like(state.x))
        for here, block in state.cursor.blocks(sender, part.vectors["x"]):
            message[here] = block

    def missing(self, state: RelaySumState, sender: int, received: Mapping[str, int]) -> None:
        """The peer's own h stands in for all that the neighbor would relay."""
        state.counts[sender] = 0

    def edge_reset(self, state: RelaySumState, neighbor: int) -> None:
        # Its message of this round may be in already: a neighbor that has done its last round resets the edge, too.
        state.outdated.add(neighbor)

    def finish(self, state: RelaySumState, ctx: RoundContext) -> Tensor:
        known = self._known(state, ctx.neighborhood.incoming)
        # In the merge nobody stands in: without a dead peer's side of the tree the mean is that of the others.
        own = 1 if self.is_merge else max(0, self.peers - sum(state.counts[k] for k in known))
        total = own + sum(state.counts[k] for k in known)
        torch.mul(state.x, own / total, out=state.mixed)
        for k in known:
            state.mixed.add_(state.messages[k], alpha=1.0 / total)
        if self.is_merge:
            return state.mixed
        state.x, state.mixed = state.mixed, state.x
        return state.x

    @staticmethod
    def _known(state: RelaySumState, neighbors: Iterable[int]) -> list[int]:
        """Neighbors with a message, in peer order."""
        return [neighbor for neighbor in sorted(neighbors) if state.counts.get(neighbor)]

    def state_dict(self, state: RelaySumState) -> Saved:
        saved: dict[str, Tensor | float] = {} if state.round is None else {"round": float(state.round)}
        for neighbor in self._known(state, state.counts.keys() - state.outdated):
            saved[f"count.{neighbor}"] = float(state.counts[neighbor])
            saved[f"message.{neighbor}"] = state.messages[neighbor]
        return saved

    def load_state_dict(self, state: RelaySumState, saved: Saved) -> None:
        for name, value in saved.items():
            kind, _, neighbor = name.partition(".")
            if isinstance(value, Tensor):
                state.messages[int(neighbor)] = value.clone()
            elif kind == "round":
                state.round = int(value)
            else:
                state.counts[int(neighbor)] = int(value)
