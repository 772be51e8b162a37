"""State machine of the coordinator; from top to bottom, a federated round.

Each round it draws clients, sends them the global model, and asks for their updates in client order, as
`server_exchange` has it. A client that has not offered its update before the deadline, or whose connection is lost,
does not hold up the round: the record names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from p2pfl.algorithms.base import Saved
from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.server_exchange import Federation, ServerExchange
from p2pfl.protocol.states import PEER, Progress, Stage
from p2pfl.protocol.timeouts import FailureDetector
from p2pfl.protocol.wire import Header, Message


class Coordinator:
    """The coordinator's progress. The global model is the `x` of its `server`."""

    def __init__(self, context: PeerContext, federation: Federation, server: ServerAverage) -> None:
        self.context = context
        self.stage = Stage.NEW
        self._exchange = ServerExchange(context, federation, server)
        self.channel = self._exchange.channel
        self.refused = self.channel.refused
        self._federation = federation
        self._detector = FailureDetector(context, federation.deadline)
        self._greeted: set[int] = set()
        self._gone: set[int] = set()

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """React to one event at time `now` (seconds on any steady clock)."""
        if self.stage is Stage.ENDED:
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
            case ev.Flushed():
                self.channel.on_flushed()
                self._exchange.asked_again = False  # a client that still misses its model asks once more
                return []
            case ev.Recorded():
                return self._on_recorded(now)
            case ev.Reconnected(client):
                self._gone.discard(client)
                return self._exchange.reconnected(client, self.stage is Stage.WORKING)
            case ev.Lost(client):
                return self._on_lost(client, now)
            case ev.Tick():
                return self._on_tick(now)
            case ev.Trained():
                raise RuntimeError("a coordinator does not train")

    # 1. Greet the clients

    def _on_started(self, now: float) -> list[ev.Action]:
        self._enter(Stage.GREETING)
        self._detector.begin_wait(now)
        return [self.channel.message("hello", client, self.round) for client in sorted(self.context.links)]

    def _on_hello(self, header: Header, now: float) -> list[ev.Action]:
        self._greeted.add(header.sender)
        self._gone.discard(header.sender)
        if self.stage is Stage.WORKING and header.round > self.round and self._exchange.is_expected(header.sender):
            return self._give_up([header.sender], now)  # it has restarted, to be back in a later round
        return self._begin_if_all_are_known(now)

    def _begin_if_all_are_known(self, now: float) -> list[ev.Action]:
        """Begin once every client has greeted or is lost."""
        are_known = self._greeted | self._gone >= self.context.links
        return self._begin_without(frozenset(), now) if are_known and self.stage is Stage.GREETING else []

    def _begin_without(self, silent: frozenset[int], now: float) -> list[ev.Action]:
        """Begin without silent and lost clients, unless too few are left."""
        self._gone |= silent
        names, least = self.context.name(self._gone), self._federation.min_updates
        if len(self.context.links - self._gone) < least:
            return self._fail(f"no greeting from {names} (--handshake-timeout), and --min-updates asks for {least}")
        return [*([ev.Note(f"begins without {names}")] if names else []), *self._begin_round(self.round, now)]

    # 2. Send the global model to the clients of a round

    def _begin_round(self, round: int, now: float) -> list[ev.Action]:
        self._enter(Stage.WORKING)
        self._detector.begin_round(now)
        return [*self._exchange.begin_round(round, self._gone), *self._advance(now)]

    # 3. Fold their updates, and 4. make them the global model

    def _advance(self, now: float) -> list[ev.Action]:
        """Do what can be done now: fold, ask for updates, finish the round."""
        if self.stage is not Stage.WORKING:
            return []
        actions = self._exchange.fold_and_grant()
        if not self._exchange.is_complete:
            return actions
        if (shortage := self._exchange.shortage()) is not None:
            return actions + self._fail(shortage)
        if self._exchange.finish():
            self._detector.end_round(now)
        self._enter(Stage.RECORDING)
        return [*actions, ev.RoundDone(self.round)]

    # 5. Record, and go to the next round

    def _on_recorded(self, now: float) -> list[ev.Action]:
        assert self.stage is Stage.RECORDING
        if self.round < self.context.last_round:
            return self._begin_round(self.round + 1, now)
        self._enter(Stage.ENDED)
        links = sorted(self.context.links)
        return [*(self.channel.message("goodbye", client, self.round) for client in links), ev.Finish()]

    # Messages

    def _on_received(self, message: Message, now: float) -> list[ev.Action]:
        header, exchange = message.header, self._exchange
        try:
            self.channel.check(message)
            if header.kind == "chunk":
                return self._on_chunk(message, now)
        except MismatchError as error:  # one client must not end the run of all: it is missing, which is said
            refused = self.channel.refuse(error.code, error.detail)
            self._gone |= {header.sender} if self.stage is Stage.GREETING else set()
            return [*refused, *self._begin_if_all_are_known(now)]
        except ProtocolError as error:
            refused = self.channel.refuse(error.code, f"{error.detail}, from {header.sender}")
            return [*refused, *self._on_bad_update(header, error.code, now)]
        is_working = self.stage is Stage.WORKING
        if header.kind == "hello":
            return self._on_hello(header, now)
        if header.kind == "ack":
            exchange.acknowledged(header)
        elif header.kind == "grant":
            actions, is_refused = exchange.ready(header, is_working)
            why = "the model did not arrive as it was sent"
            return self._give_up([header.sender], now, why) if is_refused else actions
        elif header.kind == "offer":
            actions, is_news = exchange.offered(header)
            if is_news:
                self._detector.progress(now)
            return actions + self._advance(now) if is_news else actions
        return []

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        actions, is_whole = self._exchange.chunk(message)
        if self._exchange.is_awaited(message.header):
            self._detector.progress(now)
        return actions + self._advance(now) if is_whole else actions

    def _on_bad_update(self, header: Header, problem: Refusal, now: float) -> list[ev.Action]:
        """Continue without an update that is not finite, and free its client."""
        if self.stage is not Stage.WORKING or not self._exchange.rejects_update(header, problem):
            return []
        freed = self.channel.message("ack", header.sender, header.round)
        return [freed, *self._give_up([header.sender], now, "its update is not finite")]

    # Failures

    def _on_lost(self, client: int, now: float) -> list[ev.Action]:
        self._gone.add(client)
        if self.stage is Stage.GREETING:
            return self._begin_if_all_are_known(now)
        expected = self.stage is Stage.WORKING and self._exchange.is_expected(client)
        return self._give_up([client], now) if expected else []

    def _on_tick(self, now: float) -> list[ev.Action]:
        if now < self.deadline:
            return []
        if self.stage is Stage.GREETING:
            return self._begin_without(self.context.links - self._greeted, now)
        return self._give_up(self._exchange.stalled(), now)

    def _give_up(self, clients: Sequence[int], now: float, why: str = "") -> list[ev.Action]:
        """Continue this round without some clients; a reason is news for the user."""
        self._exchange.give_up(clients)
        self._detector.progress(now)
        names = self.context.name(set(clients))
        text = f"round {self.round} continues without {names}" + (f": {why}" if why else "")
        return [ev.Note(text, matters=bool(why)), *self._advance(now)] if clients else []

    def _fail(self, reason: str) -> list[ev.Action]:
        self._enter(Stage.ENDED)
        return [ev.Fail(reason)]

    def _enter(self, stage: Stage) -> None:
        self.stage = PEER.check(self.stage, stage)

    # For the driver

    @property
    def round(self) -> int:
        """The round that it is in."""
        return self._exchange.round

    @property
    def progress(self) -> Mapping[int, Progress]:
        """Progress of this round's clients, in client order."""
        return self._exchange.progress

    @property
    def facts(self) -> Mapping[str, Any]:
        """Fields of the round's record: loss, samples, selected and missing clients."""
        return self._exchange.facts

    @property
    def payloads(self) -> Mapping[int, Payload]:
        """Nothing: a round that was interrupted begins again."""
        return {}

    @property
    def algorithm_state(self) -> Saved:
        """Nothing: the server's momentum is saved as the momentum of its checkpoint."""
        return {}

    @property
    def wants_flush(self) -> bool:
        """Whether a model is to be sent again; it is a snapshot and holds up nothing."""
        return not self.channel.flushed and self._exchange.asked_again

    @property
    def deadline(self) -> float:
        """When its timeout ends: greeting, then training, then granted updates."""
        if self.stage is Stage.GREETING:
            return self._detector.waiting_since + self._detector.timeout("greeting", self.round)
        if self.stage is not Stage.WORKING:
            return math.inf
        is_training = self._exchange.clients(Progress.WAITING, Progress.SENT, Progress.TRAINING)
        since = self._detector.waiting_since if is_training else self._detector.progress_at
        return since + self._detector.timeout("round", self.round)
