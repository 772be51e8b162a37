"""Gossip on small vectors, and its invariants, for the explorer of interleavings.

A vector of `Setting.size` is one chunk, unless a test makes chunks small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from tests.support.helpers import driven, mix, schedules_of
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Outgoing, RoundContext, Saved
from p2pfl.payload import Payload
from p2pfl.protocol import wire
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.events import Action, Finish, Recorded, RoundDone, Send, Train, Trained
from p2pfl.protocol.inbox import WINDOW
from p2pfl.protocol.peer import Peer
from p2pfl.sim.interleaving import Interleaving
from p2pfl.topology import Neighborhood

ENDLESS = Timeouts(None, 1e9, 1e9, 1e9)


@contextmanager
def small_chunks(size: int) -> Iterator[None]:
    """Vectors travel in chunks of that many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", size)
        yield


@dataclass(frozen=True, eq=False)
class Setting:
    """Settings of a swarm: W, vectors of `size`, the algorithms, rounds.

    On a schedule W is (period, n, n), a matrix for each round. Of the training rounds each `gossip_steps`th, from the
    first on, begins with training.
    """

    w: np.ndarray
    training: Algorithm
    consensus: Algorithm
    size: int = 40
    training_rounds: int = 3
    consensus_rounds: int = 2
    gossip_steps: int = 1

    @property
    def n(self) -> int:
        return self.w.shape[-1]

    @property
    def period(self) -> int:
        return len(self.w) if self.w.ndim == 3 else 1

    def around(self, me: int) -> list[Neighborhood]:
        """Neighborhoods of a peer in a period."""
        return [schedules_of(self.w)[me](round) for round in range(1, self.period + 1)]

    @property
    def last_round(self) -> int:
        return self.training_rounds + self.consensus_rounds

    def algorithm(self, round: int) -> Algorithm:
        return self.training if round <= self.training_rounds else self.consensus

    def initial(self) -> list[Tensor]:
        return [torch.linspace(-1, 1, self.size).roll(7 * peer) for peer in range(self.n)]


def train(x: Tensor, peer: int, round: int) -> None:
    """Half of a round's made-up local training, in place."""
    x.mul_(0.9).add_(torch.arange(x.numel()).cos(), alpha=0.1 * (peer + 1) / round)


@dataclass
class Snapshot:
    """A peer after a round: x, what it sent in that round, its algorithm's state."""

    x: Tensor
    sent: Mapping[int, Payload]
    state: Saved = field(default_factory=dict)


def reference(setting: Setting) -> dict[int, list[Tensor]]:
    """x of all peers after each round; algorithms in step, without peers or messages."""
    vectors = setting.initial()
    peers = driven(setting.training, setting.w, vectors)
    results = {}
    for round in range(1, setting.last_round + 1):
        algorithm = setting.algorithm(round)
        if round == setting.training_rounds + 1:
            peers = driven(algorithm, setting.w, vectors)
        trains = round <= setting.training_rounds
        if trains and not algorithm.overlapped:
            train_all(vectors, round)
        sent = [peer.outgoing(round) for peer in peers]
        if trains and algorithm.overlapped:
            train_all(vectors, round)
        mix(peers, sent, round, vectors)
        results[round] = [x.clone() for x in vectors]
    return results


def train_all(vectors: Sequence[Tensor], round: int) -> None:
    for peer, x in enumerate(vectors):
        train(x, peer, round)
        train(x, peer, round)


class Watched:
    """An algorithm that notes in `folds`, as (round, sender), of whom it has all.

    A vector may come in parts, of which none comes twice and none amid another's; `parts` says how much is in.
    """

    def __init__(self, inner: Algorithm, size: int, folds: list[tuple[int, int]], parts: dict) -> None:
        self.inner, self.size, self.folds, self.parts = inner, size, folds, parts
        self.round = self.me = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def outgoing(self, state: object, ctx: RoundContext) -> Outgoing:
        self.round, self.me = ctx.round, ctx.neighborhood.me
        return self.inner.outgoing(state, ctx)

    def accumulate(self, state: object, sender: int, part: Payload) -> None:
        self.note(sender, None if sender == self.me else part)
        self.inner.accumulate(state, sender, part)

    def missing(self, state: object, sender: int, received: Mapping[str, int]) -> None:
        self.note(sender, self.inner.own(state).rest(received))
        self.inner.missing(state, sender, received)

    def note(self, sender: int, payload: Payload | None) -> None:
        key = (self.round, sender)
        assert key not in self.folds, "folded again"
        if not self.inner.streaming:
            payload = None  # comes whole; its length may vary
        assert self.parts.keys() <= {key}, "another sender's vector before the last is whole"
        if payload is not None:
            new = sum(piece.numel() for pieces in payload.vectors.values() for piece in pieces)
            have, total = self.parts.pop(key, 0) + new, self.size * len(self.inner.encodings)
            assert new > 0
            assert have <= total, "more than the vector has"
            if have < total:
                self.parts[key] = have
        if key not in self.parts:
            self.folds.append(key)

    def finish(self, state: object, ctx: RoundContext) -> Tensor:
        assert not self.parts, "the round ends within a vector"
        return self.inner.finish(state, ctx)


class Gossip:
    """Peers of a setting, for `Interleaving`."""

    timeouts = ENDLESS
    max_missing = 0
    bootstraps = False  # a peer that has saved nothing takes its neighbors' weights when it is behind

    def __init__(self, setting: Setting, saved: Mapping[int, tuple[int, Snapshot]] | None = None) -> None:
        """`saved`: for peers that continue, the last saved round and its snapshot."""
        n = setting.n
        self.setting, self.processes = setting, n
        self.vectors = setting.initial()
        self.peers: dict[int, Peer] = {}
        self.saved = dict(saved or {})
        self.first_rounds = [self.saved[me][0] + 1 if me in self.saved else 1 for me in range(n)]
        # Vectors of earlier rounds that a peer has kept, by round, if not just those of its last.
        self.pending: dict[int, Mapping[int, Mapping[int, Payload]]] = {}
        self.away_until: dict[int, int] = {}  # by peer that a fault script keeps away
        self.lost_weights: frozenset[int] = frozenset()
        self.incarnations = [0] * n
        self.folds: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        self.parts: list[dict[tuple[int, int], int]] = [{} for _ in range(n)]  # of vectors not yet whole
        self.granted: list[set[tuple[int, int]]] = [set() for _ in range(n)]
        self.snapshots: dict[tuple[int, int], Snapshot] = {}
        self.absent: dict[int, list[tuple[int, list[str]]]] = {me: [] for me in range(n)}

    def links(self, me: int) -> frozenset[int]:
        return frozenset(n for one in self.setting.around(me) for n in (*one.incoming, *one.outgoing))

    def start_of(self, me: int) -> Tensor:
        return self.setting.initial()[me]

    def build(self, me: int, is_restarted: bool) -> Peer:
        setting = self.setting
        number, snapshot = self.saved.get(me, (0, None))
        self.vectors[me] = self.start_of(me) if snapshot is None else snapshot.x.clone()
        self.incarnations[me] += 1000
        self.folds[me], self.parts[me], self.granted[me] = [], {}, set()
        context = PeerContext(
            me=me,
            names=[f"p{peer}" for peer in range(setting.n)],
            links=self.links(me),
            training_rounds=setting.training_rounds,
            consensus_rounds=setting.consensus_rounds,
            gossip_steps=setting.gossip_steps,
            run="run",
            layout="layout",
            timeouts=self.timeouts,
            first_round=number + 1,
            pending_payloads=self.pending.get(me, {} if snapshot is None else {number: snapshot.sent}),
            incarnation=self.incarnations[me],
            is_rejoining=is_restarted,
            needs_bootstrap=self.bootstraps and snapshot is None,
            has_lost_weights=me in self.lost_weights,
            max_missing=self.max_missing,
            away_until=self.away_until.get(me, 0),
            period=setting.period,
        )
        watched = [
            Watched(a, setting.size, self.folds[me], self.parts[me]) for a in (setting.training, setting.consensus)
        ]
        restored = None if snapshot is None else snapshot.state
        self.peers[me] = Peer(context, schedules_of(setting.w)[me], self.vectors[me], *watched, restored=restored)
        return self.peers[me]

    def begin(self, me: int, action: Train | RoundDone) -> None:
        if isinstance(action, Train):
            self.train(me, action.round)  # half now, half when it is done
        else:
            assert action.x is not None
            self.vectors[me] = action.x

    def complete(self, me: int, action: Train | RoundDone) -> Trained | Recorded:
        if isinstance(action, Train):
            self.train(me, action.round)
            return Trained()
        if absent := self.peers[me].facts["absent"]:
            self.absent[me].append((action.round, absent))
        sent = {
            neighbor: Payload({name: (pieces[0].clone(),) for name, pieces in payload.vectors.items()}, payload.scalars)
            for neighbor, payload in self.peers[me].payloads.items()
        }
        state = {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in self.peers[me].algorithm_state.items()
        }
        self.snapshots[me, action.round] = Snapshot(self.vectors[me].clone(), sent, state)
        if action.round <= self.setting.training_rounds:
            self.saved[me] = action.round, self.snapshots[me, action.round]
        return Recorded()

    def train(self, me: int, round: int) -> None:
        train(self.vectors[me], me, round)

    def check(self, me: int, actions: Sequence[Action]) -> None:
        """Credit is bounded, as messages say and as the inbox says."""
        for action in actions:
            if isinstance(action, Send) and action.message.header.kind == "grant":
                self.granted[me].add((action.message.header.round, action.neighbor))
        outstanding = self.granted[me] - set(self.folds[me])
        assert self.bootstraps or len(outstanding) <= WINDOW, outstanding
        assert self.peers[me].channel.inbox.outstanding <= WINDOW

    def check_finished(self, run: Interleaving) -> None:
        """All are done, each having folded its neighbors once a round, in peer order."""
        assert run.ended == dict.fromkeys(range(self.processes), Finish())
        for me, folds in enumerate(self.folds):
            around = [sorted([me, *one.incoming]) for one in self.setting.around(me)]
            rounds = range(self.first_rounds[me], self.setting.last_round + 1)
            assert folds == [(round, sender) for round in rounds for sender in around[(round - 1) % len(around)]]


class Steady(Gossip):
    """Peers that start with the same weights, which training does not move.

    So however a round's average comes about, all weights stay what they were, as long as every element's weights add up
    to 1. Peers may die, and time matters.
    """

    timeouts = Timeouts(None, 60.0, 40.0, 40.0)
    bootstraps = True
    start_scale = 1.0  # of the weights of a peer that has saved none, when it is built

    def __init__(self, setting: Setting, spare: int) -> None:
        super().__init__(setting)
        self.max_missing = spare
        self.weights = torch.linspace(-1, 1, setting.size)

    def start_of(self, me: int) -> Tensor:
        return self.weights * self.start_scale

    def train(self, me: int, round: int) -> None:
        """Move nothing."""

    def complete(self, me: int, action: Train | RoundDone) -> Trained | Recorded:
        if isinstance(action, RoundDone):
            torch.testing.assert_close(self.vectors[me], self.weights, rtol=1e-2, atol=1e-2)
        return super().complete(me, action)
