"""A network of peers' state machines without sockets, threads or clocks, whose every step a test chooses.

A vector of `Setting.size` is one chunk, unless a test makes chunks small. Messages are encoded and decoded. A body
stays a view of the sender's buffer until it is delivered or its sender is told that everything is flushed, as with
ZeroMQ's copy=False, so a buffer that changes too early shows in the result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from tests.support.helpers import driven, mix, schedules_of
from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Outgoing, RoundContext
from p2pfl.payload import Encoding, LocalTraining, Payload
from p2pfl.protocol import wire
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.events import (
    Action,
    Event,
    Fail,
    Finish,
    Flushed,
    Lost,
    Received,
    Reconnected,
    Recorded,
    RoundDone,
    Send,
    Started,
    Train,
    Trained,
)
from p2pfl.protocol.peer import Peer

WINDOW = 4
Step = tuple[str, int, int]


@contextmanager
def small_chunks(size: int) -> Iterator[None]:
    """Vectors travel in chunks of that many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "CHUNK_BYTES", size)
        yield


@dataclass(frozen=True)
class Setting:
    """What a network runs: W, vectors of `size`, the algorithms, rounds."""

    w: np.ndarray
    training: Algorithm
    consensus: Algorithm
    size: int = 40
    training_rounds: int = 3
    consensus_rounds: int = 2

    @property
    def n(self) -> int:
        return len(self.w)

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
    """A peer after a round: x, and what it sent in that round."""

    x: Tensor
    sent: Mapping[int, Payload]


def reference(setting: Setting) -> dict[int, list[Tensor]]:
    """x of all peers after each round, the algorithms driven in step, without peers or messages."""
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


@dataclass(frozen=True)
class Watched:
    """An algorithm that notes as (round, sender) when it has all of a vector, which may come in parts, or its own.

    No part comes twice: of none does it get more than there is. `parts`: of whose vector it has some, and how much.
    """

    inner: Algorithm
    size: int
    log: list[tuple[int, int]]
    parts: dict[tuple[int, int], int]
    round: list[int] = field(default_factory=lambda: [0])
    me: list[int] = field(default_factory=lambda: [0])

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        return self.inner.encodings

    @property
    def overlapped(self) -> bool:
        return self.inner.overlapped

    @property
    def streaming(self) -> bool:
        return self.inner.streaming

    @property
    def is_robust(self) -> bool:
        return self.inner.is_robust

    def init(self, x: Tensor, schedule: Callable) -> object:
        return self.inner.init(x, schedule)

    def request(self, state: object, ctx: RoundContext, settings: LocalTraining) -> LocalTraining:
        return self.inner.request(state, ctx, settings)

    def outgoing(self, state: object, ctx: RoundContext) -> Outgoing:
        self.round[0], self.me[0] = ctx.round, ctx.neighborhood.me
        return self.inner.outgoing(state, ctx)

    def own(self, state: object) -> Payload:
        return self.inner.own(state)

    def accumulate(self, state: object, sender: int, part: Payload) -> None:
        self._note(sender, None if sender == self.me[0] else part)
        self.inner.accumulate(state, sender, part)

    def missing(self, state: object, sender: int, received: Mapping[str, int]) -> None:
        self._note(sender, self.inner.own(state).rest(received))
        self.inner.missing(state, sender, received)

    def undelivered(self, state: object, neighbor: int, sent: Payload) -> None:
        self.inner.undelivered(state, neighbor, sent)

    def edge_reset(self, state: object, neighbor: int) -> None:
        self.inner.edge_reset(state, neighbor)

    def _note(self, sender: int, payload: Payload | None) -> None:
        key = (self.round[0], sender)
        assert key not in self.log, "folded again"
        assert self.parts.keys() <= {key}, "another sender's vector before the last is whole"
        if payload is not None:
            new = sum(piece.numel() for pieces in payload.vectors.values() for piece in pieces)
            have, total = self.parts.pop(key, 0) + new, self.size * len(self.encodings)
            assert new > 0
            assert have <= total, "more than the vector has"
            if have < total:
                self.parts[key] = have
        if key not in self.parts:
            self.log.append(key)

    def finish(self, state: object, ctx: RoundContext) -> Tensor:
        assert not self.parts, "the round ends within a vector"
        return self.inner.finish(state, ctx)


@dataclass
class Flying:
    """A message on its way. The body is the sender's memory until `land`, and must not change until then."""

    message: wire.Message
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.body = bytes(self.message.body)

    def land(self) -> None:
        assert self.message.body == self.body, "a buffer changed while it was being sent"
        self.message = wire.Message(self.message.header, self.body)

    def arrive(self) -> Received:
        self.land()
        return Received(wire.decode(wire.encode(self.message)))


class Network:
    """All peers of a setting; `options` are the steps that are possible now, `do` takes one."""

    def __init__(
        self,
        setting: Setting,
        resumed: Sequence[tuple[int, Snapshot | None]] | None = None,
        unsent: Sequence[Mapping[int, Mapping[int, Payload]]] | None = None,
    ) -> None:
        """`resumed`: for each peer the first round to do, and what it was after the one before.

        `unsent`: for each what it has kept of the rounds before, by round, if not just what it sent in the last.
        """
        self.setting = setting
        self.unsent = unsent
        self.now = 0.0
        self.vectors = setting.initial()
        self.folds: list[list[tuple[int, int]]] = [[] for _ in range(setting.n)]
        self.parts: list[dict[tuple[int, int], int]] = [{} for _ in range(setting.n)]  # folded, not yet all
        self.granted: list[set[tuple[int, int]]] = [set() for _ in range(setting.n)]
        self.links: dict[tuple[int, int], deque[Flying]] = {}
        self.delivered: dict[tuple[int, int], list[Flying]] = {}
        self.work: dict[int, Action] = {}
        self.ended: dict[int, Action] = {}
        self.snapshots: dict[tuple[int, int], Snapshot] = {}
        self.first_rounds = [1] * setting.n if resumed is None else [first for first, _ in resumed]
        self.peers = [self._peer(me, None if resumed is None else resumed[me][1]) for me in range(setting.n)]
        for me in range(setting.n):
            self._tell(me, Started())

    def _peer(self, me: int, saved: Snapshot | None) -> Peer:
        schedule = schedules_of(self.setting.w)[me]
        links = frozenset(schedule(1).incoming) | frozenset(schedule(1).outgoing)
        for other in links:
            self.links[me, other], self.delivered[me, other] = deque(), []
        if saved is not None:
            self.vectors[me].copy_(saved.x)
        context = PeerContext(
            me=me,
            names=[f"p{peer}" for peer in range(self.setting.n)],
            links=links,
            training_rounds=self.setting.training_rounds,
            consensus_rounds=self.setting.consensus_rounds,
            run="run",
            layout="layout",
            timeouts=Timeouts(None, 1e9, 1e9, 1e9),
            first_round=self.first_rounds[me],
            pending_payloads=self._unsent(me, saved),
        )
        watched = [
            Watched(inner, self.setting.size, self.folds[me], self.parts[me])
            for inner in (self.setting.training, self.setting.consensus)
        ]
        return Peer(context, schedule, self.vectors[me], *watched)

    def _unsent(self, me: int, saved: Snapshot | None) -> Mapping[int, Mapping[int, Payload]]:
        if self.unsent is not None:
            return self.unsent[me]
        return {} if saved is None else {self.first_rounds[me] - 1: saved.sent}

    def options(self) -> list[Step]:
        """Every step that could come next, in a fixed order."""
        deliveries = [("deliver", *link) for link, waiting in self.links.items() if waiting]
        works = [("work", peer, peer) for peer in sorted(self.work)]
        flushes = [("flush", me, me) for me, peer in enumerate(self.peers) if peer.wants_flush]
        return sorted([*deliveries, *works, *flushes], key=lambda step: (step[1], step))

    def do(self, step: Step) -> None:
        self.now += 1.0
        kind, a, b = step
        {"deliver": self._deliver, "work": self._work, "flush": self._flush}[kind](a, b)

    def _deliver(self, sender: int, receiver: int) -> None:
        flying = self.links[sender, receiver].popleft()
        self.delivered[sender, receiver].append(flying)
        self._tell(receiver, flying.arrive())
        if flying.message.header.kind == "goodbye":
            self._tell(receiver, Lost(sender))  # its socket closes next, which must not matter any more

    def _work(self, peer: int, _: int) -> None:
        action = self.work.pop(peer)
        if isinstance(action, Train):
            train(self.vectors[peer], peer, action.round)
            self._tell(peer, Trained())
        else:
            assert isinstance(action, RoundDone)
            payloads = {
                neighbor: Payload(
                    {name: (pieces[0].clone(),) for name, pieces in payload.vectors.items()}, payload.scalars
                )
                for neighbor, payload in self.peers[peer].payloads.items()
            }
            self.snapshots[peer, action.round] = Snapshot(self.vectors[peer].clone(), payloads)
            self._tell(peer, Recorded())

    def _flush(self, peer: int, _: int) -> None:
        for (sender, _receiver), waiting in self.links.items():
            if sender == peer:
                for flying in waiting:
                    flying.land()
        self._tell(peer, Flushed())

    def repeat(self, sender: int, receiver: int, which: int) -> None:
        """Deliver once more what a link delivered before."""
        old = self.delivered[sender, receiver]
        if old:
            self._tell(receiver, old[which % len(old)].arrive())

    def reconnect(self, sender: int, receiver: int, lost: int) -> None:
        """The link breaks, loses some of what was under way (from its front), and stands again."""
        if sender in self.ended:
            return
        for _ in range(min(lost, len(self.links[sender, receiver]))):
            self.links[sender, receiver].popleft()
        self._tell(sender, Reconnected(receiver))

    def _tell(self, me: int, event: Event) -> None:
        actions = self.peers[me].handle(event, self.now)
        for action in actions:
            if isinstance(action, Send):
                header = action.message.header
                assert me not in self.ended or header.kind == "goodbye"
                if header.kind == "grant":
                    self.granted[me].add((header.round, action.neighbor))
                self.links[me, action.neighbor].append(Flying(action.message))
            elif isinstance(action, Train | RoundDone):
                assert me not in self.work
                self.work[me] = action
                if isinstance(action, RoundDone):
                    assert action.x is not None
                    self.vectors[me] = action.x
                else:
                    train(self.vectors[me], me, action.round)  # half now, half when it is done
            elif isinstance(action, Finish | Fail):
                self.ended[me] = action
        outstanding = self.granted[me] - set(self.folds[me])
        assert len(outstanding) <= WINDOW, outstanding

    def check_finished(self) -> None:
        """All peers are done, and each has folded its neighbors' vectors once a round, in peer order."""
        assert set(self.ended.values()) == {Finish()}
        assert len(self.ended) == self.setting.n
        for me, folds in enumerate(self.folds):
            senders = sorted([*np.flatnonzero(self.setting.w[me]).tolist()])
            rounds = range(self.first_rounds[me], self.setting.last_round + 1)
            assert folds == [(round, sender) for round in rounds for sender in senders]
