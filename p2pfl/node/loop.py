"""Driver of one process: its loop over protocol, transport, training and store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from p2pfl.algorithms.base import Saved
from p2pfl.errors import ConfigError, Interrupted, NeighborError, TransportError
from p2pfl.faults import Point
from p2pfl.faults.injector import FaultInjector
from p2pfl.model import sketches
from p2pfl.node import messages
from p2pfl.node.accounting import ExchangeResult, RoundAccount, RoundLog, RoundResult
from p2pfl.node.disk_gate import DiskGate
from p2pfl.node.ports import Ports
from p2pfl.node.profile import RoundProfile
from p2pfl.node.tasks import Tasks
from p2pfl.payload import LocalTraining, Payload
from p2pfl.protocol import events as ev
from p2pfl.protocol.logic import Logic
from p2pfl.training import Trainer, TrainStats, check_weights

IDLE_SECONDS = 1.0
FLUSH_SECONDS = 0.001


class Driver:
    """Runs one peer, client or coordinator to its end.

    The calling thread does the exchange; training, evaluation and saving are the compute port's, so that receiving
    continues meanwhile. Only the calling thread touches the transport and the protocol.
    """

    def __init__(
        self,
        logic: Logic,
        trainer: Trainer,
        ports: Ports,
        profile: RoundProfile | None = None,
        injector: FaultInjector | None = None,
    ) -> None:
        self.has_ended = False
        self._logic = logic
        self._numbers = logic.context.numbering
        self._trainer = trainer
        self._clock = ports.clock
        self._transport = ports.transport
        self._store = ports.store
        self._exchanges = bool(logic.context.links)
        self._reporter = ports.reporter
        self._profile = profile or RoundProfile()
        self._injector = injector
        self._stopped = False  # no Event: its lock could be held when a signal handler sets it
        self._compute = ports.compute
        self._tasks = Tasks(ports.compute)
        self._gate = DiskGate(ports.compute)
        self._log = RoundLog(self._numbers.trainings)
        self._refused: Counter[str] = Counter()  # all that the records say so far
        self._account = RoundAccount(self._clock.now())
        self._start = self._account.began

    def stop(self) -> None:
        """End soon; from any thread or signal handler."""
        self._stopped = True
        self._transport.wake()

    def run(self) -> None:
        """Run all rounds.

        Raises Interrupted after `stop`, TransportError where neighbors fail, TrainingError.
        """
        try:
            self.start()
            while not self.has_ended:
                self.turn()
            self._gate.finish()  # of a process without a part in the last training round
        finally:
            self.close()

    def start(self) -> None:
        """Begin the first round; before that, others were waited for."""
        self._account = RoundAccount(self._clock.now())
        self._start = self._account.began
        self._profile.begin(self._round)
        self._tell(ev.Started())

    def close(self) -> None:
        """Close the compute port; training under way ends at its next step."""
        self._stopped = True
        self._tasks.close()
        self._profile.close()

    def turn(self) -> None:
        """Wait for the next messages or results, and react to them. Raises as `run` does."""
        before = self._clock.now()
        with self._profile.span("wait for messages"):
            events = self._transport.poll(self._poll_seconds(before))
        after = self._clock.now()
        if not self._tasks.is_busy:
            self._account.wait += after - before
        if self._stopped:
            raise Interrupted("stopped")
        with self._profile.span("exchange and mix"):
            for event in events:
                self._account_for(event)
                self._tell(event)
        writing = self._collect()
        if not self.has_ended and self._logic.wants_flush and self._transport.flushed():
            self._tell(ev.Flushed())
        if self._clock.now() >= self._logic.deadline:
            self._tell(ev.Tick())
        if not self._tasks.is_busy:
            self._account.exchange += self._clock.now() - after - writing

    @property
    def deadline(self) -> float:
        """When the protocol wants a turn even if nothing has come, on the driver's clock."""
        is_due = self._tasks.has_skipped or (self._logic.wants_flush and self._transport.flushed())
        return self._clock.now() if is_due else self._logic.deadline

    def _poll_seconds(self, now: float) -> float:
        if self._tasks.has_skipped:
            return 0.0
        if self._logic.wants_flush:
            return FLUSH_SECONDS
        return min(IDLE_SECONDS, max(self._logic.deadline - now, 0.0))

    def _account_for(self, event: ev.TransportEvent) -> None:
        """Count received bytes, log connections that stand again."""
        if isinstance(event, ev.Received):
            self._account.received += event.size
        elif isinstance(event, ev.Reconnected):
            self._reporter.info(f"{self._logic.context.names[event.neighbor]}: connected again")

    def _tell(self, event: ev.Event) -> None:
        for action in self._logic.handle(event, self._clock.now()):
            self._do(action)

    def _do(self, action: ev.Action) -> None:
        if isinstance(action, ev.Send):
            self._account.sent[action.neighbor] += self._transport.send(action.neighbor, action.message)
        elif isinstance(action, ev.Discard):
            self._transport.discard(action.neighbor)
        elif isinstance(action, ev.Train):
            self._profile.begin(self._round)
            self._reach("start", self._round)
            self._tasks.submit(self._train, self._round, action.load, action.request)
        elif isinstance(action, ev.RoundDone):
            if action.x is not None:
                self._trainer.move_to(action.x)
            if self._numbers.is_last(action.round):
                self._tasks.submit(self._complete_round, self._round)
            else:
                self._complete_exchange(action.round)
        elif isinstance(action, ev.Note):
            self._reporter.warn(action.text, action.matters)
        elif isinstance(action, ev.Fail):
            if action.code is not None:
                raise NeighborError(action.reason, action.code, action.peers, resumable=action.resumable)
            raise (ConfigError if action.usage else TransportError)(action.reason, resumable=action.resumable)
        else:
            self.has_ended = True

    @property
    def _round(self) -> int:
        """The run's round, of whose exchanges the protocol is in one."""
        return self._numbers.round_of(self._logic.round)

    def _reach(self, point: Point, round: int) -> None:
        """Pass a point of a round at which a fault script may act on this process."""
        if self._injector is not None:
            self._injector.reach(point, round)

    # On the compute port

    def _train(self, round: int, load: bool, request: LocalTraining) -> TrainStats:
        if load:
            self._trainer.to_device()
        with self._profile.span("train"):
            stats = self._trainer.train(
                round, lambda steps: self._reporter.send(messages.Stepped(steps)), self._between(round), request
            )
            self._trainer.to_host()
            if self._exchanges:  # otherwise the weights are checked in `_complete_round` only
                self._check_weights(f"after training in round {round}")
        return stats

    def _between(self, round: int) -> Callable[[], bool]:
        """Whether to stop, asked between two steps of a training."""
        if self._injector is None:
            return lambda: self._stopped
        return self._injector.amid("train", round, max(1, self._trainer.steps_per_round // 2), lambda: self._stopped)

    def _between_batches(self) -> bool:
        """Report that an evaluation proceeds, and return whether to stop it.

        The owner of the run's model evaluates it when the others have finished, and may take longer than any round.
        """
        self._reporter.send(messages.Evaluating())
        return self._stopped

    def _check_weights(self, when: str, sketch: sketches.Vector | None = None) -> None:
        """Check weights that are about to be sent or saved. Raises TrainingError."""
        check_weights(self._trainer.host, self._store.config.exchange.wire_dtype, when, sketch)

    def _complete_round(self, round: int) -> RoundResult:
        """Complete a round after mixing: sketch, model, evaluation.

        The run's model is saved at the end, before its record, which says so; evaluated is where it is due.
        """
        self._reach("evaluate", round)
        sketch = None
        if self._store.sketches:
            with self._profile.span("sketch"):
                sketch = sketches.sketch(self._trainer.host.numpy(), self._trainer.config.record.seed)
        self._check_weights(f"at the end of round {round}", sketch)
        self._trainer.to_device()
        self._store.save_model(round, self._trainer)
        evaluation = None
        due = self._store.evaluation(round)
        if due is not None:
            with self._profile.span("evaluate"):
                evaluation = self._trainer.evaluate(due.samples, self._between_batches, due.on)
        return RoundResult(evaluation, sketch)

    def _keep_sent(self, exchange: int, sent: Mapping[int, Payload]) -> ExchangeResult:
        self._store.keep_sent(exchange, sent)
        return ExchangeResult()

    def _save(self, round: int, sent: Mapping[int, Payload], state: Saved) -> Callable[[], None] | None:
        self._reach("checkpoint", round)
        with self._profile.span("checkpoint"):
            self._compute.finish_aside()  # at most one is behind
            return self._store.save(round, self._trainer, sent, state)

    # Back in the calling thread

    def _complete_exchange(self, exchange: int) -> None:
        """Complete an exchange that does not end its round: nothing is recorded."""
        self._account.mixed(self._logic.facts)
        if self._store.saves(self._numbers.round_of(exchange)):
            self._tasks.submit(self._keep_sent, exchange, self._logic.payloads)
        else:
            self._tasks.skip(ExchangeResult())

    def _collect(self) -> float:
        """Take finished work; returns the seconds in which a trace was written."""
        writing = 0.0
        for result in self._tasks.results():
            if isinstance(result, TrainStats):
                self._account.trained(result)
                self._gate.hold(result)
                self._tasks.is_busy = True
            elif isinstance(result, RoundResult):
                # First the record, then the checkpoint, which holds it too: a resumed peer drops a record too many,
                # and rebuilds one too few, but without the checkpoint nothing says what a record stood for.
                self._record(result)
                # Payloads and state are taken here, since only this thread touches the protocol; no copies are needed,
                # because neither is written before the next round's exchange, which waits for the checkpoint.
                if self._store.saves(self._round) or self._injector is not None:
                    self._tasks.submit(self._save, self._round, self._logic.payloads, self._logic.algorithm_state)
                else:
                    self._tasks.skip(None)
            elif isinstance(result, ExchangeResult):
                self._tell(ev.Recorded())
            else:
                if result is not None:
                    self._gate.save(result)
                began = self._clock.now()
                self._profile.end(self._round)
                written = self._clock.now() - began  # the trace is no part of the next round
                self._account.began += written
                writing += written
                self._profile.begin(self._round + 1)
                self._tell(ev.Recorded())
        if (trained := self._gate.release()) is not None:
            self._tasks.is_busy = False
            self._reach("exchange", self._round)
            self._tell(ev.Trained(trained.loss, trained.samples, trained.steps, trained.lr, trained.lr_sum))
        return writing

    def _record(self, result: RoundResult) -> None:
        for line in self._store.begin(self._round, self._trainer):
            self._reporter.send(messages.Warned(line))
        now = self._clock.now()
        elapsed = self._store.elapsed_before + now - self._start
        record = self._account.record(self._logic, self._trainer, result.evaluation, now, elapsed)
        refused = dict(sorted((self._logic.refused - self._refused).items())) or None
        record = msgspec.structs.replace(record, refused=refused, **self._account.facts(self._logic.facts))
        self._store.record(record, result.sketch)
        sketch = b"" if result.sketch is None else sketches.to_bytes(result.sketch)
        self._reporter.send(messages.RoundFinished(record, sketch))
        if (logged := self._log.line(record, now)) is not None:
            self._reporter.info(logged)
        self._refused = self._logic.refused.copy()
        self._account = RoundAccount(now)
