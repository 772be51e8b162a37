"""Contract between a peer and its algorithm.

What the algorithm hears of missing neighbors, lost payloads and training.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from tests.support.helpers import driven, matrix, random_vectors
from tests.support.one_peer import CONTEXT, SIZE, chunk, finish_round, greeted, message, peer_zero

from p2pfl.algorithms import DPSGD
from p2pfl.algorithms.adaptive_consensus import AdaptiveConsensus
from p2pfl.algorithms.base import Algorithm, RoundContext
from p2pfl.algorithms.chebyshev import Chebyshev
from p2pfl.algorithms.exact_diffusion import ExactDiffusion
from p2pfl.algorithms.quasi_global import QuasiGlobal
from p2pfl.algorithms.robust import Clipped, Median, Robust, TrimmedMean
from p2pfl.payload import Payload
from p2pfl.protocol.events import Flushed, Lost, Recorded, Trained

SHARE = 12  # elements of a vector that have come when its sender is lost


@dataclass(frozen=True)
class Noting(DPSGD):
    """D-PSGD that notes what it is told beside vectors."""

    notes: list[tuple[object, ...]] = field(default_factory=list)

    def missing(self, state, sender, received):  # type: ignore[no-untyped-def]
        self.notes.append(("missing", sender, dict(received)))
        super().missing(state, sender, received)

    def undelivered(self, state, neighbor, sent):  # type: ignore[no-untyped-def]
        self.notes.append(("undelivered", neighbor, sent.vectors["x"][0].tolist()))

    def edge_reset(self, state, neighbor):  # type: ignore[no-untyped-def]
        self.notes.append(("edge reset", neighbor))

    def outgoing(self, state, ctx: RoundContext):  # type: ignore[no-untyped-def]
        self.notes.append(("outgoing", ctx.round, ctx.steps, ctx.samples, ctx.loss, ctx.lr))
        return super().outgoing(state, ctx)

    def finish(self, state, ctx: RoundContext) -> torch.Tensor:  # type: ignore[no-untyped-def]
        self.notes.append(("finish", ctx.round, ctx.steps, ctx.samples, ctx.loss, ctx.lr))
        return super().finish(state, ctx)


def without(notes: list[tuple[object, ...]], *names: str) -> list[tuple[object, ...]]:
    return [note for note in notes if note[0] not in names]


@pytest.mark.parametrize("overlapped", [False, True])
def test_an_algorithm_hears_of_training_in_the_order_of_its_exchange(overlapped: bool) -> None:
    algorithm = Noting(overlapped)
    peer = peer_zero(training=algorithm)
    greeted(peer)
    trained = 4, 128, 0.5, 0.01
    peer.handle(Trained(loss=0.5, samples=128, steps=4, lr=0.01), 0.0)
    finish_round(peer, 1, 0.0)
    before = (0, 0, 0.0, 0.0) if overlapped else trained
    assert algorithm.notes == [("outgoing", 1, *before), ("finish", 1, *trained)]


def test_a_lost_neighbor_is_missing_from_where_its_vector_ends_and_its_payload_is_undelivered() -> None:
    algorithm = Noting()
    peer = peer_zero(replace(CONTEXT, max_missing=1), algorithm)
    greeted(peer)
    peer.handle(Trained(), 0.0)
    for sender in (1, 3):
        peer.handle(message("grant", sender, 1), 0.0)
    peer.handle(message("ack", 3, 1), 0.0)
    peer.handle(chunk(1, 1, stop=5), 0.0)
    assert not without(algorithm.notes, "outgoing", "finish")
    peer.handle(Lost(1), 0.0)
    assert without(algorithm.notes, "outgoing") == [("edge reset", 1), ("missing", 1, {"x": 5})]
    algorithm.notes.clear()
    peer.handle(Flushed(), 0.0)
    peer.handle(chunk(3, 1), 0.0)
    sent = [float(number) for number in range(SIZE)]
    assert [note[:3] for note in algorithm.notes] == [("undelivered", 1, sent), ("finish", 1, 0)]


def test_a_payload_that_was_acknowledged_late_is_not_undelivered() -> None:
    algorithm = Noting()
    peer = peer_zero(training=algorithm)
    greeted(peer)
    peer.handle(Trained(), 0.0)
    for sender in (1, 3):
        peer.handle(message("grant", sender, 1), 0.0)
        peer.handle(chunk(sender, 1), 0.0)
    peer.handle(Flushed(), 0.0)
    peer.handle(Recorded(), 0.0)  # the next round has begun, and both acknowledge only now
    for sender in (1, 3):
        peer.handle(message("ack", sender, 1), 0.0)
    peer.handle(Trained(), 0.0)
    assert [note[:2] for note in algorithm.notes] == [("outgoing", 1), ("finish", 1), ("outgoing", 2)]


def test_a_neighbor_that_is_away_when_a_round_begins_gets_nothing_and_that_is_said() -> None:
    algorithm = Noting()
    peer = peer_zero(replace(CONTEXT, max_missing=1), algorithm)
    greeted(peer)
    peer.handle(Lost(1), 0.0)
    peer.handle(Trained(), 0.0)
    peer.handle(message("grant", 3, 1), 0.0)
    peer.handle(chunk(3, 1), 0.0)
    peer.handle(message("ack", 3, 1), 0.0)
    peer.handle(Flushed(), 0.0)
    said = [note[:2] for note in algorithm.notes]
    assert said == [("edge reset", 1), ("outgoing", 1), ("missing", 1), ("undelivered", 1), ("finish", 1)]


@pytest.mark.parametrize(
    "algorithm",
    [
        *(DPSGD(overlapped, wire) for overlapped in (False, True) for wire in ("fp32", "bf16")),
        QuasiGlobal(),
        ExactDiffusion(),
        ExactDiffusion("bf16"),
        AdaptiveConsensus(),
        *(Robust(rule) for rule in (Clipped(1), TrimmedMean(1), Median())),
        Chebyshev(0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("received", [0, SHARE])
def test_the_peers_own_vector_stands_in_for_the_rest_of_a_missing_one(algorithm: Algorithm, received: int) -> None:
    """As if the neighbor had sent that: its own first elements, then the peer's."""
    if not algorithm.streaming and received:
        received = 0  # its vectors come whole, or not at all
    results = []
    for is_missing in (False, True):
        vectors = random_vectors(3, 33)
        peers = driven(algorithm, matrix("complete", 3), vectors)
        sent = [peer.outgoing(1) for peer in peers]
        me = peers[0]
        own = algorithm.own(me.state)
        me.accumulate(0, own)
        (theirs,) = sent[1][0].vectors["x"]
        if is_missing:
            if received:
                me.accumulate(1, Payload({"x": (theirs[:received],)}))
            algorithm.missing(me.state, 1, {"x": received})
        else:
            me.accumulate(1, Payload({"x": (torch.cat([theirs[:received], own.vectors["x"][0][received:]]),)}))
        me.accumulate(2, sent[2][0])
        results.append(me.finish(1))
    assert torch.equal(*results)
