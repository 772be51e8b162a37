"""The state machine of one client: takes the global model, trains it on its shard, sends back what came out.

A client says when it is ready for a model (`grant`), acknowledges it, trains, offers its update (`offer`), sends it
when the coordinator grants that, and is ready again once the coordinator has acknowledged it, or has said by the same
acknowledgement that it went on without. Between two rounds it waits for as long as the connection stands.

Connections break, and what the coordinator had given up may still come. So a newer model always takes the place of an
older one, and every greeting is answered with where the client stands: neither side can wait for the other in vain.
A message may also get lost on a connection that stands: a client that has waited for some seconds without any progress
says again where it stands.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from p2pfl.algorithms.attacks import Tamper
from p2pfl.algorithms.base import ONLY_X
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Encoding, Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.inbox import Inbox
from p2pfl.protocol.outbox import Outbox
from p2pfl.protocol.session import Session
from p2pfl.protocol.states import CLIENT, ClientStage
from p2pfl.protocol.timeouts import FailureDetector
from p2pfl.protocol.wire import Header, Message


@dataclass(frozen=True)
class _Form:
    """What travels in both directions: the flat vector."""

    encodings: Mapping[str, Encoding]


class Client:
    """One client's progress. `x` is its flat float32 vector, (size,), which the driver trains in place."""

    def __init__(self, context: PeerContext, x: Tensor, wire_dtype: str, tamper: Tamper | None = None) -> None:
        """`tamper`: what an attacker sends instead of its update."""
        (self._coordinator,) = context.links
        self.context = context
        self.round = context.first_round - 1  # the one that it took part in last
        self.stage = ClientStage.NEW
        self._session = Session(context)
        self._x = x
        self._form = form = _Form(ONLY_X[wire_dtype])
        self._tamper = tamper
        self._global = x  # the global model that is being trained, where somebody wants to know it later
        self._inbox = Inbox(x.numel(), lambda round: form, context.last_round)
        self._outbox = Outbox()
        self._unwanted = 0  # the newest round whose model was refused
        self._newest = self.round  # the newest round whose model has begun to come
        self._model: tuple[int, Payload] | None = None  # a whole one, as long as it cannot be trained yet
        self._flushed = True
        self._dismissed = False
        self._detector = FailureDetector(context)
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
        return [] if self.stage is ClientStage.ENDED else self._handlers[type(event)](event, now)

    @property
    def refused(self) -> Counter[str]:
        """How many messages were not taken, by reason."""
        return self._session.refused

    @property
    def facts(self) -> Mapping[str, Any]:
        """Nothing: the driver knows all that a client's record says."""
        return {}

    @property
    def payloads(self) -> Mapping[int, Payload]:
        """Nothing: a round that was interrupted begins again with the global model."""
        return {}

    @property
    def wants_flush(self) -> bool:
        """Whether it matters that the transport lets go of the last update: to go on, or to send it again."""
        trains = self.stage is ClientStage.IDLE and self._model is not None
        return not self._flushed and (trains or (self.stage is ClientStage.OFFERING and self._outbox.asked_again))

    @property
    def deadline(self) -> float:
        """The end of the greeting, and then reminders: the coordinator decides how long a client waits."""
        if self.stage is ClientStage.GREETING:
            return self._detector.waiting_since + self._detector.timeout("greeting", self.round)
        waits = self.stage is ClientStage.OFFERING or (self.stage is ClientStage.IDLE and self._model is None)
        return self._detector.retry_due("round", self.round) if waits else math.inf

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        self._enter(ClientStage.GREETING)
        self._detector.begin_wait(now)
        return [self._say("hello", self.context.first_round)]

    def _on_received(self, event: ev.Received, now: float) -> list[ev.Action]:
        header = event.message.header
        try:
            self._session.check(event.message)
            actions = self._on_chunk(event.message) if header.kind == "chunk" else None
        except MismatchError as error:
            refused = self._session.refuse(error.code, error.detail)
            return self._fail(error.detail, usage=True) if self.stage is ClientStage.GREETING else refused
        except ProtocolError as error:
            refused = self._session.refuse(error.code, f"{error.detail}, from the coordinator")
            return [*refused, *self._on_bad_model(header, error.code)]
        self._detector.progress(now)
        if actions is not None:
            return actions
        if header.kind == "hello":  # said again if the coordinator's connection broke, which lost what it said before
            if self.stage is ClientStage.GREETING:
                self._enter(ClientStage.IDLE)
            return [*self._say_where_it_stands(), *self._advance()]
        if header.kind == "goodbye":
            self._dismissed = True
            return [] if self.stage is ClientStage.RECORDING else self._finish()
        if header.kind == "grant" and self.stage is ClientStage.OFFERING:
            return self._deliver(self._outbox.granted(self._coordinator, header.round, self._flushed))
        return self._on_acknowledged(header) if header.kind == "ack" else []

    def _on_chunk(self, message: Message) -> list[ev.Action]:
        round = message.header.round
        if round > self.context.last_round:  # else nothing older would be taken any more
            raise ProtocolError(Refusal.ROUND, f"a model of round {round}, after the last")
        if round > self._newest:
            # Whatever is here of an older round is not wanted any more: a broken connection may have lost the rest.
            for old in self._inbox.granted_to(self._coordinator):
                self._inbox.drop(old, self._coordinator)
            self._inbox.forget_before(self.round)
            self._inbox.open(round, self._coordinator)
            self._newest = round
        if not self._inbox.add(message):
            return []
        payload = self._inbox.take(round, self._coordinator)
        if payload is not None:
            self._model = (round, payload)
        return [self._say("ack", round), *self._advance()]

    def _on_bad_model(self, header: Header, problem: Refusal) -> list[ev.Action]:
        """A model that must not be trained: the coordinator is told that this client is ready for a later one."""
        if problem is not Refusal.VALUES or header.round not in self._inbox.granted_to(self._coordinator):
            return []
        self._inbox.drop(header.round, self._coordinator)
        self._unwanted = header.round
        news = ev.Note(f"refused the global model of round {header.round}: it is not finite", matters=True)
        return [news, *(self._say_where_it_stands() if self.stage is ClientStage.IDLE else [])]

    def _advance(self) -> list[ev.Action]:
        """Begin to train the model that has come, if there is one and nothing else is to be done."""
        if self.stage is not ClientStage.IDLE or self._model is None or not self._flushed:
            return []
        self.round, payload = self._model
        self._model = None
        start = 0
        for piece in payload.vectors["x"]:
            self._x[start : start + piece.numel()] = piece  # from bfloat16 too
            start += piece.numel()
        if self._tamper is not None:
            self._global = self._x.clone()
        self._enter(ClientStage.TRAINING)
        return [ev.Train(self.round, load=True)]

    def _on_trained(self, event: ev.Trained, now: float) -> list[ev.Action]:
        self._enter(ClientStage.OFFERING)
        self._detector.progress(now)
        update = self._x if self._tamper is None else self._tamper(self.round, self._global, self._x)
        sent = update.to(self._form.encodings["x"].dtype)
        payload = Payload({"x": (sent,)}, {"loss": event.loss, "samples": float(event.samples)})
        waiting = self._outbox.begin(self.round, [(self._coordinator, payload)])
        return [self._say("offer", self.round), *self._deliver(waiting)]

    def _on_acknowledged(self, header: Header) -> list[ev.Action]:
        """The coordinator has this round's update, or does not want it any more."""
        if self.stage is not ClientStage.OFFERING or header.round != self.round:
            return []
        self._outbox.drop(self._coordinator)
        self._enter(ClientStage.RECORDING)
        return [*self._say_where_it_stands(), ev.RoundDone(self.round)]

    def _on_recorded(self, event: ev.Recorded, now: float) -> list[ev.Action]:
        self._enter(ClientStage.IDLE)
        self._detector.progress(now)
        return self._finish() if self._dismissed else self._advance()

    def _on_flushed(self, event: ev.Flushed, now: float) -> list[ev.Action]:
        self._flushed, self._outbox.asked_again = True, False
        return self._advance()

    def _on_reconnected(self, event: ev.Reconnected, now: float) -> list[ev.Action]:
        """Say again whatever the broken connection may have swallowed; the coordinator ignores what it has."""
        again: list[ev.Action] = [self._say("hello", self.context.first_round)]
        again += [self._say("ack", round) for round in self._inbox.taken_from(self._coordinator)]
        return [*again, *self._say_where_it_stands(), *self._deliver(self._outbox.repeat(self._coordinator))]

    def _on_lost(self, event: ev.Lost, now: float) -> list[ev.Action]:
        return [] if self._dismissed else self._fail("lost the connection to the coordinator")

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Action]:
        if now < self.deadline:
            return []
        if self.stage is not ClientStage.GREETING:
            self._detector.retried(now)
            return self._say_where_it_stands()
        seconds = now - self._detector.waiting_since
        return self._fail(f"no greeting for {seconds:.0f} s from the coordinator (--handshake-timeout)")

    def _say_where_it_stands(self) -> list[ev.Action]:
        """Ready for a model, or with an update to offer; nothing while it has a model to train."""
        if self.stage is ClientStage.OFFERING:
            return [self._say("offer", self.round)]
        if self.stage is not ClientStage.TRAINING and self._model is None:
            return [self._say("grant", max(self.round, self._unwanted) + 1)]
        return []

    def _say(self, kind: Literal["hello", "grant", "ack", "offer"], round: int) -> ev.Send:
        return self._session.say(kind, self._coordinator, round)

    def _deliver(self, items: list[tuple[int, Payload]]) -> list[ev.Action]:
        self._flushed = self._flushed and not items
        return self._session.deliver(self.round, self._form.encodings, items)

    def _enter(self, stage: ClientStage) -> None:
        self.stage = CLIENT.check(self.stage, stage)

    def _finish(self) -> list[ev.Action]:
        self._enter(ClientStage.ENDED)
        return [ev.Finish()]

    def _fail(self, reason: str, usage: bool = False) -> list[ev.Action]:
        self._enter(ClientStage.ENDED)
        return [ev.Fail(reason, resumable=not usage, usage=usage)]
