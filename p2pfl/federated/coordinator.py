"""The state machine of the coordinator of federated learning.

Each round it draws clients, sends them the global model, and asks for their updates in client order, at most four at
a time, so that its memory does not grow with their number and sums have one order. A client that has not offered its
update before the deadline, or whose connection is lost, does not hold up the round: the record names it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from p2pfl.errors import ProtocolError
from p2pfl.exchange import PATIENCE, WINDOW, Inbox, Session, remind_after
from p2pfl.exchange import events as ev
from p2pfl.federated.average import ServerAverage
from p2pfl.federated.selection import Federation, select_clients
from p2pfl.gossip import Payload
from p2pfl.wire import Header, Message

MAX_LOSS = 1e100  # that a client may claim: means of more would overflow
MAX_SAMPLES = 2.0**40  # that a client may say it has trained on in a round: a record holds 64-bit numbers

Stage = Literal["new", "greeting", "working", "recording", "ended"]
# Where a selected client is in a round: not ready for a model, sent one, has it, offers its update, may send it, and
# then its update is folded or it is given up.
Progress = Literal["waiting", "sent", "training", "offering", "granted", "folded", "missing"]


class Coordinator:
    """The coordinator's progress. The global model is the `x` of its `server`."""

    def __init__(self, plan: ev.Plan, federation: Federation, server: ServerAverage) -> None:
        self.plan = plan
        self.round = plan.first_round
        self.stage: Stage = "new"
        self._federation = federation
        self._server = server
        self._session = Session(plan)
        self._inbox = Inbox(self._selected_in, server.x.numel(), lambda round: server, plan.last_round)
        self._greeted: set[int] = set()
        self._ready: set[int] = set()  # clients that have asked for a model and got none
        self._gone: set[int] = set()
        self._progress: dict[int, Progress] = {}  # of this round's clients, in client order
        self._heard: dict[int, float] = {}  # when a client was last sent a model or leave, or sent some of its update
        self._pause: dict[int, float] = {}  # seconds after which that may be lost; more each time, for slow links
        self._model = Payload({})
        self._losses: dict[int, float] = {}
        self._samples = federation.samples_before
        self._since = self._moved = 0.0
        self._slowest = 0.0
        self._handlers: dict[type, Callable[[Any, float], list[ev.Action]]] = {
            ev.Started: self._on_started,
            ev.Received: self._on_received,
            ev.Refused: lambda event, now: self._session.refuse(event.reason),
            ev.Flushed: lambda event, now: [],
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
    def wants_flush(self) -> bool:
        """Never: what it sends is a snapshot, so a client that stopped reading holds up nothing."""
        return False

    @property
    def payloads(self) -> Mapping[int, Payload]:
        """Nothing: a round that was interrupted begins again."""
        return {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the updates said, who was selected and who is missing."""
        folded = self._in("folded")
        weights = [self._federation.sizes[client] for client in folded]
        losses = [self._losses[client] for client in folded]
        return {
            "train_loss": math.fsum(w * loss for w, loss in zip(weights, losses, strict=True)) / math.fsum(weights),
            "samples": self._samples,
            "selected": [self.plan.names[client] for client in self._progress],
            "missing": [self.plan.names[client] for client in self._in("missing")],
        }

    @property
    def deadline(self) -> float:
        """When its patience ends: with the greeting, then with training, then with updates that were granted."""
        if self.stage == "greeting":
            return self._since + self.plan.timeouts.handshake
        if self.stage != "working":
            return math.inf
        training = self._in("waiting", "sent", "training")
        return (self._since if training else self._moved) + self._patience

    @property
    def _patience(self) -> float:
        if self._federation.deadline is not None:
            return self._federation.deadline
        limits = self.plan.timeouts
        least = limits.first_round if self.round == self.plan.first_round else limits.round
        return max(least, PATIENCE * self._slowest)

    def _selected_in(self, round: int) -> tuple[int, ...]:
        return select_clients(self._federation, round)

    def _in(self, *progress: Progress) -> list[int]:
        return [client for client, where in self._progress.items() if where in progress]

    # Greeting

    def _on_started(self, event: ev.Started, now: float) -> list[ev.Action]:
        self.stage, self._since = "greeting", now
        return [self._session.say("hello", client, self.round) for client in sorted(self.plan.links)]

    def _on_hello(self, header: Header, now: float) -> list[ev.Action]:
        self._greeted.add(header.sender)
        self._gone.discard(header.sender)
        if self.stage == "working" and header.round > self.round and self._is_owed(header.sender):
            return self._give_up([header.sender], now)  # it has started anew, to be back in a later round
        return self._begin_if_all_are_known(now)

    # Rounds

    def _begin_round(self, now: float) -> list[ev.Action]:
        self.stage, self._since, self._moved = "working", now, now
        self._inbox.forget_before(self.round - 1)
        self._losses.clear()
        self._model = self._server.outgoing()
        self._progress = dict.fromkeys(self._selected_in(self.round), "waiting")
        self._pause = dict.fromkeys(self._progress, remind_after(self.plan.timeouts.round) / 2)
        gone = (self._gone - self._federation.back(self.round)) | self._federation.away(self.round)
        for client in gone & self._progress.keys():
            self._progress[client] = "missing"
        actions: list[ev.Action] = []
        for client in self._in("waiting"):
            if client in self._ready:
                actions += self._send_model(client, now)
        return actions + self._advance(now)

    def _send_model(self, client: int, now: float) -> list[ev.Action]:
        self._ready.discard(client)
        self._progress[client], self._heard[client] = "sent", now
        return self._session.deliver(self.round, self._server.codec, [(client, self._model)])

    def _advance(self, now: float) -> list[ev.Action]:
        """Everything that can be done now: fold, ask for updates, finish."""
        if self.stage != "working":
            return []
        actions = self._fold_and_ask(now)
        if self._in("waiting", "sent", "training", "offering", "granted"):
            return actions
        missing, came = self._in("missing"), len(self._in("folded"))
        if came < self._federation.min_updates:
            names = self.plan.name(missing) if missing else ""
            return actions + self._fail(
                f"round {self.round}: {came} of {len(self._progress)} updates came, and --min-updates asks for "
                f"{self._federation.min_updates}; missing: {names}"
            )
        self._slowest = max(self._slowest, now - self._since) if not missing else self._slowest
        self._server.finish(complete=not missing)
        self.stage = "recording"
        return [*actions, ev.RoundDone(self.round)]

    def _fold_and_ask(self, now: float) -> list[ev.Action]:
        """In client order: fold what has come, and let those next in turn send that have something to send."""
        actions: list[ev.Action] = []
        first = True  # nobody before this client is still owed
        window = WINDOW
        for client, where in self._progress.items():
            if where in ("folded", "missing"):
                continue
            if first and where == "granted" and (update := self._inbox.take(self.round, client)) is not None:
                self._fold(client, update)
                continue
            first = False
            window -= 1
            if where == "offering":
                self._progress[client] = "granted"
                self._inbox.open(self.round, client)
                actions.append(self._say_grant(client, now))
            if window == 0:
                break
        return actions

    def _say_grant(self, client: int, now: float) -> ev.Action:
        self._heard[client] = now
        return self._session.say("grant", client, self.round)

    def _fold(self, client: int, update: Payload) -> None:
        total = math.fsum(self._federation.sizes[k] for k in self._progress)
        self._server.fold(update, self._federation.sizes[client] / total)
        self._losses[client] = min(max(update.scalars.get("loss", 0.0), -MAX_LOSS), MAX_LOSS)
        self._samples += int(min(max(update.scalars.get("samples", 0.0), 0.0), MAX_SAMPLES))
        self._progress[client] = "folded"

    def _on_recorded(self, event: ev.Recorded, now: float) -> list[ev.Action]:
        assert self.stage == "recording"
        if self.round < self.plan.last_round:
            self.round += 1
            return self._begin_round(now)
        self.stage = "ended"
        return [*(self._session.say("goodbye", client, self.round) for client in sorted(self.plan.links)), ev.Finish()]

    # Messages

    def _on_received(self, event: ev.Received, now: float) -> list[ev.Action]:
        header = event.message.header
        try:
            self._session.check(header)
            if header.kind == "chunk":
                return self._on_chunk(event.message, now)
        except ProtocolError as error:
            refused = self._session.refuse(f"{error}, from {header.sender}")
            return [*refused, *self._on_bad_update(header, str(error), now)]
        if header.kind == "hello":
            return self._on_hello(header, now)
        if header.kind == "grant":
            return self._on_ready(header, now)
        if header.kind == "offer":
            return self._on_offer(header, now)
        if header.kind == "ack" and header.round == self.round and self._progress.get(header.sender) == "sent":
            self._progress[header.sender] = "training"
        return []

    def _on_ready(self, header: Header, now: float) -> list[ev.Action]:
        client = header.sender
        where = self._progress.get(client)
        if self.stage == "working" and where == "waiting":
            return self._send_model(client, now)
        if self.stage == "working" and where == "training":
            return self._send_model(client, now)  # it has started anew, without the model; one that has it ignores this
        if where != "sent":  # there it has said so before, over a connection that broke, or the model got lost
            self._ready.add(client)
        elif header.round > self.round:  # it has refused this round's model, and is ready for another
            self._ready.add(client)
            return self._give_up([client], now, "the model did not arrive as it was sent")
        elif self.stage == "working" and self._may_be_lost(client, now):
            return self._send_model(client, now)
        return []

    def _may_be_lost(self, client: int, now: float) -> bool:
        """Whether what a client was sent, or has sent itself, is under way for so long that it is worth repeating."""
        if now < self._heard[client] + self._pause[client]:
            return False
        self._pause[client] *= 1.5
        return True

    def _on_offer(self, header: Header, now: float) -> list[ev.Action]:
        where = self._progress.get(header.sender)
        if header.round == self.round and where in ("sent", "training"):
            self._progress[header.sender] = "offering"
            self._moved = now
            return self._advance(now)
        if header.round == self.round and where in ("offering", "granted"):
            if self._inbox.is_whole(self.round, header.sender):
                return [self._session.say("ack", header.sender, self.round)]
            # Said again after a broken connection, or since the leave, or some of the update, got lost.
            lost = where == "granted" and self._may_be_lost(header.sender, now)
            return [self._say_grant(header.sender, now)] if lost else []
        # Too late, or folded already: by this acknowledgement the client is free for another round.
        return [self._session.say("ack", header.sender, header.round)]

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        header = message.header
        if header.round < self.round and not self._inbox.has(header.round, header.sender):
            self._inbox.drop(header.round, header.sender)  # of a round that went on without it
        complete = self._inbox.add(message)
        if self._progress.get(header.sender) == "granted" and header.round == self.round:
            self._moved = self._heard[header.sender] = now
        if not complete:
            return []
        return [self._session.say("ack", header.sender, header.round), *self._advance(now)]

    def _on_bad_update(self, header: Header, problem: str, now: float) -> list[ev.Action]:
        """An update that must not be averaged is done without at once; its client is free for another round."""
        granted = self._progress.get(header.sender) == "granted" and header.round == self.round
        if not (granted and problem.startswith("values") and self.stage == "working"):
            return []
        freed = self._session.say("ack", header.sender, header.round)
        return [freed, *self._give_up([header.sender], now, "its update is not finite")]

    # Trouble

    def _give_up(self, clients: Sequence[int], now: float, why: str = "") -> list[ev.Action]:
        """Go on in this round without some of its clients; a reason is news for whoever watches the run."""
        for client in clients:
            self._progress[client] = "missing"
            self._inbox.drop(self.round, client)
        names = self.plan.name(set(clients))
        self._moved = now
        news = ev.Note(f"round {self.round} goes on without {names}" + (f": {why}" if why else ""), matters=bool(why))
        return [news, *self._advance(now)] if clients else []

    def _on_lost(self, event: ev.Lost, now: float) -> list[ev.Action]:
        self._gone.add(event.neighbor)
        if self.stage == "greeting":
            return self._begin_if_all_are_known(now)
        owed = self.stage == "working" and self._is_owed(event.neighbor)
        return self._give_up([event.neighbor], now) if owed else []

    def _is_owed(self, client: int) -> bool:
        """Whether this round waits for a client, whose update is not here."""
        waits = self._progress.get(client) in ("waiting", "sent", "training", "offering", "granted")
        return waits and client in self._inbox.missing(self.round)

    def _on_reconnected(self, event: ev.Reconnected, now: float) -> list[ev.Action]:
        """Say again whatever the broken connection may have swallowed; clients ignore what they have."""
        client = event.neighbor
        again: list[ev.Action] = [self._session.say("hello", client, self.plan.first_round)]
        again += [self._session.say("ack", client, round) for round in self._inbox.taken_from(client)]
        where = self._progress.get(client)
        if self.stage == "working" and where == "sent":
            again += self._session.deliver(self.round, self._server.codec, [(client, self._model)])
        elif self.stage == "working" and where == "granted":
            again.append(self._say_grant(client, now))
        self._gone.discard(client)
        return again

    def _on_tick(self, event: ev.Tick, now: float) -> list[ev.Action]:
        if now < self.deadline:
            return []
        if self.stage == "greeting":
            return self._begin_without(self.plan.links - self._greeted, now)
        silent = self._inbox.missing(self.round)
        stuck = [client for client in self._in("granted") if client in silent]
        return self._give_up(self._in("waiting", "sent", "training") or stuck, now)

    def _begin_if_all_are_known(self, now: float) -> list[ev.Action]:
        """Every client has greeted or is lost."""
        known = self._greeted | self._gone >= self.plan.links
        return self._begin_without(frozenset(), now) if known and self.stage == "greeting" else []

    def _begin_without(self, silent: frozenset[int], now: float) -> list[ev.Action]:
        """Begin without the clients that have not greeted or are lost, unless too few are left."""
        self._gone |= silent
        names = self.plan.name(self._gone)
        if len(self.plan.links - self._gone) < self._federation.min_updates:
            least = self._federation.min_updates
            return self._fail(f"no greeting from {names} (--handshake-timeout), and --min-updates asks for {least}")
        return [*([ev.Note(f"begins without {names}")] if names else []), *self._begin_round(now)]

    def _fail(self, reason: str) -> list[ev.Action]:
        self.stage = "ended"
        return [ev.Fail(reason)]
