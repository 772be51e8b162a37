"""What one peer does in its rounds: begin, train, send and fold, finish, and go to the next or a later one."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from p2pfl.algorithms.base import Algorithm, RoundContext
from p2pfl.algorithms.bootstrap import Bootstrap
from p2pfl.errors import NeighborCode
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.aggregation import RoundAggregation
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.inbox import Inbox, Senders
from p2pfl.protocol.membership import Membership, ResumePoint
from p2pfl.protocol.outbox import Outbox
from p2pfl.protocol.session import Session
from p2pfl.protocol.states import PEER, Stage
from p2pfl.protocol.timeouts import FailureDetector
from p2pfl.topology import NeighborhoodSchedule

# Seconds between the greeting of a neighbor that was started with something else and the end of the peer, in which the
# neighbor gets this peer's greeting and can say the same.
MISMATCH_SECONDS = 2.0


class Rounds:
    """A peer's state, and how it gets through rounds. What happens to it from outside is `Peer`'s, which calls this."""

    def __init__(
        self,
        context: PeerContext,
        schedule: NeighborhoodSchedule,
        x: Tensor,
        training: Algorithm[Any],
        consensus: Algorithm[Any],
    ) -> None:
        self._pending = dict(context.pending_payloads)  # rounds before the first whose vectors neighbors may still need
        self.context = context = replace(context, pending_payloads={})  # so that their memory is free soon
        self.round = context.first_round
        self.stage = Stage.NEW
        self._session = Session(context)
        self._schedule = schedule
        self._x = x
        self._algorithms = (training, consensus)
        self._bootstrapping = context.needs_bootstrap and context.first_round > 1  # it takes its neighbors' weights
        self._bootstrap = Bootstrap(training.is_robust)
        points = {neighbor: self._resume_point(neighbor) for neighbor in context.links}
        self._membership = Membership(context, self._session, points)
        self._inbox = Inbox(x.numel(), self._algorithm_of, context.last_round)
        self._outbox = Outbox()
        self._state: Any = training.init(x, schedule)
        self._mixes = False  # the state is that of the consensus rounds
        self._aggregation: RoundAggregation | None = None
        self._current: dict[int, Payload] = {}
        self._settled: set[int] = set()  # neighbors whose payload was acknowledged, or counted as undelivered
        self._left_behind = False  # others have gone on without it
        self._began = self._trained = False
        self._training = ev.Trained()  # result of this round's local training
        self._asked_again: set[tuple[int, int]] = set()  # (round, sender) of vectors of which a chunk was lost
        self._flushed = True
        self._detector = FailureDetector(context)
        self._unlike: dict[int, str] = {}  # how neighbors differ that were started with something else
        self._unlike_until = math.inf  # then the peer ends, if it cannot begin without them

    @property
    def outstanding(self) -> int:
        """How many vectors have credit and are not folded."""
        return self._inbox.outstanding

    def _enter(self, stage: Stage) -> None:
        self.stage = PEER.check(self.stage, stage)

    # Going through rounds

    def _go_to(self, round: int, now: float) -> list[ev.Action]:
        """Begin a round, the next or a later one."""
        jumped = round > self.round + (self.stage is Stage.RECORDING)
        empty = self.context.needs_bootstrap and self.stage is Stage.GREETING
        self.round = round
        if not jumped:
            return self._begin_round(now)
        # Without weights of its own, or where the others only mix any more, it first takes over a neighbor's.
        self._bootstrapping = empty or round > self.context.training_rounds + 1
        self._mixes = False
        self._pending.clear()
        self._outbox = Outbox()
        for neighbor in self.context.links:
            self._inbox.relist(neighbor, round)
        self._inbox.skip_to(round)
        news = ev.Note(f"goes straight to round {round}, where its neighbors are", matters=True)
        return [news, *self._membership.jump(round, round + self._bootstrapping), *self._begin_round(now)]

    def _begin_round(self, now: float) -> list[ev.Action]:
        self._enter(Stage.WORKING)
        self._aggregation, self._began, self._left_behind = None, False, False
        self._bootstrap = Bootstrap(self._algorithm.is_robust)
        self._training = ev.Trained()
        self._detector.begin_round(now)
        self._detector.sent_heartbeats(now)
        actions: list[ev.Action] = []
        for neighbor, rounds in self.context.expected_returns.items():
            if self.round in rounds:
                actions += self._membership.expect_back(neighbor, self.round, self._resume_point(neighbor))
        if self.round > self.context.training_rounds and not self._mixes and not self._bootstrapping:
            self._mixes = True
            self._state = self._algorithms[1].init(self._x, self._schedule)
        self._trained = self.round > self.context.training_rounds or self._bootstrapping
        if not self._trained and not self._algorithm.overlapped:
            actions += self._train(now)
        return actions + self._advance(now)

    def _train(self, now: float) -> list[ev.Action]:
        self._detector.begin_training(now)
        return [ev.Train(self.round)]

    def _advance(self, now: float) -> list[ev.Action]:
        """Everything that can be done now: serve who is behind, begin the exchange, fold, give leave, finish."""
        if self.stage is not Stage.WORKING:
            return []
        actions = [*self._grants(), *self._serve_those_behind()]
        ready = self._trained or self._algorithm.overlapped
        if not self._began and ready and self._outbox.idle and self._flushed and not self._pending:
            actions += self._begin_exchange()
            if not self._trained:
                actions += self._train(now)
        if self._began:
            actions += self._fold()
        # The last round of a phase also waits until every neighbor has its vector: bytes are counted in their phase,
        # and a peer leaves only when nobody needs it any more.
        settles = (
            self.round in (self.context.training_rounds, self.context.last_round)
            or self.round in self.context.barrier_rounds
        )
        mixed = self._began and self._trained and self._aggregation is not None and self._aggregation.complete
        if mixed and (self._outbox.idle or not settles):
            actions += self._finish_round()
        return actions

    def _serve_those_behind(self) -> list[ev.Action]:
        """Vectors of earlier rounds, from the checkpoint that this peer goes on with, to neighbors without them."""
        actions: list[ev.Action] = []
        while self._pending and self._outbox.idle:
            round = min(self._pending)
            items = [item for item in self._pending.pop(round).items() if self._membership.serves(item[0], round)]
            actions += self._deliver(self._outbox.begin(round, items))
        return actions

    def _begin_exchange(self) -> list[ev.Action]:
        self._began = True
        if self._bootstrapping:
            self._current = {}
            return []
        self._settle_payloads()
        context = self._context()
        self._current = dict(self._algorithm.outgoing(self._state, context))
        self._settled.clear()
        senders = list(context.neighborhood.incoming)
        self._aggregation = RoundAggregation(
            self._algorithm, self._state, self._inbox, self.round, self.context.me, senders, self._is_expected
        )
        needed = [item for item in self._current.items() if self._membership.serves(item[0], self.round)]
        return self._deliver(self._outbox.begin(self.round, needed))

    def _fold(self) -> list[ev.Action]:
        if self._aggregation is None:
            return self._take_weights()
        return self._grants() if self._aggregation.fold() else []

    def _take_weights(self) -> list[ev.Action]:
        """Take over the neighbors' weights, once nothing more is to come."""
        senders = sorted(self._senders_in(self.round))
        for sender in senders:
            if (payload := self._inbox.take(self.round, sender)) is not None:  # which makes room for others'
                self._bootstrap.add(sender, payload)
        if not all(self._inbox.is_whole(self.round, sender) for sender in senders):
            return self._grants()
        if not self._bootstrap:
            return self._fail(f"no neighbor is left to take weights from in round {self.round}")
        for here, block in self._bootstrap.blocks():
            self._x[here] = block
        self._enter(Stage.RECORDING)
        self._bootstrapping = False
        names = self.context.name(self._bootstrap.senders)
        news = ev.Note(f"takes over the weights of peer {names} in round {self.round}", matters=True)
        return [news, ev.RoundDone(self.round, self._x)]

    def _finish_round(self) -> list[ev.Action]:
        self._settle_payloads()
        self._x = self._algorithm.finish(self._state, self._context())
        self._enter(Stage.RECORDING)
        return [ev.RoundDone(self.round, self._x)]

    def _context(self) -> RoundContext:
        done = self._training
        return RoundContext(self.round, self._schedule(self.round), done.steps, done.samples, done.loss, done.lr)

    def _settle_payloads(self) -> None:
        """Tell the algorithm of this round's payloads that were not acknowledged and are waited for no longer."""
        for neighbor in self._current.keys() - self._settled - self._outbox.waiting_for:
            self._settled.add(neighbor)
            self._algorithms[self._mixes].undelivered(self._state, neighbor, self._current[neighbor])

    def _fail(self, reason: str, resumable: bool = True, usage: bool = False) -> list[ev.Action]:
        self._enter(Stage.ENDED)
        return [ev.Fail(reason, resumable, usage)]

    def _fail_by(self, code: NeighborCode, peers: Sequence[int], reason: str) -> list[ev.Action]:
        """End because of neighbors."""
        self._enter(Stage.ENDED)
        return [ev.Fail(reason, code=code, peers=tuple(peers))]

    # Neighbors that are of no use

    def _on_mismatch(self, sender: int, error: MismatchError, now: float) -> list[ev.Action]:
        """A neighbor was started with something else: end soon, unless the peer may begin without it."""
        first = sender not in self._unlike
        self._unlike.setdefault(sender, error.detail)
        refused = self._session.refuse(error.code, error.detail)
        if self.stage is not Stage.GREETING:
            return refused
        answer = [self._membership.greet(sender, self.round)] if first else []
        if self._can_spare(self._unlike):
            return [*refused, *answer]
        self._unlike_until = min(self._unlike_until, now + MISMATCH_SECONDS)
        return [*(ev.Note(note.text) for note in refused if isinstance(note, ev.Note)), *answer]  # its end will say it

    def _can_spare(self, neighbors: Collection[int]) -> bool:
        """Whether the peer may go on without these too."""
        return len(self._membership.missing | set(neighbors)) <= self.context.max_missing

    def _release(self, neighbor: int) -> None:
        self._inbox.relist(neighbor)
        self._outbox.drop(neighbor)
        self._outbox.revoke_credit(neighbor)
        if not self._bootstrapping:
            self._algorithms[self._mixes].edge_reset(self._state, neighbor)

    # Sending

    def _say_again(self, neighbor: int) -> list[ev.Action]:
        again: list[ev.Action] = []
        again += [self._session.say("grant", neighbor, round) for round in self._inbox.granted_to(neighbor)]
        return again + [self._session.say("ack", neighbor, round) for round in self._inbox.taken_from(neighbor)]

    def _grants(self) -> list[ev.Action]:
        if self.stage is not Stage.WORKING:
            return []
        granted = self._inbox.grant(self.round, self._senders(self.round), self._senders(self.round + 1))
        return [self._session.say("grant", sender, round) for round, sender in granted]

    def _deliver(self, items: Sequence[tuple[int, Payload]]) -> list[ev.Action]:
        self._flushed = self._flushed and not items
        round = self._outbox.round
        return self._session.deliver(round, self._algorithm_of(round).encodings, items)

    # What holds now

    def _resume_point(self, neighbor: int) -> ResumePoint:
        """The first round that this peer can serve a neighbor now, and the first that it needs of it."""
        if self.stage in (Stage.WORKING, Stage.RECORDING):
            done = self.stage is Stage.RECORDING or (self._aggregation is not None and self._aggregation.has(neighbor))
            needs = self.round + done
            while self._inbox.is_whole(needs, neighbor):
                needs += 1  # a neighbor that was a round ahead
            serves = self.round + (self.stage is Stage.RECORDING or self._bootstrapping)
            return ResumePoint(self._outbox.round if neighbor in self._outbox.waiting_for else serves, needs)
        first = self.round
        while neighbor in self._pending.get(first - 1, ()):
            first -= 1
        return ResumePoint(first + self._bootstrapping, self.round)

    def _ahead(self) -> int:
        """The round to go on with. Membership may be as far apart as there are peers between them, and wait.

        So a peer skips rounds only if it is further behind than that, starts, or was left behind while it slept.
        """
        slack = 0 if self._left_behind or self.stage is Stage.GREETING else len(self.context.names)
        return self._membership.ahead_of(self.round, frozenset(self._schedule(self.round).incoming), slack)

    def _senders_in(self, round: int) -> list[int]:
        return [n for n in self._schedule(round).incoming if self._membership.expects(n, round)]

    def _senders(self, round: int) -> Senders:
        """The senders of a round that are expected, and those that may still come back for it."""
        if round > self.context.last_round:
            return Senders()
        passed = self._aggregation.passed if self._aggregation is not None and round == self.round else frozenset()
        expected, away = [], []
        for n in self._schedule(round).incoming:
            is_expected = self._membership.expects(n, round)
            if is_expected:
                expected.append(n)
            granted = self._inbox.has(round, n) and not self._inbox.is_given_up(round, n)
            if not granted and n not in passed and not (is_expected and self._membership.is_up(n)):
                away.append(n)
        return Senders(expected, away)

    def _is_expected(self, sender: int) -> bool:
        return self._membership.expects(sender, self.round) and not self._inbox.is_given_up(self.round, sender)

    def _algorithm_of(self, round: int) -> Algorithm[Any]:
        return self._algorithms[round > self.context.training_rounds]

    @property
    def _algorithm(self) -> Algorithm[Any]:
        return self._algorithm_of(self.round)
