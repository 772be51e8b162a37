"""Exchange of a coordinator with a round's clients: model out, updates in.

At most WINDOW updates are outstanding, so that memory does not grow with the number of clients and sums have one order.
It owns the question which client is still expected to send something in this round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p2pfl import seeding
from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.errors import Refusal
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.channel import Channel
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.inbox import WINDOW
from p2pfl.protocol.states import PROGRESS, Progress
from p2pfl.protocol.wire import Header, Message

MAX_LOSS = 1e100  # that a client may claim: means of more would overflow
MAX_SAMPLES = 2.0**40  # that a client may say it has trained on in a round: a record holds 64-bit numbers
EXPECTED = (Progress.WAITING, Progress.SENT, Progress.TRAINING, Progress.OFFERING, Progress.GRANTED)


@dataclass(frozen=True)
class Federation:
    """Settings of the coordinator.

    `weights` (clients,): of the clients' updates, not normalized.
    """

    weights: Sequence[float]
    selected: int
    seed: int
    min_updates: int
    deadline: float | None = None  # seconds; None: as long as clients have been seen to take, times TIMEOUT_FACTOR
    samples_before: int = 0  # of the run that this one resumes
    away: Callable[[int], frozenset[int]] = lambda round: frozenset()  # clients known to be away in a round
    back: Callable[[int], frozenset[int]] = lambda round: frozenset()  # those known to be back in it

    @property
    def clients(self) -> int:
        """Number of clients, selected or not."""
        return len(self.weights)


def select_clients(federation: Federation, round: int) -> tuple[int, ...]:
    """Draw a round's clients without replacement, ascending, always the same."""
    rng = seeding.numpy_generator(federation.seed, "selection", round=round)
    drawn = rng.choice(federation.clients, federation.selected, replace=False)
    return tuple(sorted(int(client) for client in drawn))


class ServerExchange:
    """One round at a time: its clients' progress, and updates folded in their order."""

    def __init__(self, context: PeerContext, federation: Federation, server: ServerAverage) -> None:
        self.round = context.first_round
        self.channel = Channel(context, server.x.numel(), lambda round: server)
        self.progress: dict[int, Progress] = {}  # of this round's clients, in client order
        self.asked_again = False  # for a model that is still under way, as far as is known here
        self._context = context
        self._federation = federation
        self._server = server
        self._ready: set[int] = set()  # clients that have asked for a model and got none
        self._model = Payload({})
        self._losses: dict[int, float] = {}
        self._samples = federation.samples_before

    def clients(self, *progress: Progress) -> list[int]:
        """This round's clients that have come so far."""
        return [client for client, where in self.progress.items() if where in progress]

    def is_expected(self, client: int) -> bool:
        """Whether this round waits for a client, whose update is not here."""
        inbox, expects = self.channel.inbox, self.progress.get(client) in EXPECTED
        return expects and bool(inbox.missing(self.round, [client]))

    def stalled(self) -> list[int]:
        """Clients that hold up the round: without an update, or with an incomplete one."""
        early = self.clients(Progress.WAITING, Progress.SENT, Progress.TRAINING)
        return early or sorted(self.channel.inbox.missing(self.round, self.clients(Progress.GRANTED)))

    @property
    def facts(self) -> Mapping[str, Any]:
        """Fields of the round's record: loss, samples, selected and missing clients."""
        folded, names = self.clients(Progress.FOLDED), self._context.names
        weights = [self._federation.weights[client] for client in folded]
        losses = [self._losses[client] for client in folded]
        return {
            "train_loss": math.fsum(w * loss for w, loss in zip(weights, losses, strict=True)) / math.fsum(weights),
            "samples": self._samples,
            "selected": [names[client] for client in self.progress],
            "missing": [names[client] for client in self.clients(Progress.MISSING)],
        }

    # A round

    def begin_round(self, round: int, gone: set[int]) -> list[ev.Action]:
        """Select clients, and send the model to the ready; the `gone` are missing."""
        self.round = round
        self.channel.inbox.forget_before(round - 1)
        self._losses.clear()
        self._model = self._server.outgoing()
        self.progress = dict.fromkeys(select_clients(self._federation, round), Progress.WAITING)
        gone = (gone - self._federation.back(round)) | self._federation.away(round)
        for client in gone & self.progress.keys():
            self._move(client, Progress.MISSING)
        actions: list[ev.Action] = []
        for client in self.clients(Progress.WAITING):
            if client in self._ready:
                actions += self.send_model(client)
        return actions

    def send_model(self, client: int) -> list[ev.Action]:
        """Send the global model to a client that has asked for it."""
        self._ready.discard(client)
        self._move(client, Progress.SENT)
        return self.channel.deliver(self.round, [(client, self._model)])

    def fold_and_grant(self) -> list[ev.Action]:
        """In client order, fold what has come, and grant credit to those next."""
        actions: list[ev.Action] = []
        is_first = True  # no client before this one is still expected
        window = WINDOW
        for client, where in self.progress.items():
            if where in (Progress.FOLDED, Progress.MISSING):
                continue
            if is_first and where is Progress.GRANTED:
                update = self.channel.inbox.take(self.round, client)
                if update is not None:
                    self._fold(client, update)
                    continue
            is_first = False
            window -= 1
            if where is Progress.OFFERING:
                self._move(client, Progress.GRANTED)
                self.channel.inbox.open(self.round, client)
                actions.append(self.channel.message("grant", client, self.round))
            if window == 0:
                break
        return actions

    def _fold(self, client: int, update: Payload) -> None:
        total = math.fsum(self._federation.weights[k] for k in self.progress)
        self._server.accumulate(update, self._federation.weights[client] / total)
        self._losses[client] = min(max(update.scalars.get("loss", 0.0), -MAX_LOSS), MAX_LOSS)
        self._samples += int(min(max(update.scalars.get("samples", 0.0), 0.0), MAX_SAMPLES))
        self._move(client, Progress.FOLDED)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is expected in this round."""
        return not self.clients(*EXPECTED)

    def shortage(self) -> str | None:
        """Why too few updates came to finish the round; None where there are enough."""
        came, least = len(self.clients(Progress.FOLDED)), self._federation.min_updates
        if came >= least:
            return None
        names = self._context.name(self.clients(Progress.MISSING))
        return (
            f"round {self.round}: {came} of {len(self.progress)} updates came, and --min-updates asks for {least}; "
            f"missing: {names}"
        )

    def finish(self) -> bool:
        """Make the updates the global model; whether all came."""
        all_came = not self.clients(Progress.MISSING)
        self._server.finish(complete=all_came)
        return all_came

    def give_up(self, clients: Sequence[int]) -> None:
        """Continue in this round without some of its clients."""
        for client in clients:
            self._move(client, Progress.MISSING)
            self.channel.inbox.drop(self.round, client)

    # Messages

    def ready(self, header: Header, is_working: bool) -> tuple[list[ev.Action], bool]:
        """Answer a client that asks for a model; whether it has refused this round's."""
        client, where = header.sender, self.progress.get(header.sender)
        if is_working and where in (Progress.WAITING, Progress.TRAINING):
            # One in training has restarted without the model; one that has it ignores this.
            return self.send_model(client), False
        if where is not Progress.SENT:  # else it has said so before a connection broke, or the model got lost
            return self._heartbeat_if_repeated(client), False
        if header.round > self.round:  # it has refused this round's model, and is ready for another
            self._ready.add(client)
            return [], True
        if is_working and self.channel.flushed:
            return self.send_model(client), False
        self.asked_again = True  # on a slow link copies of the same would pile up
        return [self.channel.message("heartbeat", client, self.round)], False

    def _heartbeat_if_repeated(self, client: int) -> list[ev.Action]:
        """Note that a client is ready; answer by a heartbeat if it asks again."""
        was_ready = client in self._ready
        self._ready.add(client)
        return [self.channel.message("heartbeat", client, self.round)] if was_ready else []

    def acknowledged(self, header: Header) -> None:
        """A client has the model."""
        if header.round == self.round and self.progress.get(header.sender) is Progress.SENT:
            self._move(header.sender, Progress.TRAINING)

    def offered(self, header: Header) -> tuple[list[ev.Action], bool]:
        """A client offers its update; whether that is news."""
        client, where = header.sender, self.progress.get(header.sender)
        if header.round == self.round and where in (Progress.SENT, Progress.TRAINING):
            self._move(client, Progress.OFFERING)
            return [], True
        if header.round == self.round and where in (Progress.OFFERING, Progress.GRANTED):
            if self.channel.inbox.is_whole(self.round, client):
                return [self.channel.message("ack", client, self.round)], False
            # Said again after a broken connection, or since the grant, or some of the update, got lost.
            return [
                self.channel.message("grant" if where is Progress.GRANTED else "heartbeat", client, self.round)
            ], False
        # Too late, or folded already: by this acknowledgement the client is free for another round.
        return [self.channel.message("ack", client, header.round)], False

    def chunk(self, message: Message) -> tuple[list[ev.Action], bool]:
        """Take a chunk of an update; whether that is whole now. Raises ProtocolError."""
        header, inbox = message.header, self.channel.inbox
        if header.round < self.round and not inbox.has(header.round, header.sender):
            inbox.drop(header.round, header.sender)  # of a round that continued without it
        is_whole = inbox.add(message)
        return ([self.channel.message("ack", header.sender, header.round)] if is_whole else []), is_whole

    def is_awaited(self, header: Header) -> bool:
        """Whether a chunk belongs to an update that this round has asked for."""
        return self.progress.get(header.sender) is Progress.GRANTED and header.round == self.round

    def rejects_update(self, header: Header, problem: Refusal) -> bool:
        """Whether a refused chunk means that an update must not be averaged."""
        return self.is_awaited(header) and problem is Refusal.VALUES

    def reconnected(self, client: int, is_working: bool) -> list[ev.Action]:
        """Repeat the messages that the broken connection may have lost."""
        again: list[ev.Action] = [self.channel.message("hello", client, self._context.first_round)]
        again += [self.channel.message("ack", client, round) for round in self.channel.inbox.taken_from(client)]
        where = self.progress.get(client) if is_working else None
        if where is Progress.SENT:
            again += self.send_model(client)
        elif where is Progress.GRANTED:
            again.append(self.channel.message("grant", client, self.round))
        return again

    def _move(self, client: int, progress: Progress) -> None:
        self.progress[client] = PROGRESS.check(self.progress[client], progress)
