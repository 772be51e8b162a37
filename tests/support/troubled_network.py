"""A network of peers' state machines in which peers crash, freeze, restart and lose connections, under a clock.

Everything is as in `peer_network`, which checks that buffers do not change while they are sent. Training moves nothing
here and all peers start with the same weights, so that however a round's average comes about, as long as every
element's weights add up to 1, all weights stay what they were.
"""

from __future__ import annotations

import math

import torch
from tests.support.helpers import schedules_of
from tests.support.peer_network import Flying, Setting, Snapshot, Step, Watched
from torch import Tensor

from p2pfl.payload import Payload
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.events import (
    Action,
    Discard,
    Event,
    Fail,
    Finish,
    Flushed,
    Lost,
    Note,
    Reconnected,
    Recorded,
    RoundDone,
    Send,
    Started,
    Tick,
    Train,
    Trained,
)
from p2pfl.protocol.inbox import WINDOW
from p2pfl.protocol.peer import Peer

GRACE = 5.0


class Troubled:
    """All peers of a setting. `options` are the steps possible now, `do` takes one; `pass_time` is the clock."""

    def __init__(self, setting: Setting, spare: int) -> None:
        self.setting = setting
        self.spare = spare
        self.now = 0.0
        self.turn = 0
        self.start_vector = torch.linspace(-1, 1, setting.size)
        self.peers: list[Peer | None] = [None] * setting.n
        self.vectors: list[Tensor] = [self.start_vector.clone() for _ in range(setting.n)]
        self.saved: dict[int, tuple[int, Snapshot]] = {}
        self.lives = [0] * setting.n
        self.queues: dict[tuple[int, int], list[Flying]] = {}
        self.work: dict[int, Action] = {}
        self.ended: dict[int, Action] = {}
        self.frozen: set[int] = set()
        self.cut: dict[frozenset[int], float] = {}  # broken connections, since when
        self.told_lost: set[tuple[int, int]] = set()
        self.news: list[tuple[int, str]] = []
        self.absent: dict[int, list[tuple[int, list[str]]]] = {me: [] for me in range(setting.n)}
        for me in range(setting.n):
            self._make(me, rejoins=False)
        for me in range(setting.n):
            self._tell(me, Started())

    def links(self, me: int) -> frozenset[int]:
        around = schedules_of(self.setting.w)[me](1)
        return frozenset(around.incoming) | frozenset(around.outgoing)

    def _make(self, me: int, rejoins: bool, lost: bool = False) -> None:
        number, snapshot = self.saved.get(me, (0, None))
        if snapshot is not None:
            self.vectors[me] = snapshot.x.clone()
        else:
            self.vectors[me] = self.start_vector.clone()
        self.lives[me] += 1000
        context = PeerContext(
            me=me,
            names=[f"p{peer}" for peer in range(self.setting.n)],
            links=self.links(me),
            training_rounds=self.setting.training_rounds,
            consensus_rounds=self.setting.consensus_rounds,
            run="run",
            layout="layout",
            timeouts=Timeouts(None, 60.0, 40.0, 40.0),
            first_round=number + 1,
            pending_payloads={} if snapshot is None else {number: snapshot.sent},
            incarnation=self.lives[me],
            is_rejoining=rejoins,
            needs_bootstrap=snapshot is None,
            has_lost_weights=lost,
            max_missing=self.spare,
        )
        algorithms = [Watched(a, self.setting.size, [], {}) for a in (self.setting.training, self.setting.consensus)]
        self.peers[me] = Peer(context, schedules_of(self.setting.w)[me], self.vectors[me], *algorithms)
        for other in self.links(me):
            self.queues[me, other] = []

    # Troubles

    def crash(self, me: int) -> None:
        if self.peers[me] is None or me in self.ended:
            return
        self.peers[me] = None
        self.work.pop(me, None)
        self.frozen.discard(me)
        for other in self.links(me):
            self.queues[me, other] = []  # sockets are gone
            self.queues[other, me] = []
            self.cut[frozenset({me, other})] = self.now

    def restart(self, me: int) -> None:
        if self.peers[me] is not None or me in self.ended:
            return
        self._make(me, rejoins=True)
        for other in self.links(me):
            if self.peers[other] is not None:
                self.cut.pop(frozenset({me, other}), None)  # what it says first waits for the connection
        self._tell(me, Started())
        for other in self.links(me):
            self.told_lost -= {(me, other), (other, me)}
            if self.peers[other] is not None:
                self._tell(other, Reconnected(me))

    def resume_all(self, lost: set[int], initial: float = 77.0) -> None:
        """Everybody was stopped at once and is started again; some have lost what they had saved.

        `initial`: how many times as large the weights are that a peer without any starts with.
        """
        own, self.start_vector = self.start_vector, self.start_vector * initial
        self.work.clear()
        for me in range(self.setting.n):
            if me in lost:
                self.saved.pop(me, None)
            self._make(me, rejoins=False, lost=me in lost)
        self.start_vector = own
        for me in range(self.setting.n):
            self._tell(me, Started())

    def break_link(self, a: int, b: int) -> None:
        if self.peers[a] is not None and self.peers[b] is not None:
            self.queues[a, b], self.queues[b, a] = [], []
            self.cut.setdefault(frozenset({a, b}), self.now)

    def mend_link(self, a: int, b: int) -> None:
        if self.peers[a] is not None and self.peers[b] is not None:
            if self.cut.pop(frozenset({a, b}), None) is None:
                return
            for me, other in ((a, b), (b, a)):
                self.told_lost.discard((me, other))
                self._tell(me, Reconnected(other))

    # Steps

    def options(self) -> list[Step]:
        deliveries = [
            ("deliver", *link)
            for link, waiting in self.queues.items()
            if waiting and self.alive(link[1]) and frozenset(link) not in self.cut
        ]
        works = [("work", peer, peer) for peer in sorted(self.work) if self.alive(peer)]
        flushes = [
            ("flush", me, me) for me, peer in enumerate(self.peers) if peer and self.alive(me) and peer.wants_flush
        ]
        return sorted([*deliveries, *works, *flushes], key=lambda step: (step[1], step))

    def alive(self, me: int) -> bool:
        return self.peers[me] is not None and me not in self.frozen

    def do(self, step: Step) -> None:
        self.now += 0.001
        kind, a, b = step
        if kind == "deliver":
            self._tell(b, self.queues[a, b].pop(0).arrive())
        elif kind == "flush":
            for (sender, _), waiting in self.queues.items():
                if sender == a:
                    for flying in waiting:
                        flying.land()
            self._tell(a, Flushed())
        else:
            action = self.work.pop(a)
            peer = self.peers[a]
            assert peer is not None
            if isinstance(action, Train):
                self._tell(a, Trained())
                return
            assert isinstance(action, RoundDone)
            absent = peer.facts["absent"]
            if absent:
                self.absent[a].append((action.round, absent))
            torch.testing.assert_close(self.vectors[a], self.start_vector, rtol=1e-2, atol=1e-2)
            if action.round <= self.setting.training_rounds:
                sent = {
                    n: Payload({k: (v[0].clone(),) for k, v in p.vectors.items()}, p.scalars)
                    for n, p in peer.payloads.items()
                }
                self.saved[a] = action.round, Snapshot(self.vectors[a].clone(), sent)
            self._tell(a, Recorded())

    def pass_time(self, until: float = math.inf) -> bool:
        """Let the clock run to whatever comes next, but not beyond `until`. False where nothing comes."""
        due: list[tuple[float, int, Event]] = []
        for me, peer in enumerate(self.peers):
            if peer is None or not self.alive(me) or me in self.ended:
                continue
            if math.isfinite(peer.deadline):
                due.append((peer.deadline, me, Tick()))
            for link, since in self.cut.items():
                if me in link:
                    (other,) = link - {me}
                    if (me, other) not in self.told_lost:
                        due.append((since + GRACE, me, Lost(other)))
        if not due:
            return False
        when, me, event = min(due, key=lambda item: (item[0], item[1], isinstance(item[2], Tick)))
        if when > until:
            return False
        self.now = max(self.now, when)
        if isinstance(event, Lost):
            self.told_lost.add((me, event.neighbor))
        self._tell(me, event)
        return True

    def _tell(self, me: int, event: Event) -> None:
        peer = self.peers[me]
        assert peer is not None
        actions = peer.handle(event, self.now)
        assert peer.channel.inbox.outstanding <= WINDOW
        for action in actions:
            if isinstance(action, Send):
                gone = action.neighbor in self.ended or frozenset({me, action.neighbor}) in self.cut
                if not gone and self.peers[action.neighbor] is not None:
                    self.queues[me, action.neighbor].append(Flying(action.message))
            elif isinstance(action, Discard):
                self.queues[me, action.neighbor] = []
            elif isinstance(action, Train | RoundDone):
                assert me not in self.work
                self.work[me] = action
                if isinstance(action, RoundDone):
                    assert action.x is not None
                    self.vectors[me] = action.x
            elif isinstance(action, Note) and action.matters:
                self.news.append((me, action.text))
            elif isinstance(action, Finish | Fail):
                self.ended[me] = action
                if isinstance(action, Fail):
                    for other in self.links(me):
                        self.cut.setdefault(frozenset({me, other}), self.now)

    def run(self, limit: int = 100_000) -> None:
        """To the end, everything in turn."""
        for _ in range(limit):
            if not self.go_on():
                return
        raise AssertionError(f"the peers go on for ever: {self.news[-20:]}")

    def go_on(self, choice: int | None = None) -> bool:
        """One step, the one chosen or another peer's than the last; or the clock's. False if there is none."""
        options = self.options()
        if self.pass_time(until=self.now):
            return True
        if not options:
            return self.pass_time()
        self.turn += 1
        n = self.setting.n
        fair = min(options, key=lambda step: ((step[2] - self.turn) % n, step))
        self.do(fair if choice is None else options[choice % len(options)])
        return True
