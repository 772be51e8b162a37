"""Synchronous decentralized SGD.

Adapt-then-combine (Chen & Sayed 2012, "Diffusion adaptation strategies", the ATC form):
    x_i⁺ = Σ_j W_ij (x_j − η g_j(x_j))
Overlapped (Lian et al. 2017, "Can decentralized algorithms outperform centralized algorithms?", algorithm 1):
    x_i⁺ = Σ_j W_ij x_j + Δ_i,  Δ_i: this round's local training from x_i, while the x_j are exchanged.
η g_j stands for what the local optimizer makes of K gradients; momentum, and the moments of AdamW, stay with the peer
(`averaged_momentum` mixes the momentum, too).

Self-weights W_ii may be negative (--mixing finite-time). Buffers, such as running variances, are then mixed by
I + (W − I) / r, whose self-weights are not (`Neighborhood.relaxation`): no variance becomes negative. For the same
reason they become (Σ_j W_ij x_j + x_i + Δ_i) / 2 in the overlapped order (a rule of ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from p2pfl.algorithms.base import ONLY_X, Algorithm, AlgorithmOptions, Outgoing, RoundContext
from p2pfl.algorithms.blockwise import Cursor, Scratch, add_terms
from p2pfl.algorithms.buffers import Buffers
from p2pfl.model.vector import is_finite
from p2pfl.payload import ENCODINGS, Encoding, Payload
from p2pfl.topology import Neighborhood, NeighborhoodSchedule


@dataclass
class DPSGDState:
    """Vectors of the peer, and how far the average in `buffers.mixed` has come.

    own_terms: the peer's own share of the average, as (vector, weight). own_before, own_after: the neighbor with
    whose vector it is added. fresh: the neighbor whose vector finds nothing of this round in the average.
    """

    buffers: Buffers
    neighborhood: Neighborhood = field(init=False)
    own_terms: list[tuple[Tensor, float]] = field(default_factory=list)
    own_before: int | None = None
    own_after: int | None = None
    fresh: int | None = None
    cursor: Cursor = field(default_factory=Cursor)
    scratch: Scratch = field(default_factory=Scratch)


@dataclass(frozen=True)
class DPSGD(Algorithm[DPSGDState]):
    """Mix by the rows of W once a round; all neighbors get the same vector."""

    overlapped: bool = False
    wire_dtype: str = "fp32"
    buffers: tuple[slice, ...] = ()
    streaming: bool = True

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return ONLY_X[self.wire_dtype]

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        return cls(options.overlapped, options.wire_dtype, options.buffers)

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> DPSGDState:
        return DPSGDState(Buffers.of_vector(x, self.overlapped, ENCODINGS[self.wire_dtype]))

    def outgoing(self, state: DPSGDState, ctx: RoundContext) -> Outgoing:
        state.neighborhood = ctx.neighborhood
        state.buffers.begin(ctx.memory)
        state.cursor.reset()
        if ctx.neighborhood.incoming:
            self._place_own(state)
        return dict.fromkeys(ctx.neighborhood.outgoing, state.buffers.payload)

    def own(self, state: DPSGDState) -> Payload:
        return state.buffers.payload

    def _place_own(self, state: DPSGDState) -> None:
        """Choose the neighbor with whose vector the peer's own is added, block by block.

        In a pass by itself it takes as long as a neighbor's: the average would go through memory once more.
        """
        neighborhood, buffers = state.neighborhood, state.buffers
        lowest = min(neighborhood.incoming)
        state.own_before, state.own_after, state.fresh = lowest, None, lowest
        if not buffers.is_exact:
            # x_i + Σ_j W_ij (Q(x_j) − Q(x_i)): what rounding adds to one peer it takes from another, so that the
            # mean over all peers does not drift (the form of CHOCO-Gossip, Koloskova, Stich & Jaggi 2019, algorithm 1).
            state.own_terms = [(buffers.sent, -sum(neighborhood.incoming.values()))]
            if self.overlapped:
                state.own_terms.insert(0, (buffers.own, 1.0))
            else:
                state.fresh = None
            return
        # At its place in peer order, so that a full mesh with equal weights gives everybody the same bits.
        state.own_before = min((sender for sender in neighborhood.incoming if sender > neighborhood.me), default=None)
        if state.own_before is None:
            state.own_after = max(neighborhood.incoming)
        state.own_terms = [(buffers.own, neighborhood.self_weight)]

    def accumulate(self, state: DPSGDState, sender: int, part: Payload) -> None:
        if sender == state.neighborhood.me:
            return  # added together with a neighbor's: `_place_own`
        for here, block in state.cursor.blocks(sender, part.vectors["x"]):
            self._add(state, sender, here, block)

    def add_borrowed(self, state: DPSGDState, parts: Mapping[int, Payload]) -> bool:
        blocks = {sender: part.vectors["x"][0] for sender, part in parts.items() if sender != state.neighborhood.me}
        if not blocks:
            return False
        first, length = next((sender, block.numel()) for sender, block in blocks.items())
        here = slice(state.cursor.position(first), state.cursor.position(first) + length)
        mixed = state.buffers.mixed[here]
        before = None if state.fresh in blocks else state.scratch.copy(mixed)
        for sender, block in blocks.items():
            self._add(state, sender, here, block)
        if not is_finite(mixed):  # as it is if and only if all terms are, but for an overflow
            if before is not None:
                mixed.copy_(before)
            return False
        for sender in blocks:
            state.cursor.move(sender, here.stop)
        return True

    @staticmethod
    def _add(state: DPSGDState, sender: int, here: slice, block: Tensor) -> None:
        """Add a block of a neighbor's vector, and the own where it has its place."""
        terms = [(block, state.neighborhood.incoming[sender])]
        if sender in (state.own_before, state.own_after):
            own = [(vector[here], share) for vector, share in state.own_terms]
            terms = own + terms if sender == state.own_before else terms + own
        add_terms(state.buffers.mixed[here], terms, first=sender == state.fresh)

    def finish(self, state: DPSGDState, ctx: RoundContext) -> Tensor:
        buffers, neighborhood = state.buffers, state.neighborhood
        if not neighborhood.incoming:  # nothing has come
            if not neighborhood.outgoing or buffers.sent is not buffers.x:
                return buffers.x
            buffers.mixed.copy_(buffers.x)
        elif neighborhood.relaxation > 1.0:
            for place in self.buffers:
                buffers.mixed[place].lerp_(buffers.own[place], 1.0 - 1.0 / neighborhood.relaxation)
        return buffers.finish(self.buffers)
