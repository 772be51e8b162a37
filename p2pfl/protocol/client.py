"""State machine of one client; from top to bottom, its part in a round.

A client says when it is ready for a model (`grant`), acknowledges it, trains, offers its update (`offer`), sends it
when the coordinator grants that, and is ready again once the coordinator has acknowledged it, or has said by the same
acknowledgement that it continued without.

Connections break, and a message may get lost on a connection that stands. So a newer model always takes the place of
an older one, every greeting is answered with where the client stands, and a client that has waited for some seconds
says so again: neither side can wait for the other in vain. The coordinator answers that, at least by a heartbeat, so
that a client whose reminders stay unanswered for STALL_FACTOR times the round timeout knows that it has failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from p2pfl.algorithms.attacks import Tamper
from p2pfl.algorithms.base import ONLY_X, Saved
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Encoding, Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.channel import Channel
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.states import CLIENT, ClientStage
from p2pfl.protocol.timeouts import STALL_FACTOR, FailureDetector, retry_after
from p2pfl.protocol.wire import Header, Kind, Message


@dataclass(frozen=True)
class _Form:
    """Content of payloads in both directions: the flat vector."""

    encodings: Mapping[str, Encoding]
    streaming: bool = False
    reads_borrowed: bool = False


class Client:
    """Progress of one client; the driver trains `x`, flat float32 (size,), in place."""

    def __init__(self, context: PeerContext, x: Tensor, wire_dtype: str, tamper: Tamper | None = None) -> None:
        """`tamper`: what an attacker sends instead of its update."""
        (self._coordinator,) = context.links
        self.context = context
        self.round = context.first_round - 1  # the one that it took part in last
        self.stage = ClientStage.NEW
        self.x = x
        self._form = form = _Form(ONLY_X[wire_dtype])
        self._tamper = tamper
        self._global = x  # the global model that is being trained, where an attack needs it later
        self.channel = Channel(context, x.numel(), lambda round: form)
        self.refused = self.channel.refused
        self._unwanted = 0  # the newest round whose model was refused
        self._newest = self.round  # the newest round whose model has begun to come
        self._model: tuple[int, Payload] | None = None  # a whole one, as long as it cannot be trained yet
        self._is_dismissed = False
        self._detector = FailureDetector(context, fixed=context.timeouts.round)
        self._unanswered = 0  # reminders since the coordinator was heard last
        self._heard_at = 0.0

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """React to one event at time `now` (seconds on any steady clock)."""
        if self.stage is ClientStage.ENDED:
            return []
        match event:
            case ev.Received(message) if self.channel.is_stale(message.header):
                return []
            case ev.Received(message):
                return self._on_received(message, now)
            case ev.Refused(code, detail):
                return self.channel.refuse(code, detail)
            case ev.Started():
                return self._on_started(now)
            case ev.Trained():
                return self._on_trained(event, now)
            case ev.Flushed():
                self.channel.on_flushed()
                return self._train_if_ready()
            case ev.Recorded():
                return self._on_recorded(now)
            case ev.Reconnected():
                return self._on_reconnected()
            case ev.Lost():
                return [] if self._is_dismissed else self._fail("lost the connection to the coordinator")
            case ev.Tick():
                return self._on_tick(now)

    # 1. Greet the coordinator

    def _on_started(self, now: float) -> list[ev.Action]:
        self._enter(ClientStage.GREETING)
        self._begin_wait(now)
        return [self._say("hello", self.context.first_round)]

    def _on_hello(self) -> list[ev.Action]:
        """Answer a greeting; it comes again after the coordinator's connection broke."""
        if self.stage is ClientStage.GREETING:
            self._enter(ClientStage.IDLE)
        return [*self._say_where_it_stands(), *self._train_if_ready()]

    # 2. Take the global model, and train it

    def _on_chunk(self, message: Message) -> list[ev.Action]:
        round, inbox = message.header.round, self.channel.inbox
        if round > self.context.last_round:  # else nothing older would be taken again
            raise ProtocolError(Refusal.ROUND, f"a model of round {round}, after the last")
        if round > self._newest:
            # Parts of older rounds are not wanted any longer: a broken connection may have lost the rest.
            for old in inbox.granted_to(self._coordinator):
                inbox.drop(old, self._coordinator)
            inbox.forget_before(self.round)
            inbox.open(round, self._coordinator)
            self._newest = round
        if not inbox.add(message):
            return []
        payload = inbox.take(round, self._coordinator)
        if payload is not None:
            self._model = (round, payload)
        return [self._say("ack", round), *self._train_if_ready()]

    def _on_bad_model(self, header: Header, problem: Refusal) -> list[ev.Action]:
        """Refuse a model that must not be trained: the client is ready for a later one."""
        inbox = self.channel.inbox
        if problem is not Refusal.VALUES or header.round not in inbox.granted_to(self._coordinator):
            return []
        inbox.drop(header.round, self._coordinator)
        self._unwanted = header.round
        news = ev.Note(f"refused the global model of round {header.round}: it is not finite", matters=True)
        return [news, *(self._say_where_it_stands() if self.stage is ClientStage.IDLE else [])]

    def _train_if_ready(self) -> list[ev.Action]:
        """Train the model that has come, if there is one and nothing else to do."""
        if self.stage is not ClientStage.IDLE or self._model is None or not self.channel.flushed:
            return []
        self.round, payload = self._model
        self._model = None
        start = 0
        for piece in payload.vectors["x"]:
            self.x[start : start + piece.numel()] = piece  # from bfloat16 too
            start += piece.numel()
        if self._tamper is not None:
            self._global = self.x.clone()
        self._enter(ClientStage.TRAINING)
        return [ev.Train(self.round, load=True, request=self.context.local_training)]

    # 3. Offer the update, and send it when the coordinator grants that

    def _on_trained(self, event: ev.Trained, now: float) -> list[ev.Action]:
        self._enter(ClientStage.OFFERING)
        self._begin_wait(now)
        update = self.x if self._tamper is None else self._tamper(self.round, self._global, self.x)
        sent = update.to(self._form.encodings["x"].dtype)
        payload = Payload({"x": (sent,)}, {"loss": event.loss, "samples": float(event.samples)})
        waiting = self.channel.outbox.begin(self.round, [(self._coordinator, payload)])
        return [self._say("offer", self.round), *self.channel.deliver(self.round, waiting)]

    def _on_acknowledged(self, header: Header) -> list[ev.Action]:
        """Record the round: the coordinator has its update, or continued without it."""
        if self.stage is not ClientStage.OFFERING or header.round != self.round:
            return []
        self.channel.outbox.drop(self._coordinator)
        self._enter(ClientStage.RECORDING)
        return [*self._say_where_it_stands(), ev.RoundDone(self.round)]

    def _on_recorded(self, now: float) -> list[ev.Action]:
        self._enter(ClientStage.IDLE)
        self._begin_wait(now)
        return self._finish() if self._is_dismissed else self._train_if_ready()

    # Messages

    def _on_received(self, message: Message, now: float) -> list[ev.Action]:
        header = message.header
        try:
            self.channel.check(message)
            actions = self._on_chunk(message) if header.kind == "chunk" else None
        except MismatchError as error:
            refused = self.channel.refuse(error.code, error.detail)
            return self._fail(error.detail, usage=True) if self.stage is ClientStage.GREETING else refused
        except ProtocolError as error:
            refused = self.channel.refuse(error.code, f"{error.detail}, from the coordinator")
            return [*refused, *self._on_bad_model(header, error.code)]
        self._unanswered, self._heard_at = 0, now
        if header.kind == "heartbeat":
            return []
        self._detector.progress(now)
        if actions is not None:
            return actions
        if header.kind == "hello":
            return self._on_hello()
        if header.kind == "goodbye":
            self._is_dismissed = True
            return [] if self.stage is ClientStage.RECORDING else self._finish()
        if header.kind == "grant" and self.stage is ClientStage.OFFERING:
            return self.channel.granted(header)
        return self._on_acknowledged(header) if header.kind == "ack" else []

    def _say_where_it_stands(self) -> list[ev.Action]:
        """Announce that it is ready for a model, or offers its update; else nothing."""
        if self.stage is ClientStage.OFFERING:
            return [self._say("offer", self.round)]
        if self.stage is not ClientStage.TRAINING and self._model is None:
            return [self._say("grant", max(self.round, self._unwanted) + 1)]
        return []

    def _say(self, kind: Kind, round: int) -> ev.Send:
        return self.channel.message(kind, self._coordinator, round)

    # Failures

    def _on_reconnected(self) -> list[ev.Action]:
        """Repeat the messages that the broken connection may have lost."""
        outbox = self.channel.outbox
        again: list[ev.Action] = [self._say("hello", self.context.first_round)]
        again += [self._say("ack", round) for round in self.channel.inbox.taken_from(self._coordinator)]
        repeated = self.channel.deliver(self.round, outbox.repeat(self._coordinator))
        return [*again, *self._say_where_it_stands(), *repeated]

    def _on_tick(self, now: float) -> list[ev.Action]:
        if now < self.deadline:
            return []
        if self.stage is ClientStage.GREETING:
            seconds = now - self._detector.waiting_since
            return self._fail(f"no greeting for {seconds:.0f} s from the coordinator (--handshake-timeout)")
        if self._unanswered >= self._reminders:
            seconds = now - self._heard_at
            return self._fail(f"no message for {seconds:.0f} s from the coordinator (--round-timeout)")
        self._unanswered += 1
        self._detector.retried(now)
        return self._say_where_it_stands()

    @property
    def _reminders(self) -> int:
        """Reminders without an answer after which the coordinator counts as failed.

        They are counted, not timed, so that a client that was stopped itself gives the coordinator time to answer.
        """
        timeout = self.context.timeouts.round
        return math.ceil(STALL_FACTOR * timeout / retry_after(timeout))

    def _begin_wait(self, now: float) -> None:
        self._detector.begin_wait(now)
        self._unanswered, self._heard_at = 0, now

    def _finish(self) -> list[ev.Action]:
        self._enter(ClientStage.ENDED)
        return [ev.Finish()]

    def _fail(self, reason: str, usage: bool = False) -> list[ev.Action]:
        self._enter(ClientStage.ENDED)
        return [ev.Fail(reason, resumable=not usage, usage=usage)]

    def _enter(self, stage: ClientStage) -> None:
        self.stage = CLIENT.check(self.stage, stage)

    # For the driver

    @property
    def facts(self) -> Mapping[str, Any]:
        """Nothing: the driver knows all that a client's record says."""
        return {}

    @property
    def payloads(self) -> Mapping[int, Payload]:
        """Nothing: a round that was interrupted begins again with the global model."""
        return {}

    @property
    def algorithm_state(self) -> Saved:
        """Nothing: a client's update depends on the global model and its training alone."""
        return {}

    @property
    def wants_flush(self) -> bool:
        """Whether the last update must be flushed: to continue, or to send it again."""
        trains = self.stage is ClientStage.IDLE and self._model is not None
        asked_again = self.stage is ClientStage.OFFERING and self.channel.outbox.asked_again
        return not self.channel.flushed and (trains or asked_again)

    @property
    def deadline(self) -> float:
        """When the greeting ends, and then when the coordinator is reminded."""
        if self.stage is ClientStage.GREETING:
            return self._detector.waiting_since + self._detector.timeout("greeting", self.round)
        is_idle = self.stage is ClientStage.IDLE and self._model is None
        if not is_idle and self.stage is not ClientStage.OFFERING:
            return math.inf
        return self._detector.retry_due("round", self.round)
