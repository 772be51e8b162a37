"""The state machine of one peer: greeting, rounds, consensus rounds, goodbye.

A peer greets its neighbors, then goes through rounds: train, exchange, mix (or, in the overlapped order, exchange
while training), then through the consensus rounds, which only mix, and leaves when its neighbors have acknowledged
its last vector. It waits for its neighbors only; there is no other clock and no center. A neighbor that is lost, or
silent for too long, is done without until it is back (`neighbors`); a peer that finds the others far ahead goes
straight to where they are.

`Peer.handle(event, now)` is told what happened and returns what to do. It computes (the algorithms' folds) but
touches no socket, file, thread or clock, so a process, a test or a simulator can drive it alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from p2pfl.algorithms.base import Algorithm
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.rounds import Rounds
from p2pfl.protocol.states import Stage
from p2pfl.protocol.timeouts import Wait
from p2pfl.protocol.wire import Header, Message
from p2pfl.topology import NeighborhoodSchedule


class Peer(Rounds):
    """One peer's progress. `x` is its flat float32 vector, (size,), which the driver trains in place.

    After a round x may be another tensor; `RoundDone` says which.
    """

    def __init__(
        self,
        context: PeerContext,
        schedule: NeighborhoodSchedule,
        x: Tensor,
        training: Algorithm[Any],
        consensus: Algorithm[Any],
    ) -> None:
        super().__init__(context, schedule, x, training, consensus)
        self._handlers: dict[type, Callable[[Any, float], list[ev.Action]]] = {
            ev.Started: self._on_started,
            ev.Received: self._on_received,
            ev.Refused: lambda event, now: self._session.refuse(event.code, event.detail),
            ev.Trained: self._on_trained,
            ev.Flushed: self._on_flushed,
            ev.Recorded: self._on_recorded,
            ev.Reconnected: self._on_reconnected,
            ev.Lost: self._on_lost,
            ev.Tick: self._on_tick,
        }

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """React to one event at time `now` (seconds on any steady clock)."""
        return [] if self.stage is Stage.ENDED else self._handlers[type(event)](event, now)

    @property
    def refused(self) -> Counter[str]:
        """How many messages were not taken, by reason."""
        return self._session.refused

    @property
    def facts(self) -> Mapping[str, Any]:
        """In whose place stood the peer's own vector in the round being recorded, and whose weights it took over."""
        replaced = () if self._aggregation is None else self._aggregation.replaced
        taken = self._bootstrap.senders
        return {
            "absent": [self.context.names[peer] for peer in replaced] or None,
            "weights_from": [self.context.names[peer] for peer in taken] or None,
        }

    @property
    def payloads(self) -> dict[int, Payload]:
        """What went to each neighbor in the round that is being recorded, for its checkpoint."""
        return dict(self._current)

    @property
    def wants_flush(self) -> bool:
        """Whether it matters that the transport lets go of its buffers: to go on, or to send something again."""
        wanted = self._outbox.idle or self._outbox.asked_again
        return not self._flushed and wanted and self.stage is Stage.WORKING

    @property
    def deadline(self) -> float:
        """When the next `Tick` is due: a timeout, a retry or the next heartbeats."""
        detector = self._detector
        if self.stage is Stage.GREETING:
            timeout = detector.progress_at + detector.timeout("greeting", self.round)
            retry = detector.retry_due("greeting", self.round)
            return min(detector.heartbeat_due, timeout, retry, self._unlike_until)
        # The next heartbeats come before any timeout, and often enough to ask again.
        return detector.heartbeat_due if self.stage in (Stage.WORKING, Stage.RECORDING) else math.inf

    # Greeting

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        self._enter(Stage.GREETING)
        self._detector.begin_wait(now)
        self._detector.sent_heartbeats(now)
        if not self.context.links:  # a peer that learns by itself
            return self._begin_round(now)
        return [*self._membership.greet_all(self.round), *self._begin_if_greeted(now)]

    def _begin_if_greeted(self, now: float) -> list[ev.Action]:
        """Begin when everybody has greeted; or, where the others are at work already, everybody within reach."""
        if self.stage is not Stage.GREETING:
            return []
        ungreeted, target = self._membership.ungreeted, self._ahead()
        if ungreeted:
            # Who cannot be reached is away, if a launcher has waited for all to be there, or others are at work.
            late = self.context.is_rejoining or target > self.round or self.context.timeouts.start is None
            spared = self._can_spare(ungreeted)
            if not (late and spared and ungreeted == self._membership.unreachable and self._membership.up):
                return []
        elif self._membership.all_finished:
            return self._fail(f"back after all its neighbors had finished: this peer was in round {self.round}")
        if self.context.has_lost_weights and target == self.round and self._membership.all_lost_weights:
            return []  # some peer further away may have weights, and its neighbors will be heard of again
        actions = self._take_down(ungreeted, "cannot be reached", now)
        return [*actions, *self._go_to(target, now)]

    # Work done

    def _on_trained(self, event: ev.Trained, now: float) -> list[ev.Action]:
        self._detector.end_training(now)
        self._trained, self._training = True, event
        return self._advance(now)

    def _on_recorded(self, event: ev.Recorded, now: float) -> list[ev.Action]:
        assert self.stage is Stage.RECORDING
        self._detector.end_round(now)
        if self.round < self.context.last_round:
            return self._go_to(self.context.scripted_pauses.get(self.round, max(self.round + 1, self._ahead())), now)
        self._enter(Stage.ENDED)
        goodbyes = [self._session.say("goodbye", link, self.round) for link in sorted(self.context.links)]
        return [*goodbyes, ev.Finish()]

    def _on_flushed(self, event: ev.Flushed, now: float) -> list[ev.Action]:
        self._flushed, self._outbox.asked_again = True, False
        return self._advance(now)

    # Messages

    def _on_received(self, event: ev.Received, now: float) -> list[ev.Action]:
        header = event.message.header
        try:
            self._session.check(event.message)
            self._detector.heard(header.sender, now)
            at_work = header.kind in ("chunk", "grant") and self._membership.is_at_work(header.sender)
            begun = self._begin_if_greeted(now) if at_work else []
            if header.kind == "chunk":
                return [*begun, *self._on_chunk(event.message, now)]
            if header.kind == "grant":
                return [*begun, *self._on_grant(header)]
        except MismatchError as error:
            return self._on_mismatch(header.sender, error, now)
        except ProtocolError as error:
            refused = self._session.refuse(error.code, f"{error.detail}, from {header.sender}")
            return [*refused, *self._on_bad_chunk(header, error.code, now)]
        if header.kind == "hello":
            return self._on_hello(header, now)
        if header.kind == "edge_down":
            return self._on_edge_down(header, now)
        if header.kind == "ack":
            if self._outbox.acknowledged(header.sender, header.round):
                self._settled.add(header.sender)
                self._detector.progress(now)
        elif header.kind == "goodbye":
            self._membership.finish(header.sender)
            self._release(header.sender)
        return [*self._begin_if_greeted(now), *self._advance(now)] if header.kind == "goodbye" else self._advance(now)

    def _on_hello(self, header: Header, now: float) -> list[ev.Action]:
        was_away = header.sender in self._membership.missing
        actions, stands = self._membership.hello(header, self.round, self._resume_point(header.sender))
        if not stands:
            return actions
        neighbor = header.sender
        if self._membership.has_finished(neighbor):
            self._release(neighbor)
            return [*actions, *self._begin_if_greeted(now), *self._advance(now)]
        self._inbox.relist(neighbor, self._membership.expected_from(neighbor))
        if self.stage is not Stage.GREETING:
            self._outbox.revoke_credit(neighbor)
        if not self._membership.serves(neighbor, self._outbox.round):
            self._outbox.drop(neighbor)
        if was_away:
            news = (
                f"peer {self.context.name([neighbor])} is back from round {self._membership.expected_from(neighbor)} on"
            )
            actions.append(ev.Note(news, matters=True))
        if self.stage is Stage.GREETING:
            return actions + self._begin_if_greeted(now)
        again: list[ev.Action] = []
        again += [self._session.say("grant", neighbor, round) for round in self._inbox.granted_to(neighbor)]
        payload = self._current.get(neighbor)
        in_exchange = self._began and self.stage is Stage.WORKING
        if in_exchange and payload is not None and self._membership.serves(neighbor, self.round):
            again += self._deliver(self._outbox.add(neighbor, payload))
        return [*actions, *again, *self._advance(now)]

    def _on_edge_down(self, header: Header, now: float) -> list[ev.Action]:
        """The neighbor continues without this peer: until both have agreed anew, so does this peer without it."""
        actions, was_up = self._membership.edge_down(header, self.round, self._resume_point(header.sender))
        if was_up:
            self._left_behind = True
            self._release(header.sender)
            actions.append(ev.Note(f"peer {self.context.name([header.sender])} continues without this peer"))
        return [*actions, *self._advance(now)]

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        header = message.header
        complete = self._inbox.add(message)
        self._asked_again.discard((header.round, header.sender))
        self._detector.chunk(header.sender, header.offset, now)  # a slow link that delivers is no silent neighbor
        if not complete:
            # What is next in order is added as it comes, while it is in the cache and more is on its way.
            return self._fold() if self._is_next(header) else []
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _is_next(self, header: Header) -> bool:
        """Whether a chunk can be folded now."""
        folding = self.stage is Stage.WORKING and self._aggregation is not None and self._algorithm.streaming
        return (
            folding
            and header.round == self.round
            and self._aggregation is not None
            and self._aggregation.following == header.sender
        )

    def _on_bad_chunk(self, header: Header, problem: Refusal, now: float) -> list[ev.Action]:
        """After a lost chunk the vector is asked for again; one that must not be averaged is done without."""
        key = header.round, header.sender
        if problem is Refusal.OFFSET and key not in self._asked_again:
            self._asked_again.add(key)
            return [self._session.say("grant", header.sender, header.round)]
        if problem is not Refusal.VALUES or not self._inbox.has(*key) or self._inbox.is_whole(*key):
            return []
        self._inbox.drop(*key)
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _on_grant(self, header: Header) -> list[ev.Action]:
        if header.round > self.context.last_round:
            raise ProtocolError(Refusal.ROUND, f"credit for round {header.round}")
        return self._deliver(self._outbox.granted(header.sender, header.round, self._flushed))

    # Trouble

    def _on_reconnected(self, event: ev.Reconnected, now: float) -> list[ev.Action]:
        """Say again whatever the broken connection may have swallowed; receivers ignore what they have."""
        neighbor = event.neighbor
        greeting = self._membership.reconnected(neighbor, self.round, self._resume_point(neighbor))
        if not greeting:
            return []
        return [*greeting, *self._say_again(neighbor), *self._deliver(self._outbox.repeat(neighbor))]

    def _on_lost(self, event: ev.Lost, now: float) -> list[ev.Action]:
        neighbor = event.neighbor
        if self.stage in (Stage.NEW, Stage.GREETING):
            self._membership.lose(neighbor)
            return self._begin_if_greeted(now)
        if not self._membership.is_in_use(neighbor):
            return []
        if not self._can_spare([neighbor]):
            reason = f"lost the connection to peer {self.context.name([neighbor])} in round {self.round}"
            return self._fail_by("lost-connection", [neighbor], reason)
        return self._take_down([neighbor], "connection lost", now)

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Action]:
        if self.stage is Stage.GREETING and now >= self._unlike_until:
            return self._fail(next(iter(self._unlike.values())), resumable=False, usage=True)
        actions = self._heartbeats(now)
        if self.stage not in (Stage.GREETING, Stage.WORKING) or self._detector.is_training:
            return actions
        wait: Wait = "greeting" if self.stage is Stage.GREETING else "round"
        waits = self._blocking()
        silent = self._detector.suspects(now, wait, self.round, waits)
        if silent is None:
            return [*actions, *self._retry(wait, waits, now)]
        why = self._detector.complaint(now, wait, self.round, silent)
        if self.stage is Stage.GREETING and self.context.has_lost_weights and not silent:
            why = "no checkpoint of this peer can be used, nor of its neighbors; start a new run without --resume"
            return self._fail(why, resumable=False)
        if not silent or not self._can_spare(silent):
            return self._fail_by("no-greeting" if wait == "greeting" else "no-progress", silent, why)
        return [*actions, *self._take_down(silent, why, now), *self._begin_if_greeted(now)]

    def _heartbeats(self, now: float) -> list[ev.Action]:
        """A heartbeat to every neighbor whose edge is up, if that is due."""
        if self.stage is Stage.NEW or now < self._detector.heartbeat_due:
            return []
        self._detector.sent_heartbeats(now)
        return [self._session.say("heartbeat", neighbor, 0) for neighbor in self._membership.up]

    def _retry(self, wait: Wait, waits: Collection[int], now: float) -> list[ev.Action]:
        """Ask again for what is waited for, if that is due."""
        if now < self._detector.retry_due(wait, self.round):
            return []
        self._detector.retried(now)
        actions: list[ev.Action] = []
        for neighbor in sorted(waits):
            if neighbor in self._membership.ungreeted:
                actions.append(self._membership.greet(neighbor, self.round))
            actions += self._say_again(neighbor)
        return actions

    def _take_down(self, neighbors: Sequence[int], why: str, now: float) -> list[ev.Action]:
        """Take edges down: one's own weights stand in for theirs until they are back."""
        actions: list[ev.Action] = []
        for neighbor in neighbors:
            news = f"continues without peer {self.context.name([neighbor])} from round {self.round} on ({why})"
            actions += [ev.Note(news, matters=True), ev.Discard(neighbor), *self._membership.take_down(neighbor)]
            self._release(neighbor)
        self._detector.begin_wait(now)
        return actions + self._advance(now) if neighbors else []

    def _blocking(self) -> set[int]:
        """Neighbors that this peer waits for."""
        if self.stage is Stage.GREETING:
            return set(self._membership.ungreeted)
        if self.stage is not Stage.WORKING:
            return set()
        if self._aggregation is not None:
            missing = self._aggregation.missing()
        else:
            missing = self._inbox.missing(self.round, self._senders_in(self.round))
        return missing | self._outbox.waiting_for
