"""The state machine of one peer: the page to read first.

A peer greets its neighbors, then goes through rounds: train, exchange, mix (or, in the overlapped order, exchange
while training), then through the consensus rounds, which only mix, and leaves when its neighbors have acknowledged
its last vector. It waits for its neighbors only; there is no other clock and no center.

`Peer.handle(event, now)` is told what happened and returns what to do. It computes (the algorithms' folds) but
touches no socket, file, thread or clock, so a process, a test or a simulator can drive it alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from p2pfl.errors import ProtocolError
from p2pfl.exchange import PATIENCE, Inbox, Outbox, Session
from p2pfl.exchange import events as ev
from p2pfl.gossip import Algorithm, Hoods, Payload
from p2pfl.wire import Header, Message

Stage = Literal["new", "greeting", "working", "recording", "ended"]


class Peer:
    """One peer's progress. `x` is its flat float32 vector, (size,), which the driver trains in place.

    After a round x may be another tensor; `RoundDone` says which.
    """

    def __init__(
        self, plan: ev.Plan, hoods: Hoods, x: Tensor, training: Algorithm[Any], consensus: Algorithm[Any]
    ) -> None:
        self.plan = plan
        self.round = plan.first_round
        self.stage: Stage = "new"
        self._session = Session(plan)
        self._hoods = hoods
        self._x = x
        self._algorithms = (training, consensus)
        self._inbox = Inbox(lambda round: hoods(round).incoming, x.numel(), self._algorithm_of, plan.last_round)
        self._outbox = Outbox()
        self._state: Any = training.start(x, hoods)
        self._greeted: dict[int, int] = {}
        self._left: set[int] = set()
        self._current: Sequence[tuple[int, Payload]] = ()
        self._order: list[int] = []
        self._folded = 0
        self._began = self._trained = False
        self._training_since: float | None = None
        self._flushed = True
        self._round_since = self._waiting_since = 0.0
        self._slowest = 0.0
        self._handlers: dict[type, Callable[[Any, float], list[ev.Action]]] = {
            ev.Started: self._on_started,
            ev.Received: self._on_received,
            ev.Refused: lambda event, now: self._session.refuse(event.reason),
            ev.Trained: self._on_trained,
            ev.Flushed: self._on_flushed,
            ev.Recorded: self._on_recorded,
            ev.Reconnected: self._on_reconnected,
            ev.Lost: self._on_lost,
            ev.Tick: self._on_tick,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """React to one event at time `now` (seconds on any steady clock)."""
        return [] if self.stage == "ended" else self._handlers[type(event)](event, now)

    @property
    def refused(self) -> Counter[str]:
        """How many messages were not taken, by reason."""
        return self._session.refused

    @property
    def facts(self) -> Mapping[str, Any]:
        """Nothing: the driver knows all that a peer's record says."""
        return {}

    @property
    def payloads(self) -> dict[int, Payload]:
        """What went to each neighbor in the round that is being recorded, for its checkpoint."""
        return dict(self._current)

    @property
    def wants_flush(self) -> bool:
        """Whether the peer could go on if only the transport had let go of its buffers."""
        return not self._flushed and self._outbox.idle and self.stage == "working"

    @property
    def deadline(self) -> float:
        """When the peer's patience with its neighbors ends; infinity while it has work of its own."""
        limits = self.plan.timeouts
        if self.stage == "greeting":
            return self._waiting_since + (limits.handshake if limits.start is None else limits.start)
        if self.stage != "working" or self._training_since is not None:
            return math.inf
        least = limits.first_round if self.round == self.plan.first_round else limits.round
        return self._waiting_since + max(least, PATIENCE * self._slowest)

    # Greeting

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        self.stage, self._waiting_since = "greeting", now
        if not self.plan.links:  # a peer that learns by itself
            return self._begin_round(now)
        return [self._session.say("hello", link, self.round) for link in sorted(self.plan.links)]

    def _on_hello(self, header: Header, now: float) -> list[ev.Action]:
        self._greeted.setdefault(header.sender, header.round)
        if self.stage != "greeting" or self._greeted.keys() != self.plan.links:
            return []
        apart = {peer for peer, round in self._greeted.items() if abs(round - self.round) > 1}
        if apart:
            return self._fail(
                f"this peer would resume at round {self.round}, but {self.plan.name(apart)} more than one round away"
            )
        behind = sorted(peer for peer, round in self._greeted.items() if round < self.round)
        unsent = [(peer, self.plan.unsent[peer]) for peer in behind if peer in self.plan.unsent]
        return self._deliver(self._outbox.begin(self.round - 1, unsent)) + self._begin_round(now)

    # Rounds

    def _begin_round(self, now: float) -> list[ev.Action]:
        self.stage, self._round_since, self._waiting_since = "working", now, now
        if self.round == self.plan.training_rounds + 1:
            self._state = self._algorithms[1].start(self._x, self._hoods)
        self._order = sorted([*self._hoods(self.round).incoming, self.plan.me])
        self._folded = 0
        self._began = False
        self._trained = self.round > self.plan.training_rounds
        actions: list[ev.Action] = []
        if not self._trained and not self._algorithm.overlapped:
            actions += self._train(now)
        return actions + self._advance(now)

    def _train(self, now: float) -> list[ev.Action]:
        self._training_since = now
        return [ev.Train(self.round)]

    def _on_trained(self, event: ev.Trained, now: float) -> list[ev.Action]:
        assert self._training_since is not None
        self._slowest = max(self._slowest, now - self._training_since)
        self._training_since, self._waiting_since = None, now
        self._trained = True
        return self._advance(now)

    def _advance(self, now: float) -> list[ev.Action]:
        """Everything that can be done now: begin the exchange, fold, give leave, finish."""
        if self.stage != "working":
            return []
        actions = self._grants()
        ready = self._trained or self._algorithm.overlapped
        if not self._began and ready and self._outbox.idle and self._flushed:
            self._began = True
            self._current = self._algorithm.outgoing(self._state, self.round)
            # A neighbor that resumed one round ahead has this round's payload already and gives no leave for it.
            needed = [item for item in self._current if self._greeted[item[0]] <= self.round]
            actions += self._deliver(self._outbox.begin(self.round, needed))
            if not self._trained:
                actions += self._train(now)
        if self._began:
            actions += self._fold()
        # The last round of a phase also waits until every neighbor has its vector: bytes are counted in their phase,
        # and a peer leaves only when nobody needs it any more.
        last = self.round in (self.plan.training_rounds, self.plan.last_round)
        mixed = self._began and self._trained and self._folded == len(self._order)
        if mixed and (self._outbox.idle or not last):
            self._x = self._algorithm.finish(self._state)
            self.stage = "recording"
            actions.append(ev.RoundDone(self.round, self._x))
        return actions

    def _fold(self) -> list[ev.Action]:
        actions: list[ev.Action] = []
        for sender in self._order[self._folded :]:
            payload, whole = self._next_of(sender)
            if payload is not None or sender == self.plan.me:
                self._algorithm.fold(self._state, sender, payload)
            if not whole:
                break
            self._folded += 1
            actions += self._grants()
        return actions

    def _next_of(self, sender: int) -> tuple[Payload | None, bool]:
        """What there is to fold of a sender, and whether that is all of it."""
        if sender == self.plan.me:
            return None, True
        if self._algorithm.streaming:
            return self._inbox.take_part(self.round, sender)
        payload = self._inbox.take(self.round, sender)
        return payload, payload is not None

    def _on_recorded(self, event: ev.Recorded, now: float) -> list[ev.Action]:
        assert self.stage == "recording"
        self._slowest = max(self._slowest, now - self._round_since)
        if self.round < self.plan.last_round:
            self.round += 1
            return self._begin_round(now)
        self.stage = "ended"
        goodbyes = [self._session.say("goodbye", link, self.round) for link in sorted(self.plan.links)]
        return [*goodbyes, ev.Finish()]

    def _on_flushed(self, event: ev.Flushed, now: float) -> list[ev.Action]:
        self._flushed = True
        return self._advance(now)

    # Messages

    def _on_received(self, event: ev.Received, now: float) -> list[ev.Action]:
        header = event.message.header
        try:
            self._session.check(header)
            if header.kind == "chunk":
                return self._on_chunk(event.message, now)
        except ProtocolError as error:
            return self._session.refuse(f"{error}, from {header.sender}")
        if header.kind == "hello":
            return self._on_hello(header, now)
        if header.kind == "grant":
            return self._on_grant(header)
        if header.kind == "ack":
            self._outbox.acknowledged(header.sender, header.round)
        elif header.kind == "goodbye":
            self._left.add(header.sender)
            self._outbox.drop(header.sender)
        return self._advance(now)

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        header = message.header
        complete = self._inbox.add(message)
        self._waiting_since = max(self._waiting_since, now)  # a slow link that still delivers is no silent neighbor
        if not complete:
            # What is next in order is added as it comes, while it is in the cache and more is on its way.
            return self._fold() if self._is_next(header) else []
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _is_next(self, header: Header) -> bool:
        """Whether a chunk can be folded now."""
        exchanging = self.stage == "working" and self._began and self._algorithm.streaming
        return exchanging and (header.round, [header.sender]) == (self.round, self._order[self._folded :][:1])

    def _on_grant(self, header: Header) -> list[ev.Action]:
        # A neighbor is at most one round ahead and gives leave for one round more.
        if header.round > min(self.round + 2, self.plan.last_round):
            return self._session.refuse(f"round: leave for round {header.round}, from {header.sender}")
        return self._deliver(self._outbox.granted(header.sender, header.round))

    # Sending

    def _grants(self) -> list[ev.Action]:
        if self.stage != "working":
            return []
        return [self._session.say("grant", sender, round) for round, sender in self._inbox.grant(self.round)]

    def _deliver(self, items: Sequence[tuple[int, Payload]]) -> list[ev.Action]:
        self._flushed = self._flushed and not items
        round = self._outbox.round
        return self._session.deliver(round, self._algorithm_of(round).codec, items)

    # Trouble

    def _on_reconnected(self, event: ev.Reconnected, now: float) -> list[ev.Action]:
        """Say again whatever the broken connection may have swallowed; receivers ignore what they have."""
        neighbor = event.neighbor
        if neighbor in self._left:
            return []
        again: list[ev.Action] = [self._session.say("hello", neighbor, self.plan.first_round)]
        again += [self._session.say("grant", neighbor, round) for round in self._inbox.granted_to(neighbor)]
        again += [self._session.say("ack", neighbor, round) for round in self._inbox.taken_from(neighbor)]
        return again + self._deliver(self._outbox.repeat(neighbor))

    def _on_lost(self, event: ev.Lost, now: float) -> list[ev.Action]:
        if event.neighbor in self._left:
            return []
        return self._fail(f"lost the connection to peer {self.plan.name([event.neighbor])} in round {self.round}")

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Action]:
        if now < self.deadline:
            return []
        seconds = f"for {now - self._waiting_since:.0f} s"
        if self.stage == "greeting":
            missing = self.plan.name(self.plan.links - self._greeted.keys())
            option = "--handshake-timeout" if self.plan.timeouts.start is None else "--start-timeout"
            return self._fail(f"no greeting {seconds} from peer {missing} ({option})")
        silent = self._inbox.missing(self.round)
        option = "--first-round-timeout" if self.round == self.plan.first_round else "--round-timeout"
        names = self.plan.name(silent | self._outbox.waiting_for) or "(none: messages are not going out)"
        return self._fail(f"no progress {seconds} in round {self.round} from peer {names} ({option})")

    def _fail(self, reason: str) -> list[ev.Action]:
        self.stage = "ended"
        return [ev.Fail(reason)]

    def _algorithm_of(self, round: int) -> Algorithm[Any]:
        return self._algorithms[round > self.plan.training_rounds]

    @property
    def _algorithm(self) -> Algorithm[Any]:
        return self._algorithm_of(self.round)
