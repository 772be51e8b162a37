"""What a coordinator does in its rounds: send the global model, let clients send their updates in turn, fold them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.inbox import WINDOW, Inbox
from p2pfl.protocol.selection import Federation, select_clients
from p2pfl.protocol.session import Session
from p2pfl.protocol.states import PEER, PROGRESS, Progress, Stage
from p2pfl.protocol.timeouts import FailureDetector

MAX_LOSS = 1e100  # that a client may claim: means of more would overflow
OWED = (Progress.WAITING, Progress.SENT, Progress.TRAINING, Progress.OFFERING, Progress.GRANTED)
MAX_SAMPLES = 2.0**40  # that a client may say it has trained on in a round: a record holds 64-bit numbers


class Rounds:
    """A coordinator's state, and how it gets through rounds. What happens to it from outside is `Coordinator`'s."""

    def __init__(self, context: PeerContext, federation: Federation, server: ServerAverage) -> None:
        self.context = context
        self.round = context.first_round
        self.stage = Stage.NEW
        self._federation = federation
        self._server = server
        self._session = Session(context)
        self._inbox = Inbox(server.x.numel(), lambda round: server, context.last_round)
        self._greeted: set[int] = set()
        self._ready: set[int] = set()  # clients that have asked for a model and got none
        self._gone: set[int] = set()
        self.progress: dict[int, Progress] = {}  # of this round's clients, in client order
        self._flushed = True
        self._asked_again = False  # for a model that is still under way, as far as anybody knows here
        self._model = Payload({})
        self._losses: dict[int, float] = {}
        self._samples = federation.samples_before
        self._detector = FailureDetector(context, federation.deadline)

    @property
    def outstanding(self) -> int:
        """How many updates have credit and are not folded."""
        return self._inbox.outstanding

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the updates said, who was selected and who is missing."""
        folded = self._in(Progress.FOLDED)
        weights = [self._federation.sizes[client] for client in folded]
        losses = [self._losses[client] for client in folded]
        return {
            "train_loss": math.fsum(w * loss for w, loss in zip(weights, losses, strict=True)) / math.fsum(weights),
            "samples": self._samples,
            "selected": [self.context.names[client] for client in self.progress],
            "missing": [self.context.names[client] for client in self._in(Progress.MISSING)],
        }

    def _selected_in(self, round: int) -> tuple[int, ...]:
        return select_clients(self._federation, round)

    def _in(self, *progress: Progress) -> list[int]:
        return [client for client, where in self.progress.items() if where in progress]

    # Rounds

    def _begin_round(self, now: float) -> list[ev.Action]:
        self._enter(Stage.WORKING)
        self._detector.begin_round(now)
        self._inbox.forget_before(self.round - 1)
        self._losses.clear()
        self._model = self._server.outgoing()
        self.progress = dict.fromkeys(self._selected_in(self.round), Progress.WAITING)
        gone = (self._gone - self._federation.back(self.round)) | self._federation.away(self.round)
        for client in gone & self.progress.keys():
            self._move(client, Progress.MISSING)
        actions: list[ev.Action] = []
        for client in self._in(Progress.WAITING):
            if client in self._ready:
                actions += self._send_model(client)
        return actions + self._advance(now)

    def _send_model(self, client: int) -> list[ev.Action]:
        self._ready.discard(client)
        self._move(client, Progress.SENT)
        self._flushed = False
        return self._session.deliver(self.round, self._server.encodings, [(client, self._model)])

    def _advance(self, now: float) -> list[ev.Action]:
        """Everything that can be done now: fold, ask for updates, finish."""
        if self.stage is not Stage.WORKING:
            return []
        actions = self._fold_and_ask()
        if self._in(*OWED):
            return actions
        missing, came = self._in(Progress.MISSING), len(self._in(Progress.FOLDED))
        if came < self._federation.min_updates:
            names = self.context.name(missing) if missing else ""
            return actions + self._fail(
                f"round {self.round}: {came} of {len(self.progress)} updates came, and --min-updates asks for "
                f"{self._federation.min_updates}; missing: {names}"
            )
        if not missing:
            self._detector.end_round(now)
        self._server.finish(complete=not missing)
        self._enter(Stage.RECORDING)
        return [*actions, ev.RoundDone(self.round)]

    def _fold_and_ask(self) -> list[ev.Action]:
        """In client order: fold what has come, and let those next in turn send that have something to send."""
        actions: list[ev.Action] = []
        first = True  # nobody before this client is still owed
        window = WINDOW
        for client, where in self.progress.items():
            if where in (Progress.FOLDED, Progress.MISSING):
                continue
            if first and where is Progress.GRANTED and (update := self._inbox.take(self.round, client)) is not None:
                self._fold(client, update)
                continue
            first = False
            window -= 1
            if where is Progress.OFFERING:
                self._move(client, Progress.GRANTED)
                self._inbox.open(self.round, client)
                actions.append(self._session.say("grant", client, self.round))
            if window == 0:
                break
        return actions

    def _fold(self, client: int, update: Payload) -> None:
        total = math.fsum(self._federation.sizes[k] for k in self.progress)
        self._server.accumulate(update, self._federation.sizes[client] / total)
        self._losses[client] = min(max(update.scalars.get("loss", 0.0), -MAX_LOSS), MAX_LOSS)
        self._samples += int(min(max(update.scalars.get("samples", 0.0), 0.0), MAX_SAMPLES))
        self._move(client, Progress.FOLDED)

    def _give_up(self, clients: Sequence[int], now: float, why: str = "") -> list[ev.Action]:
        """Go on in this round without some of its clients; a reason is news for whoever watches the run."""
        for client in clients:
            self._move(client, Progress.MISSING)
            self._inbox.drop(self.round, client)
        names = self.context.name(set(clients))
        self._detector.progress(now)
        news = ev.Note(f"round {self.round} continues without {names}" + (f": {why}" if why else ""), matters=bool(why))
        return [news, *self._advance(now)] if clients else []

    def _enter(self, stage: Stage) -> None:
        self.stage = PEER.check(self.stage, stage)

    def _move(self, client: int, progress: Progress) -> None:
        self.progress[client] = PROGRESS.check(self.progress[client], progress)

    def _is_owed(self, client: int) -> bool:
        """Whether this round waits for a client, whose update is not here."""
        waits = self.progress.get(client) in OWED
        return waits and client in self._inbox.missing(self.round, [client])

    def _fail(self, reason: str) -> list[ev.Action]:
        self._enter(Stage.ENDED)
        return [ev.Fail(reason)]
