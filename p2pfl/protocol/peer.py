"""State machine of one peer; from top to bottom, the algorithm of a round.

A peer greets its neighbors, then goes through rounds: train, exchange, mix, record, next (in the overlapped order it
exchanges while it trains). Consensus rounds only mix, and so do rounds between two trainings (`Numbering`). It ends
when its neighbors have acknowledged its last vector. It waits for its neighbors only; there is no center. One that is
lost, or silent for too long, is missing until it is back (`membership`); far behind the others, a peer jumps ahead.

`Peer.handle(event, now)` is told what happened and returns what to do. It computes (the algorithms' sums) but touches
no socket, file, thread or clock, so a process, a test or a simulator can drive it alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from p2pfl.algorithms.base import Algorithm, Saved
from p2pfl.errors import ProtocolError
from p2pfl.payload import Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.exchange import Exchange
from p2pfl.protocol.greeting import MismatchError
from p2pfl.protocol.introduction import Introducer
from p2pfl.protocol.mixer import Mixer, Phases
from p2pfl.protocol.states import PEER, Stage
from p2pfl.protocol.timeouts import FailureDetector
from p2pfl.protocol.watch import Verdict, Watch
from p2pfl.protocol.wire import Message
from p2pfl.topology import NeighborhoodSchedule


class Peer:
    """Progress of one peer; the driver trains `x`, flat float32 (size,), in place.

    After a round x may be another tensor; `RoundDone` says which.
    """

    def __init__(
        self,
        context: PeerContext,
        schedule: NeighborhoodSchedule,
        x: Tensor,
        training: Algorithm[Any],
        consensus: Algorithm[Any],
        restored: Saved | None = None,
    ) -> None:
        """`restored`: the training algorithm's state from x's checkpoint, if there is one."""
        phases = Phases(training, consensus, context.training_rounds)
        mixer = Mixer(phases, x, schedule, context.links, restored, context.statistics)
        self._exchange = exchange = Exchange(context, schedule, mixer)
        self.channel, self._membership, self.refused = exchange.channel, exchange.membership, exchange.channel.refused
        self.context = replace(context, pending_payloads={})  # so that their memory is free soon
        self.stage = Stage.NEW
        self._detector = FailureDetector(self.context)
        self._watch = Watch(self.context, self._exchange, self._detector)
        self._introducer = Introducer(context.me, context.links, context.run, context.introductions)
        self._is_trained = False
        self._training = ev.Trained()  # result of this round's local training

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
            case ev.Trained():
                return self._on_trained(event, now)
            case ev.Flushed():
                self.channel.on_flushed()
                return self._advance(now)
            case ev.Recorded():
                return self._on_recorded(now)
            case ev.Reconnected(neighbor):
                return self._exchange.reconnected(neighbor)
            case ev.Lost(neighbor):
                return self._on_lost(neighbor, now)
            case ev.Tick():
                return self._accept(self._watch.check(self.stage, now), now)

    # 1. Greet the neighbors

    def _on_started(self, now: float) -> list[ev.Action]:
        self._enter(Stage.GREETING)
        self._detector.begin_wait(now)
        self._detector.sent_heartbeats(now)
        if not self.context.links:  # a peer that learns by itself
            return self._begin_round(self.round, now)
        return [*self._membership.greet_all(self.round), *self._begin_if_greeted(now)]

    def _begin_if_greeted(self, now: float) -> list[ev.Action]:
        """Begin when all have greeted, or all within reach of those at work already."""
        if self.stage is not Stage.GREETING:
            return []
        target = self._exchange.ahead()
        if not self._membership.may_begin(is_behind=target > self.round):
            return []
        if self._membership.all_finished:
            return self._fail(f"back after all its neighbors had finished: this peer was in round {self._watch.round}")
        actions = self._take_down(self._membership.ungreeted, "cannot be reached", now)
        if self.context.away_until:  # as the fault script says, also after a stop of the whole run
            actions += self._exchange.backlog.serve(self.channel, self._membership)
            if self._exchange.backlog or not self.channel.outbox.idle:
                return actions
        if target > self.context.last_round:
            return [*actions, *self._fail("stays away, as the fault script says")]
        return [*actions, *self._go_to(target, now)]

    # 2. Begin a round, and train

    def _go_to(self, round: int, now: float) -> list[ev.Action]:
        """Begin a round, the next or a later one."""
        if round <= self.round + (self.stage is Stage.RECORDING):
            return self._begin_round(round, now)
        jumped = self._exchange.jump(round, self.context.needs_bootstrap and self.stage is Stage.GREETING)
        news = ev.Note(f"goes straight to round {self._watch.round}, where its neighbors are", matters=True)
        return [news, *jumped, *self._begin_round(self.round, now)]

    def _begin_round(self, round: int, now: float) -> list[ev.Action]:
        self._enter(Stage.WORKING)
        self._training = ev.Trained()
        self._detector.begin_round(now)
        self._detector.sent_heartbeats(now)
        actions = self._exchange.begin_round(round)
        self._is_trained = not self.context.works_in(round) or self._exchange.is_bootstrapping
        if not self._is_trained and not self._exchange.algorithm.overlapped:
            actions += self._train(now)
        return actions + self._advance(now)

    def _train(self, now: float) -> list[ev.Action]:
        self._detector.begin_training(now)
        return [ev.Train(self.round, request=self._exchange.request(self._training))]

    def _on_trained(self, event: ev.Trained, now: float) -> list[ev.Action]:
        self._detector.end_training(now)
        self._is_trained, self._training = True, event
        return self._advance(now)

    # 3. Exchange, and 4. mix

    def _advance(self, now: float) -> list[ev.Action]:
        """Do what can be done now: grant credit, send, fold, mix when all is in."""
        if self.stage is not Stage.WORKING:
            return []
        exchange = self._exchange
        actions = [*exchange.grant_credit(), *exchange.backlog.serve(self.channel, self._membership)]
        if exchange.can_begin and (self._is_trained or exchange.algorithm.overlapped):
            actions += exchange.begin(self._training)
            if not self._is_trained:
                actions += self._train(now)
        if not exchange.has_begun:
            return actions
        if exchange.is_bootstrapping:
            return actions + self._take_weights()
        actions += exchange.fold()
        if self._is_trained and exchange.may_finish:
            self._enter(Stage.RECORDING)
            actions.append(ev.RoundDone(self.round, exchange.finish(self._training)))
        return actions

    def _take_weights(self) -> list[ev.Action]:
        """Bootstrap: take the neighbors' weights in place of this round."""
        if not self._exchange.take_weights():
            return self._exchange.grant_credit()
        if not self._exchange.bootstrap:
            return self._fail(f"no neighbor is left to take weights from in round {self._watch.round}")
        self._enter(Stage.RECORDING)
        names = self.context.name(self._exchange.bootstrap.senders)
        news = ev.Note(f"takes over the weights of peer {names} in round {self._watch.round}", matters=True)
        return [news, ev.RoundDone(self.round, self._exchange.finish_bootstrap())]

    # 5. Record, and go to the next round

    def _on_recorded(self, now: float) -> list[ev.Action]:
        assert self.stage is Stage.RECORDING
        self._detector.end_round(now)
        if self.round < self.context.last_round:
            following = max(self.round + 1, self._exchange.ahead())
            return self._go_to(self.context.scripted_pauses.get(self.round, following), now)
        self._enter(Stage.ENDED)
        return [*(self.channel.message("goodbye", n, self.round) for n in sorted(self.context.links)), ev.Finish()]

    # Messages

    def _on_received(self, message: Message, now: float) -> list[ev.Action]:
        header, exchange = message.header, self._exchange
        if header.kind == "introduction":
            words = self._introducer.answer(header)
            return [*words, self._membership.greet(header.sender, self.round)] if words else []
        try:
            self.channel.check(message)
            self._detector.heard(header.sender, now)
            at_work = header.kind in ("chunk", "grant") and self._membership.is_at_work(header.sender)
            begun = self._begin_if_greeted(now) if at_work else []
            if header.kind == "chunk":
                return [*begun, *self._on_chunk(message, now)]
            if header.kind == "grant":
                return [*begun, *self.channel.granted(header)]
        except MismatchError as error:
            return self._watch.mismatch(header.sender, error, self.stage, now)
        except ProtocolError as error:
            refused = self.channel.refuse(error.code, f"{error.detail}, from {header.sender}")
            answer = exchange.bad_chunk(header, error.code) if header.kind == "chunk" else []
            return [*refused, *answer, *(self._advance(now) if answer else [])]
        actions: list[ev.Action] = []
        if header.kind == "hello":
            actions, stands = exchange.hello(header)
            if not stands:
                return actions
        elif header.kind == "edge_down":
            actions = exchange.edge_down(header)
        elif header.kind == "goodbye":
            exchange.finish_edge(header.sender)
        elif header.kind == "ack" and exchange.acknowledged(header):
            self._detector.progress(now)
        if header.kind in ("hello", "goodbye", "ack"):
            actions += self._begin_if_greeted(now)
        return actions + self._advance(now)

    def _on_chunk(self, message: Message, now: float) -> list[ev.Action]:
        actions, is_whole = self._exchange.chunk(message)
        # A slow link that delivers is no silent neighbor.
        self._detector.chunk(message.header.sender, message.header.offset, now)
        return actions + self._advance(now) if is_whole else actions

    # Failures

    def _on_lost(self, neighbor: int, now: float) -> list[ev.Action]:
        if self.stage in (Stage.NEW, Stage.GREETING):
            self._membership.lose(neighbor)
            return self._begin_if_greeted(now)
        return self._accept(self._watch.lost(neighbor), now)

    def _accept(self, verdict: Verdict, now: float) -> list[ev.Action]:
        """End, or continue without those that have failed."""
        if verdict.failure is not None:
            return self._fail(verdict.failure)
        if not verdict.suspects:
            return verdict.actions
        actions = [*verdict.actions, *self._take_down(verdict.suspects, verdict.why, now)]
        return [*actions, *self._begin_if_greeted(now)]

    def _take_down(self, neighbors: Sequence[int], why: str, now: float) -> list[ev.Action]:
        """Continue without neighbors until they are back."""
        actions: list[ev.Action] = []
        for neighbor in neighbors:
            news = f"continues without peer {self.context.name([neighbor])} from round {self._watch.round} on ({why})"
            actions += [ev.Note(news, matters=True), *self._exchange.take_down(neighbor)]
        self._detector.begin_wait(now)
        return actions + self._advance(now) if neighbors else []

    def _fail(self, failure: ev.Fail | str) -> list[ev.Action]:
        self._enter(Stage.ENDED)
        return [ev.Fail(failure) if isinstance(failure, str) else failure]

    def _enter(self, stage: Stage) -> None:
        self.stage = PEER.check(self.stage, stage)

    # For the driver

    @property
    def round(self) -> int:
        """The round that it is in."""
        return self._exchange.round

    @property
    def facts(self) -> Mapping[str, Any]:
        """Missing peers of the round being recorded, and the sources of a bootstrap."""
        return self._exchange.facts

    @property
    def payloads(self) -> dict[int, Payload]:
        """Payloads of the round that is being recorded, by neighbor, for a checkpoint."""
        return dict(self._exchange.mixer.payloads)

    @property
    def algorithm_state(self) -> Saved:
        """State of the training rounds' algorithm; nothing in consensus rounds."""
        return self._exchange.mixer.state_dict()

    @property
    def wants_flush(self) -> bool:
        """Whether a flush matters: to continue, or to send something again."""
        wanted = self.channel.outbox.idle or self.channel.outbox.asked_again
        return not self.channel.flushed and wanted and self.stage is Stage.WORKING

    @property
    def deadline(self) -> float:
        """When the next `Tick` is due: a timeout, a retry or the next heartbeats."""
        return self._watch.deadline(self.stage)
