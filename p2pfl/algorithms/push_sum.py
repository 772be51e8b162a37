"""Stochastic gradient push: push-sum for directed graphs.

SGP (Assran, Loizou, Ballas & Rabbat 2019, "Stochastic gradient push for distributed deep learning", algorithm 1), with
a column-stochastic P, P_ji being the part that peer i gives to j, and u what the optimizer makes of the gradient at z:
    x_i^{½} = x_i − η u_i(z_i),  x_i⁺ = Σ_j P_ij x_j^{½},  w_i⁺ = Σ_j P_ij w_j,  z_i⁺ = x_i⁺ / w_i⁺
Σ_i x_i moves by the local steps alone and Σ_i w_i stays n, so that z approaches Σ x / n though no row of P needs to add
up to 1. z is what training moves and what is recorded; momentum, and the moments of AdamW, are local. With K local
steps (a rule of ours) −η u is z's way in all K. In the overlapped order x^{½} = x travels, and the step is added to x⁺.

Three additions of ours:
- Buffers, such as running variances, take the mean of the z_j with the weights P_ij w_j: their x^{½} is w z. So none
  leaves the range of the peers' own, while x − η u of a small w could make a variance negative. In the overlapped
  order they become the mean of that and the trained ones, as with `dpsgd`.
- Where w < LEAST_STEP_WEIGHT, steps are shortened by w / LEAST_STEP_WEIGHT, or z, which moves by η u / w, would
  diverge. A peer with w < LEAST_WEIGHT gives nothing away. Both concern peers to which nearly nothing is sent, as
  where a death has disconnected the graph.
- In another encoding Q, Q(x^{½}) travels, and what rounding takes from the neighbors' parts the peer itself keeps.

Mass is exact: a peer gives P_ji x_i^{½} away, keeps the rest, and whatever is not acknowledged it takes back; the
ledger (`share_ledger`) sets right what a lost acknowledgment or a restart from a checkpoint would count twice or not
at all. When peers die for good, Σ x and Σ w of the living are those before minus what these held: their own, and what
they had acknowledged. A peer that comes back without a checkpoint joins with its neighbors' z and w = 1.

The final merge is push-sum itself from x = z and w = 1: it approaches the mean of the z_i, each counting alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import ONLY_X, Algorithm, AlgorithmOptions, Outgoing, RoundContext, Saved
from p2pfl.algorithms.blockwise import BLOCK, add_weighted
from p2pfl.algorithms.share_ledger import Share, ShareLedger
from p2pfl.payload import ENCODINGS, FP32, Encoding, Payload, Receipt
from p2pfl.topology import Neighborhood, NeighborhoodSchedule

WEIGHT = "weight"  # scalar of a payload: w
LEAST_STEP_WEIGHT = 0.1
LEAST_WEIGHT = 1e-6


@dataclass
class PushSumState:
    """State of one peer.

    z: trained in place. x, weight: the peer's mass; in the exchange what it keeps, and what has come.
    sent, sent_weight: x^{½} in its encoding, and its w. start: z before overlapped training. received: last round of
    each neighbor's payload that is in x. returned: shares that were taken back and are not in x yet. pool: vectors for
    `sent`, most of them in the ledger.
    """

    z: Tensor
    x: Tensor
    sent: Tensor
    start: Tensor | None
    schedule: NeighborhoodSchedule
    weight: float = 1.0
    sent_weight: float = 1.0
    neighborhood: Neighborhood = field(init=False)
    round: int = 0
    received: dict[int, int] = field(default_factory=dict)
    returned: list[Share] = field(default_factory=list)
    pool: list[Tensor] = field(default_factory=list)
    ledger: ShareLedger = field(default_factory=ShareLedger)


@dataclass(frozen=True)
class PushSum(Algorithm[PushSumState]):
    """Stochastic gradient push (adapt-then-combine or overlapped).

    peers: n, the sum of all w. merges: it is the final merge, before whose first round nothing has been given. A
    payload counts as a whole or not at all, so that none is accumulated in parts.
    """

    overlapped: bool = False
    wire_dtype: str = FP32.name
    buffers: tuple[slice, ...] = ()
    peers: int = 1
    merges: bool = False
    takes_back: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return ONLY_X[self.wire_dtype]

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(options.overlapped, options.wire_dtype, options.buffers, options.peers)

    def merge(self) -> PushSum:
        return replace(self, overlapped=False, wire_dtype=FP32.name, merges=True)

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> PushSumState:
        start = torch.empty_like(x) if self.overlapped else None
        return PushSumState(z=x, x=x.clone(), sent=self._vector(x), start=start, schedule=schedule)

    def _vector(self, x: Tensor) -> Tensor:
        encoding = ENCODINGS[self.wire_dtype]
        return torch.empty_like(x, dtype=x.dtype if encoding == FP32 else encoding.dtype)

    def outgoing(self, state: PushSumState, ctx: RoundContext) -> Outgoing:
        self._give_skipped(state, ctx)
        state.neighborhood, state.round = ctx.neighborhood, ctx.round
        self._add_step(state, state.x, 1.0 / state.weight)  # in the overlapped order only that of a bootstrap
        for place in self.buffers:
            state.x[place] = state.z[place] * state.weight
        self._add_returned(state)
        state.ledger.begin()
        self._encode(state)
        parts = ctx.neighborhood.outgoing
        payloads = {neighbor: self._give(state, neighbor, part) for neighbor, part in parts.items()}
        given = sum(parts.values())
        state.x.sub_(state.sent, alpha=given)
        state.weight -= given * state.sent_weight
        if state.start is not None:
            state.start.copy_(state.z)
        return payloads

    def _give_skipped(self, state: PushSumState, ctx: RoundContext) -> None:
        """Give away what an earlier incarnation has, in a round that this one skips.

        Without that round's local step, which is unknown here: it reached the neighbors as any other.
        """
        if self.merges and state.round == 0:
            return
        if ctx.round != (skipped := state.round + 1):
            parts = state.schedule(skipped).outgoing
            has = [neighbor for neighbor in parts if state.ledger.account(neighbor).received == skipped]
            kept = 1.0 - sum(parts[neighbor] for neighbor in has)
            state.x.mul_(kept)
            state.weight *= kept

    def _add_step(self, state: PushSumState, before: Tensor, factor: float) -> None:
        """x += z − factor · before, the local step."""
        scale = self._step_scale(state)
        vectors = (torch.split(vector, BLOCK) for vector in (state.x, state.z, before))
        for x, z, old in zip(*vectors, strict=True):
            x.add_(z.sub(old, alpha=factor), alpha=scale)

    @staticmethod
    def _step_scale(state: PushSumState) -> float:
        return min(1.0, state.weight / LEAST_STEP_WEIGHT)

    def _add_returned(self, state: PushSumState) -> None:
        for share in state.returned:
            add_weighted(state.x, (share.vector,), share.part, first=False)
            state.weight += share.part * share.weight
        state.returned.clear()

    def _encode(self, state: PushSumState) -> None:
        """Write x^{½} into a vector that no share needs."""
        used = {id(vector) for vector in state.ledger.vectors}
        free = [vector for vector in state.pool if id(vector) not in used]
        if not free:
            free = [self._vector(state.x)]
            state.pool += free
        state.sent = free[0]
        if state.weight >= LEAST_WEIGHT:
            state.sent.copy_(state.x)
            state.sent_weight = state.weight
        else:
            state.sent.zero_()
            state.sent_weight = 0.0

    def _give(self, state: PushSumState, neighbor: int, part: float) -> Payload:
        """The payload for a neighbor: x^{½}, and what is owed to it."""
        vector, weight = state.sent, state.sent_weight
        owed, owed_weight = state.ledger.pay(neighbor, Share(state.round, vector, weight, part))
        if owed is not None:
            total = owed.add(vector)
            weight += owed_weight
            for place in self.buffers:
                total[place] = state.z[place] * weight  # in their range, also where something is taken away
            vector = total.to(state.sent.dtype)
            # What this payload holds beside x^{½} is no part of the peer's mass, but its rounding is.
            rounding = owed.add_(state.sent).sub_(vector)
            for place in self.buffers:
                rounding[place] = 0.0
            state.x.add_(rounding, alpha=part)
        state.ledger.give(neighbor, Share(state.round, vector, weight, part))
        return Payload({"x": (vector,)}, {WEIGHT: weight})

    def own(self, state: PushSumState) -> Payload:
        return Payload({"x": (state.sent,)}, {WEIGHT: state.sent_weight})

    def accumulate(self, state: PushSumState, sender: int, part: Payload) -> None:
        if sender == state.neighborhood.me:
            return  # x has it
        weight = state.neighborhood.incoming[sender]
        add_weighted(state.x, part.vectors["x"], weight, first=False)
        # What is owed of several rounds may weigh more than n, the part of it that is added may not.
        state.weight += max(0.0, min(weight * part.scalars.get(WEIGHT, 0.0), float(self.peers)))
        state.received[sender] = state.round

    def missing(self, state: PushSumState, sender: int, received: Mapping[str, int]) -> None:
        """Nothing stands in: the share is with its sender, or lost with it."""

    def undelivered(self, state: PushSumState, neighbor: int, sent: Payload) -> None:
        if (share := state.ledger.undelivered(neighbor, state.round)) is not None:
            state.returned.append(share)

    def edge_reset(self, state: PushSumState, neighbor: int) -> None:
        state.ledger.account(neighbor).is_away = True

    def edge_up(self, state: PushSumState, neighbor: int, received: Receipt, served_from: int) -> None:
        state.ledger.edge_up(neighbor, received.round, served_from)

    def model_of(self, payload: Payload) -> Sequence[Tensor] | None:
        weight = payload.scalars.get(WEIGHT, 0.0)
        return [piece.float() / weight for piece in payload.vectors["x"]] if weight > 0.0 else None

    def receipt(self, state: PushSumState, neighbor: int) -> Receipt:
        return Receipt(state.received.get(neighbor, 0))

    def finish(self, state: PushSumState, ctx: RoundContext) -> Tensor:
        self._add_returned(state)
        if state.start is not None:
            between = [(state.x[place] + state.z[place] * state.weight) / 2.0 for place in self.buffers]
            self._add_step(state, state.start, 1.0)
            for place, values in zip(self.buffers, between, strict=True):
                state.x[place] = values
        return torch.mul(state.x, 1.0 / state.weight, out=state.z)

    def state_dict(self, state: PushSumState) -> Saved:
        received = {f"received.{neighbor}": float(round) for neighbor, round in state.received.items()}
        return {
            "x": state.x,
            "weight": state.weight,
            "round": float(state.round),
            **received,
            **state.ledger.state_dict(),
        }

    def load_state_dict(self, state: PushSumState, saved: Saved) -> None:
        x = saved["x"]
        assert isinstance(x, Tensor)
        state.x.copy_(x)
        state.weight, state.round = float(saved["weight"]), int(saved["round"])
        for name, value in saved.items():
            if name.startswith("received."):
                state.received[int(name.removeprefix("received."))] = int(value)
        state.ledger.load_state_dict(saved)
