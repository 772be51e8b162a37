"""CHOCO-SGD: compressed changes of replicas, which neighbors keep of each other.

CHOCO-SGD (Koloskova, Stich & Jaggi 2019, "Decentralized stochastic optimization and gossip algorithms with compressed
communication", algorithm 2; with momentum and deep networks: Koloskova, Lin, Stich & Jaggi 2020), with h_i what
training makes of x_i, C the compressor and x̂_i what the neighbors know of peer i:
    q_i = C(h_i − x̂_i),  x̂_i ← x̂_i + q_i,  x_i⁺ = h_i + γ Σ_j W_ij (x̂_j − x̂_i)
The mean of the peers moves by their local steps alone, whatever C loses, if W is symmetric. Any number of local steps
makes an h_i. Three rules of ours:

- The first payload on an edge is h_i as a whole, and x̂_i = h_i; the paper begins with x̂_i = 0.
- Replicas are kept for each edge and direction, so that both ends always have the same: a payload says which of the
  rounds before its replica holds. Where a payload was not acknowledged, the edge went down, or the neighbor, restarted,
  says that it has another one last, the next payload is whole again.
- Buffers travel in float32 and are mixed plainly: γ = 1. So does a whole vector, which bootstrap may take as a model.

While a neighbor is missing, or its payload does not fit to the replica, that edge takes no part: the two terms fall
away together. A peer that dies takes nothing from the others but what they would have mixed with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, AlgorithmOptions, Outgoing, RoundContext, Saved
from p2pfl.algorithms.compression import HEAD, Compression, dense, is_dense, statistics_of
from p2pfl.config import compression_choice
from p2pfl.model.vector import is_finite
from p2pfl.payload import COMPRESSED, Encoding, Payload, Receipt
from p2pfl.seeding import derive
from p2pfl.topology import Neighborhood, NeighborhoodSchedule

AFTER = "after"  # scalar of a payload: round of the last payload that its replica holds; 0: it is whole


@dataclass
class Replica:
    """Parameters of a peer as the other end of an edge knows them.

    round: of the last payload that is in it. after: that of the payload before.
    """

    vector: Tensor
    round: int = 0
    after: int = 0

    @property
    def digest(self) -> int:
        """Checksum of the vector's bytes; never 0."""
        return zlib.crc32(self.vector.numpy().data) or 1


@dataclass
class ChocoState:
    """x: trained in place, h in the exchange.

    mine: what a neighbor knows of this peer; neighbors share one as long as they have got the same. theirs: what is
    known of a neighbor. statistics: buffers of the neighbors whose payload of this round is in. outdated: neighbors
    that need a whole vector next. repeated: receipts of a round that this incarnation has yet to repeat.
    """

    x: Tensor
    neighborhood: Neighborhood = field(init=False)
    mine: dict[int, Replica] = field(default_factory=dict)
    theirs: dict[int, Replica] = field(default_factory=dict)
    statistics: dict[int, Tensor] = field(default_factory=dict)
    outdated: set[int] = field(default_factory=set)
    repeated: dict[int, Receipt] = field(default_factory=dict)
    round: int = 0


@dataclass(frozen=True)
class Choco(Algorithm[ChocoState]):
    """CHOCO-SGD (adapt-then-combine).

    step: γ. seed: of the run, for random-k.
    """

    compression: Compression
    step: float
    buffers: tuple[slice, ...] = ()
    seed: int = 0

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        count = self._buffer_count
        return {
            "x": replace(
                COMPRESSED,
                lengths=lambda size: self.compression.lengths(size - count, count),
                verify=lambda pieces, size: self.compression.verify(torch.cat(list(pieces)), size - count, count),
            )
        }

    @classmethod
    def of(cls, options: AlgorithmOptions) -> Self:
        compression = Compression(*compression_choice(options.compression), options.wire_dtype)
        step = compression.consensus_step if options.consensus_step is None else options.consensus_step
        return cls(compression, step, options.buffers, options.seed)

    @property
    def _buffer_count(self) -> int:
        return sum(place.stop - place.start for place in self.buffers)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of parameters and buffers."""
        start, parameters = 0, []
        for place in sorted(self.buffers, key=lambda place: place.start):
            parameters.append(x[start : place.start])
            start = place.stop
        buffers = torch.cat([x[place] for place in self.buffers]) if self.buffers else x.new_empty(0)
        return torch.cat([*parameters, x[start:]]), buffers

    def _join(self, parameters: Tensor, buffers: Tensor, x: Tensor) -> Tensor:
        """Write both to their places in x."""
        start = done = 0
        for place in sorted(self.buffers, key=lambda place: place.start):
            x[start : place.start] = parameters[done : done + place.start - start]
            done, start = done + place.start - start, place.stop
        x[start:] = parameters[done:]
        done = 0
        for place in self.buffers:
            x[place] = buffers[done : done + place.stop - place.start]
            done += place.stop - place.start
        return x

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> ChocoState:
        return ChocoState(x)

    def outgoing(self, state: ChocoState, ctx: RoundContext) -> Outgoing:
        state.neighborhood, state.round = ctx.neighborhood, ctx.round
        state.statistics.clear()
        self._drop_outdated(state, ctx)
        parameters, buffers = self._split(state.x)
        payloads: dict[int, Payload] = {}
        made: dict[int, Payload] = {}  # by replica
        fresh: Replica | None = None
        for neighbor in ctx.neighborhood.outgoing:
            known = state.mine.get(neighbor)
            if known is None:
                fresh = fresh or Replica(parameters.clone())
                state.mine[neighbor] = known = fresh
            if id(known) not in made:
                made[id(known)] = self._payload(state, ctx.round, known, known is fresh, parameters, buffers)
            payloads[neighbor] = made[id(known)]
            if neighbor in state.repeated and known.digest != state.repeated[neighbor].digest:
                del state.repeated[neighbor]  # the repeated training has not given the same bits, as on a GPU
                state.outdated.add(neighbor)
        return payloads

    def _drop_outdated(self, state: ChocoState, ctx: RoundContext) -> None:
        """Drop replicas that a neighbor does not have: it gets a whole vector."""
        for neighbor, known in list(state.mine.items()):
            receipt = state.repeated.get(neighbor, Receipt())
            is_skipped = known.round < receipt.round < ctx.round
            if is_skipped or neighbor in state.outdated or neighbor not in ctx.neighborhood.outgoing:
                del state.mine[neighbor]
        state.outdated.clear()
        state.repeated = {n: receipt for n, receipt in state.repeated.items() if receipt.round == ctx.round}

    def _payload(  # the round's vector, and the replica that it belongs to
        self, state: ChocoState, round: int, known: Replica, is_first: bool, parameters: Tensor, buffers: Tensor
    ) -> Payload:
        if is_first:
            body = dense(parameters, buffers)
        else:
            seed = derive(self.seed, "compression", state.neighborhood.me, round)
            body = self.compression.encode(parameters - known.vector, buffers, seed)
            self.compression.add(body, known.vector, self._buffer_count)
        known.after, known.round = known.round, round
        return Payload({"x": (body,)}, {AFTER: float(known.after)})

    def own(self, state: ChocoState) -> Payload:
        return Payload({"x": (state.x,)})

    def accumulate(self, state: ChocoState, sender: int, part: Payload) -> None:
        if sender == state.neighborhood.me:
            return
        body = torch.cat(list(part.vectors["x"]))
        known = state.theirs.get(sender)
        if is_dense(body):
            known = state.theirs[sender] = Replica(state.x.new_empty(state.x.numel() - self._buffer_count))
        elif known is None or known.round != part.scalars.get(AFTER):
            state.theirs.pop(sender, None)  # its next one does not fit either, until the edge has come up again
            return
        self.compression.add(body, known.vector, self._buffer_count)
        if not is_finite(known.vector):  # a scale times 127, or a sum of changes, may overflow
            del state.theirs[sender]
            return
        known.round = state.round
        state.statistics[sender] = statistics_of(body, self._buffer_count)

    def missing(self, state: ChocoState, sender: int, received: Mapping[str, int]) -> None:
        """The edge takes no part in this round."""

    def undelivered(self, state: ChocoState, neighbor: int, sent: Payload) -> None:
        if neighbor not in state.repeated:  # or else it has what an earlier incarnation sent
            state.outdated.add(neighbor)

    def edge_reset(self, state: ChocoState, neighbor: int) -> None:
        state.outdated.add(neighbor)

    def receipt(self, state: ChocoState, neighbor: int) -> Receipt:
        known = state.theirs.get(neighbor)
        return Receipt() if known is None else Receipt(known.round, known.digest)

    def edge_up(self, state: ChocoState, neighbor: int, received: Receipt, served_from: int) -> None:
        known = state.mine.get(neighbor)
        if known is None:
            return
        is_served_again = known.round >= served_from
        if received.round == known.round + 1 and received.digest:
            state.repeated[neighbor] = received
        elif received.round != known.round and not (is_served_again and known.after in (received.round, 0)):
            state.outdated.add(neighbor)

    def finish(self, state: ChocoState, ctx: RoundContext) -> Tensor:
        parameters, buffers = self._split(state.x)
        before = buffers.clone()
        for sender, statistics in sorted(state.statistics.items()):
            weight = ctx.neighborhood.incoming[sender]
            buffers.add_(statistics - before, alpha=weight)
            if (mine := state.mine.get(sender)) is not None:
                parameters.add_(state.theirs[sender].vector - mine.vector, alpha=self.step * weight)
        return self._join(parameters, buffers, state.x)

    # Whole vectors, for bootstrap and attacks

    def model_of(self, payload: Payload) -> Sequence[Tensor] | None:
        body, count = torch.cat(list(payload.vectors["x"])), self._buffer_count
        if not is_dense(body):
            return None
        parameters = torch.empty((body.numel() - HEAD.size) // 4 - count)
        self.compression.add(body, parameters, count)
        x = parameters.new_empty(parameters.numel() + count)
        return (self._join(parameters, statistics_of(body, count), x),)

    def seen(self, state: ChocoState, sender: int, part: Payload) -> Sequence[Tensor]:
        if sender not in state.statistics:
            return ()
        return (self._join(state.theirs[sender].vector, state.statistics[sender], torch.empty_like(state.x)),)

    def substitute(self, state: ChocoState, neighbor: int, payload: Payload, x: Tensor) -> Payload:
        state.outdated.add(neighbor)  # the next one has to be whole again
        return Payload({"x": (dense(*self._split(x)),)}, {AFTER: 0.0})

    # Checkpoints

    def state_dict(self, state: ChocoState) -> Saved:
        saved: dict[str, Tensor | float] = {}
        places: dict[int, int] = {}
        for side, replicas in (("mine", state.mine), ("theirs", state.theirs)):
            for neighbor, known in replicas.items():
                if neighbor in state.outdated and side == "mine":
                    continue
                if id(known) not in places:
                    places[id(known)] = len(places)
                    saved[f"vector.{places[id(known)]}"] = known.vector
                facts = {"place": places[id(known)], "round": known.round, "after": known.after}
                saved |= {f"{side}.{neighbor}.{name}": float(value) for name, value in facts.items()}
        return saved

    def load_state_dict(self, state: ChocoState, saved: Saved) -> None:
        found: dict[int, Replica] = {}
        for name, value in saved.items():
            side, _, rest = name.partition(".")
            if not rest.endswith(".place"):
                continue
            about, place = name.removesuffix(".place"), int(value)
            vector = saved[f"vector.{place}"]
            assert isinstance(vector, Tensor)
            if place not in found:
                found[place] = Replica(vector.clone(), int(saved[f"{about}.round"]), int(saved[f"{about}.after"]))
            replicas = state.mine if side == "mine" else state.theirs
            replicas[int(rest.removesuffix(".place"))] = found[place]
