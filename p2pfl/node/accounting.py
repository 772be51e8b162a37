"""Account of one round: times, bytes sent and received, and its record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from p2pfl.model.sketches import Vector
from p2pfl.protocol.logic import Logic
from p2pfl.run.records import RoundRecord
from p2pfl.training import EvalStats, Trainer, TrainStats

LOG_SECONDS = 1.0  # between two lines of rounds without an evaluation


@dataclass(frozen=True)
class RoundResult:
    """Result of the work after a round's last exchange."""

    evaluation: EvalStats | None
    sketch: Vector | None


@dataclass(frozen=True)
class ExchangeResult:
    """Result of the work after an exchange that does not end its round."""


@dataclass
class RoundAccount:
    """Measurements of one round by the driver.

    Times are in seconds; `began` is on the driver's clock.
    """

    began: float
    train: float = 0.0
    exchange: float = 0.0
    wait: float = 0.0
    sent: Counter[int] = field(default_factory=Counter)  # bytes by neighbor
    received: int = 0  # bytes
    stats: TrainStats | None = None
    _facts: dict[str, Any] = field(default_factory=dict)  # of the round's exchanges before the last

    def trained(self, stats: TrainStats) -> None:
        """Add the round's local training."""
        self.stats = stats
        self.train += stats.seconds

    def mixed(self, facts: Mapping[str, Any]) -> None:
        """Add what the protocol knows of an exchange that does not end the round."""
        self._facts = self.facts(facts)

    def facts(self, last: Mapping[str, Any]) -> dict[str, Any]:
        """Facts of the round: peers absent, or that gave weights, in any exchange."""
        before = self._facts
        return {name: _united(before[name], value) if before.get(name) else value for name, value in last.items()}

    def record(
        self, logic: Logic, trainer: Trainer, evaluation: EvalStats | None, now: float, elapsed: float
    ) -> RoundRecord:
        """Record of the round at time `now`, without what only the protocol knows.

        `elapsed`: seconds since the process began its first round.
        """
        context, stats = logic.context, self.stats
        trained = logic.round <= context.training_rounds
        return RoundRecord(
            round=context.numbering.round_of(logic.round),
            phase="train" if trained else "consensus",
            steps=trainer.steps,
            samples=trainer.samples,
            train_loss=None if stats is None or not trained else stats.loss,
            lr=None if stats is None or not trained else stats.lr,
            test_accuracy=None if evaluation is None else evaluation.accuracy,
            test_loss=None if evaluation is None else evaluation.loss,
            test_samples=None if evaluation is None else evaluation.samples,
            evaluated_on=None if evaluation is None else evaluation.on,
            own_accuracy=None if evaluation is None or not trained else evaluation.own_accuracy,
            class_accuracy=None if evaluation is None or not evaluation.is_whole else evaluation.class_accuracy,
            elapsed=elapsed,
            seconds=now - self.began,
            train_seconds=self.train,
            exchange_seconds=self.exchange,
            wait_seconds=self.wait,
            evaluate_seconds=0.0 if evaluation is None else evaluation.seconds,
            bytes_sent=self.sent.total(),
            bytes_received=self.received,
            sent_to={context.names[neighbor]: count for neighbor, count in sorted(self.sent.items())},
        )


class RoundLog:
    """Lines of a process's log about its rounds: all that were evaluated, and others.

    Of these one a second at most, since a line takes as long as the rest of a record.
    """

    def __init__(self, trainings: int) -> None:
        """`trainings`: rounds of training of the run."""
        self._trainings = trainings
        self._written = -math.inf

    def line(self, record: RoundRecord, now: float) -> str | None:
        """Line about a round at time `now`, or None."""
        if record.test_accuracy is None and now < self._written + LOG_SECONDS:
            return None
        self._written = now
        return line_of(record, self._trainings)


def line_of(record: RoundRecord, trainings: int) -> str:
    """Line of a process's log about a round of a run with so many rounds of training."""
    mixed = record.round - trainings
    name = f"round {record.round}" if mixed <= 0 else f"mixing round {mixed}"
    loss = "" if record.train_loss is None else f", loss {record.train_loss:.4f}"
    accuracy = "" if record.test_accuracy is None else f", {record.accuracy_name} {record.test_accuracy:.4f}"
    return f"{name} done{loss}{accuracy}"


def _united(before: list[str], last: list[str] | None) -> list[str]:
    return [*before, *(name for name in last or () if name not in before)]
