"""The state machine of the coordinator of federated learning.

Each round it draws clients, sends them the global model, and asks for their updates in client order, at most four at
a time, so that its memory does not grow with their number and sums have one order. A client that has not offered its
update before the deadline, or whose connection is lost, does not hold up the round: the record names it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.coordinator_rounds import Rounds
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.selection import Federation
from p2pfl.protocol.states import Progress, Stage
from p2pfl.protocol.wire import Header, Message


class Coordinator(Rounds):
    """The coordinator's progress. The global model is the `x` of its `server`."""

    def __init__(self, context: PeerContext, federation: Federation, server: ServerAverage) -> None:
        super().__init__(context, federation, server)
        self._handlers: dict[type, Callable[[Any, float], list[ev.Action]]] = {
            ev.Started: self._on_started,
            ev.Received: self._on_received,
            ev.Refused: lambda event, now: self._session.refuse(event.code, event.detail),
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
    def wants_flush(self) -> bool:
        """Only to send a model again: it is a snapshot, so a client that stopped reading holds up nothing."""
        return not self._flushed and self._asked_again

    @property
    def payloads(self) -> Mapping[int, Payload]:
        """Nothing: a round that was interrupted begins again."""
        return {}

    @property
    def deadline(self) -> float:
        """When its timeout ends: with the greeting, then with training, then with updates that were granted."""
        if self.stage is Stage.GREETING:
            return self._detector.waiting_since + self._detector.timeout("greeting", self.round)
        if self.stage is not Stage.WORKING:
            return math.inf
        training = self._in(Progress.WAITING, Progress.SENT, Progress.TRAINING)
        since = self._detector.waiting_since if training else self._detector.progress_at
        return since + self._detector.timeout("round", self.round)

    # Greeting

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        self._enter(Stage.GREETING)
        self._detector.begin_wait(now)
        return [self._session.say("hello", client, self.round) for client in sorted(self.context.links)]

    def _on_hello(self, header: Header, now: float) -> list[ev.Action]:
        self._greeted.add(header.sender)
        self._gone.discard(header.sender)
        if self.stage is Stage.WORKING and header.round > self.round and self._is_owed(header.sender):
            return self._give_up([header.sender], now)  # it has started anew, to be back in a later round
        return self._begin_if_all_are_known(now)

    def _begin_if_all_are_known(self, now: float) -> list[ev.Action]:
        """Every client has greeted or is lost."""
        known = self._greeted | self._gone >= self.context.links
        return self._begin_without(frozenset(), now) if known and self.stage is Stage.GREETING else []

    def _begin_without(self, silent: frozenset[int], now: float) -> list[ev.Action]:
        """Begin without the clients that have not greeted or are lost, unless too few are left."""
        self._gone |= silent
        names = self.context.name(self._gone)
        if len(self.context.links - self._gone) < self._federation.min_updates:
            least = self._federation.min_updates
            return self._fail(f"no greeting from {names} (--handshake-timeout), and --min-updates asks for {least}")
        return [*([ev.Note(f"begins without {names}")] if names else []), *self._begin_round(now)]

    # Work done

    def _on_recorded(self, event: ev.Recorded, now: float) -> list[ev.Action]:
        assert self.stage is Stage.RECORDING
        if self.round < self.context.last_round:
            self.round += 1
            return self._begin_round(now)
        self._enter(Stage.ENDED)
        return [
            *(self._session.say("goodbye", client, self.round) for client in sorted(self.context.links)),
            ev.Finish(),
        ]

    # Messages

    def _on_received(self, event: ev.Received, now: float) -> list[ev.Action]:
        header = event.message.header
        try:
            self._session.check(event.message)
            if header.kind == "chunk":
                return self._on_chunk(event.message, now)
        except MismatchError as error:  # one client must not end the run of all: it is done without, which is said
            refused = self._session.refuse(error.code, error.detail)
            self._gone |= {header.sender} if self.stage is Stage.GREETING else set()
            return [*refused, *self._begin_if_all_are_known(now)]
        except ProtocolError as error:
            refused = self._session.refuse(error.code, f"{error.detail}, from {header.sender}")
            return [*refused, *self._on_bad_update(header, error.code, now)]
        if header.kind == "hello":
            return self._on_hello(header, now)
        if header.kind == "grant":
            return self._on_ready(header, now)
        if header.kind == "offer":
            return self._on_offer(header, now)
        if header.kind == "ack" and header.round == self.round and self.progress.get(header.sender) == "sent":
            self._move(header.sender, Progress.TRAINING)
        return []

    def _on_ready(self, header: Header, now: float) -> list[ev.Action]:
        client = header.sender
        where = self.progress.get(client)
        if self.stage is Stage.WORKING and where is Progress.WAITING:
            return self._send_model(client)
        if self.stage is Stage.WORKING and where is Progress.TRAINING:
            return self._send_model(client)  # it has started anew, without the model; one that has it ignores this
        if (
            where is not Progress.SENT
        ):  # there it has said so before, over a connection that broke, or the model got lost
            self._ready.add(client)
        elif header.round > self.round:  # it has refused this round's model, and is ready for another
            self._ready.add(client)
            return self._give_up([client], now, "the model did not arrive as it was sent")
        elif self.stage is Stage.WORKING and self._flushed:
            return self._send_model(client)
        else:
            self._asked_again = True  # on a slow link copies of the same would pile up
        return []

    def _on_flushed(self, event: ev.Flushed, now: float) -> list[ev.Action]:
        self._flushed, self._asked_again = True, False  # whoever still misses its model asks once more
        return []

    def _on_offer(self, header: Header, now: float) -> list[ev.Action]:
        where = self.progress.get(header.sender)
        if header.round == self.round and where in (Progress.SENT, Progress.TRAINING):
            self._move(header.sender, Progress.OFFERING)
            self._detector.progress(now)
            return self._advance(now)
        if header.round == self.round and where in (Progress.OFFERING, Progress.GRANTED):
            if self._inbox.is_whole(self.round, header.sender):
                return [self._session.say("ack", header.sender, self.round)]
            # Said again after a broken connection, or since the leave, or some of the update, got lost.
            return [self._session.say("grant", header.sender, self.round)] if where is Progress.GRANTED else []
        # Too late, or folded already: by this acknowledgement the client is free for another round.
        return [self._session.say("ack", header.sender, header.round)]

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        header = message.header
        if header.round < self.round and not self._inbox.has(header.round, header.sender):
            self._inbox.drop(header.round, header.sender)  # of a round that went on without it
        complete = self._inbox.add(message)
        if self.progress.get(header.sender) is Progress.GRANTED and header.round == self.round:
            self._detector.progress(now)
        if not complete:
            return []
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _on_bad_update(self, header: Header, problem: Refusal, now: float) -> list[ev.Action]:
        """An update that must not be averaged is done without at once; its client is free for another round."""
        granted = self.progress.get(header.sender) is Progress.GRANTED and header.round == self.round
        if not (granted and problem is Refusal.VALUES and self.stage is Stage.WORKING):
            return []
        freed = self._session.say("ack", header.sender, header.round)
        return [freed, *self._give_up([header.sender], now, "its update is not finite")]

    # Trouble

    def _on_lost(self, event: ev.Lost, now: float) -> list[ev.Action]:
        self._gone.add(event.neighbor)
        if self.stage is Stage.GREETING:
            return self._begin_if_all_are_known(now)
        owed = self.stage is Stage.WORKING and self._is_owed(event.neighbor)
        return self._give_up([event.neighbor], now) if owed else []

    def _on_reconnected(self, event: ev.Reconnected, now: float) -> list[ev.Action]:
        """Say again whatever the broken connection may have swallowed; clients ignore what they have."""
        client = event.neighbor
        again: list[ev.Action] = [self._session.say("hello", client, self.context.first_round)]
        again += [self._session.say("ack", client, round) for round in self._inbox.taken_from(client)]
        where = self.progress.get(client)
        if self.stage is Stage.WORKING and where is Progress.SENT:
            again += self._send_model(client)
        elif self.stage is Stage.WORKING and where is Progress.GRANTED:
            again.append(self._session.say("grant", client, self.round))
        self._gone.discard(client)
        return again

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Action]:
        if now < self.deadline:
            return []
        if self.stage is Stage.GREETING:
            return self._begin_without(self.context.links - self._greeted, now)
        stuck = sorted(self._inbox.missing(self.round, self._in(Progress.GRANTED)))
        return self._give_up(self._in(Progress.WAITING, Progress.SENT, Progress.TRAINING) or stuck, now)
