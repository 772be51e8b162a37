"""Account of one round: times, bytes sent and received, and its record."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2pfl.protocol.logic import Logic
from p2pfl.run.records import RoundRecord
from p2pfl.training import EvalStats, Trainer, TrainStats


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

    def trained(self, stats: TrainStats) -> None:
        """Add the round's local training."""
        self.stats = stats
        self.train += stats.seconds

    def record(
        self, logic: Logic, trainer: Trainer, evaluation: EvalStats | None, now: float, elapsed: float
    ) -> RoundRecord:
        """Record of the round at time `now`, without what only the protocol knows.

        `elapsed`: seconds since the process began its first round.
        """
        context, stats = logic.context, self.stats
        trained = logic.round <= context.training_rounds
        return RoundRecord(
            round=logic.round,
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
