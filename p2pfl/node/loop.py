"""The loop that joins one process's logic to its sockets, its training thread and its records."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from p2pfl.errors import ConfigError, Interrupted, NeighborError, TransportError
from p2pfl.faults import Point
from p2pfl.faults.injector import Saboteur
from p2pfl.model import sketches
from p2pfl.node import messages
from p2pfl.node.profile import RoundProfile
from p2pfl.node.recorder import Keeper
from p2pfl.protocol import events as ev
from p2pfl.protocol.logic import Logic
from p2pfl.run import records
from p2pfl.training import EvalStats, Stopped, Trainer, TrainStats, check_weights
from p2pfl.transport import Transport

IDLE_SECONDS = 1.0
FLUSH_SECONDS = 0.001

Report = Callable[[messages.FromWorker], None]


@dataclass(frozen=True)
class _RoundResult:
    evaluation: EvalStats | None
    sketch: sketches.Vector | None


@dataclass
class _Clock:
    """Where this round's time went, in seconds."""

    began: float
    train: float = 0.0
    evaluate: float = 0.0
    exchange: float = 0.0
    wait: float = 0.0


class Driver:
    """Runs one peer, client or coordinator to its end.

    The calling thread does the exchange; one other thread trains, evaluates and saves, so that receiving goes on
    meanwhile. Only the calling thread touches the transport and the peer's logic.
    """

    def __init__(
        self,
        logic: Logic,
        trainer: Trainer,
        transport: Transport,
        keeper: Keeper,
        report: Report,
        log: logging.Logger,
        profile: RoundProfile | None = None,
        saboteur: Saboteur | None = None,
    ) -> None:
        self._logic = logic
        self._trainer = trainer
        self._transport = transport
        self._keeper = keeper
        self._report = report
        self._log = log
        self._profile = profile or RoundProfile()
        self._saboteur = saboteur
        self._stopped = False  # no Event: its lock could be held when a signal handler sets it
        self._results: SimpleQueue[Future[Any]] = SimpleQueue()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="trainer")
        self._busy = False  # the training thread has work
        self._ended = False
        self._sent: Counter[int] = Counter()
        self._received = 0
        self._refused: Counter[str] = Counter()  # all that the records say so far
        self._train_stats: TrainStats | None = None
        self._clock = _Clock(time.monotonic())
        self._start = self._clock.began

    def stop(self) -> None:
        """End soon; from any thread or signal handler."""
        self._stopped = True
        self._transport.wake()

    def run(self) -> None:
        """All rounds. Raises Interrupted after `stop`, TransportError where neighbors fail, TrainingError."""
        self._clock = _Clock(time.monotonic())  # what came before was waiting for others to be ready
        self._start = self._clock.began
        try:
            self._profile.begin(self._logic.round)
            self._tell(ev.Started())
            while not self._ended:
                self._turn()
        finally:
            self._stopped = True  # a training still under way ends at its next step
            self._executor.shutdown(cancel_futures=True)
            self._profile.close()

    def _turn(self) -> None:
        before = time.monotonic()
        with self._profile.span("wait for messages"):
            events = self._transport.poll(self._patience(before))
        after = time.monotonic()
        if not self._busy:
            self._clock.wait += after - before
        if self._stopped:
            raise Interrupted("stopped")
        with self._profile.span("exchange and mix"):
            for event in events:
                self._account_for(event)
                self._tell(event)
        writing = self._collect()
        if not self._ended and self._logic.wants_flush and self._transport.flushed():
            self._tell(ev.Flushed())
        if time.monotonic() >= self._logic.deadline:
            self._tell(ev.Tick())
        if not self._busy:
            self._clock.exchange += time.monotonic() - after - writing

    def _patience(self, now: float) -> float:
        if self._logic.wants_flush:
            return FLUSH_SECONDS
        return min(IDLE_SECONDS, max(self._logic.deadline - now, 0.0))

    def _account_for(self, event: ev.TransportEvent) -> None:
        """Count received bytes, log connections that stand again."""
        if isinstance(event, ev.Received):
            self._received += event.size
        elif isinstance(event, ev.Reconnected):
            self._log.info("%s: connected again", self._logic.plan.names[event.neighbor])

    def _tell(self, event: ev.Event) -> None:
        for action in self._logic.handle(event, time.monotonic()):
            self._do(action)

    def _do(self, action: ev.Action) -> None:
        if isinstance(action, ev.Send):
            self._sent[action.neighbor] += self._transport.send(action.neighbor, action.message)
        elif isinstance(action, ev.Discard):
            self._transport.discard(action.neighbor)
        elif isinstance(action, ev.Train):
            self._profile.begin(action.round)
            self._reach("start", action.round)
            self._submit(self._load_and_train if action.load else self._train, action.round)
        elif isinstance(action, ev.RoundDone):
            if action.x is not None:
                self._trainer.move_to(action.x)
            self._submit(self._settle, action.round)
        elif isinstance(action, ev.Note):
            self._log.warning("%s", action.text)
            if action.matters:
                self._report(messages.Warned(action.text))
        elif isinstance(action, ev.Fail):
            if action.code is not None:
                raise NeighborError(action.reason, action.code, action.peers, resumable=action.resumable)
            raise (ConfigError if action.usage else TransportError)(action.reason, resumable=action.resumable)
        else:
            self._ended = True

    def _reach(self, point: Point, round: int) -> None:
        """A point of a round at which a fault script may have something happen to this process."""
        if self._saboteur is not None:
            self._saboteur.reach(point, round)

    # In the training thread

    def _submit(self, work: Callable[[int], Any], round: int) -> None:
        self._busy = True
        self._executor.submit(work, round).add_done_callback(self._finished)

    def _finished(self, future: Future[Any]) -> None:
        self._results.put(future)
        self._transport.wake()

    def _load_and_train(self, round: int) -> TrainStats:
        self._trainer.to_device()
        return self._train(round)

    def _train(self, round: int) -> TrainStats:
        with self._profile.span("train"):
            stats = self._trainer.train(
                round, lambda steps: self._report(messages.Stepped(steps)), self._between(round)
            )
            self._trainer.to_host()
            if self._logic.plan.links:  # what goes to nobody is looked at in `_settle`
                self._check_weights(f"after training in round {round}")
        return stats

    def _between(self, round: int) -> Callable[[], bool]:
        """What is asked between two steps of a training: whether to stop."""
        if self._saboteur is None or not self._saboteur.waits_for("train", round):
            return lambda: self._stopped
        left = max(1, self._trainer.steps_per_round // 2)

        def stopped() -> bool:
            nonlocal left
            left -= 1
            if left == 0:
                self._reach("train", round)
            return self._stopped

        return stopped

    def _check_weights(self, when: str, sketch: sketches.Vector | None = None) -> None:
        """What is not finite is neither sent nor saved. Raises TrainingError."""
        check_weights(self._trainer.host, self._keeper.config.exchange.wire_dtype, when, sketch)

    def _settle(self, round: int) -> _RoundResult:
        """After mixing: sketch, save the run's model at the end (before its record, which says so), evaluate if due."""
        self._reach("evaluate", round)
        sketch = None
        if self._keeper.sketches:
            with self._profile.span("sketch"):
                sketch = sketches.sketch(self._trainer.host.numpy(), self._trainer.config.record.seed)
        self._check_weights(f"at the end of round {round}", sketch)
        self._trainer.to_device()
        self._keeper.save_model(round, self._trainer)
        evaluation = None
        samples = self._keeper.evaluation_samples(round)
        if samples is not None:
            with self._profile.span("evaluate"):
                evaluation = self._trainer.evaluate(samples, lambda: self._stopped)
        return _RoundResult(evaluation, sketch)

    def _save(self, round: int) -> None:
        self._reach("checkpoint", round)
        with self._profile.span("checkpoint"):
            self._keeper.save(round, self._trainer, self._logic.payloads)

    # Back in the calling thread

    def _collect(self) -> float:
        """Take what the training thread has done. Returns the seconds in which a trace was written."""
        writing = 0.0
        while not self._ended:
            try:
                future = self._results.get_nowait()
            except Empty:
                break
            self._busy = False
            try:
                result = future.result()
            except Stopped as error:
                raise Interrupted(str(error)) from None
            if isinstance(result, TrainStats):
                self._train_stats = result
                self._clock.train += result.seconds
                self._reach("exchange", self._logic.round)
                self._tell(ev.Trained(result.loss, result.samples))
            elif isinstance(result, _RoundResult):
                # First the record, then the checkpoint, which holds it too: a resumed peer drops a record too many,
                # and rebuilds one too few, but without the checkpoint nothing says what a record stood for.
                self._record(result)
                self._submit(self._save, self._logic.round)
            else:
                began = time.monotonic()
                self._profile.end(self._logic.round)
                written = time.monotonic() - began  # the trace is no part of the next round
                self._clock.began += written
                writing += written
                self._profile.begin(self._logic.round + 1)
                self._tell(ev.Recorded())
        return writing

    def _record(self, result: _RoundResult) -> None:
        for line in self._keeper.begin(self._logic.round, self._trainer):
            self._report(messages.Warned(line))
        now = time.monotonic()
        evaluation, stats, clock = result.evaluation, self._train_stats, self._clock
        plan = self._logic.plan
        record = records.RoundRecord(
            round=self._logic.round,
            phase="train" if self._logic.round <= plan.training_rounds else "consensus",
            steps=self._trainer.steps,
            samples=self._trainer.samples,
            train_loss=None if stats is None else stats.loss,
            lr=None if stats is None else stats.lr,
            test_accuracy=None if evaluation is None else evaluation.accuracy,
            test_loss=None if evaluation is None else evaluation.loss,
            test_samples=None if evaluation is None else evaluation.samples,
            elapsed=self._keeper.elapsed_before + now - self._start,
            seconds=now - clock.began,
            train_seconds=clock.train,
            exchange_seconds=clock.exchange,
            wait_seconds=clock.wait,
            evaluate_seconds=0.0 if evaluation is None else evaluation.seconds,
            bytes_sent=self._sent.total(),
            bytes_received=self._received,
            refused=dict(sorted((self._logic.refused - self._refused).items())) or None,
            sent_to={plan.names[neighbor]: count for neighbor, count in sorted(self._sent.items())},
        )
        record = msgspec.structs.replace(record, **self._logic.facts)
        self._keeper.record(record, result.sketch)
        sketch = b"" if result.sketch is None else sketches.to_bytes(result.sketch)
        self._report(messages.RoundFinished(record, sketch))
        mixed = record.round - plan.training_rounds
        name = f"round {record.round}" if mixed <= 0 else f"mixing round {mixed}"
        loss = "" if record.train_loss is None else f", loss {record.train_loss:.4f}"
        accuracy = "" if record.test_accuracy is None else f", accuracy {record.test_accuracy:.4f}"
        self._log.info("%s done%s%s", name, loss, accuracy)
        self._sent.clear()
        self._refused = self._logic.refused.copy()
        self._received = 0
        self._train_stats = None
        self._clock = _Clock(now)
