"""Numbers of exchanges, which the protocol counts, and of the run's rounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Numbering:
    """Exchanges by round: several in a training round, one in a consensus round.

    What the protocol calls a round is one exchange, numbered from 1 without a gap. The run's rounds, which settings,
    fault scripts, checkpoints and records count, are also numbered from 1: `trainings` rounds of training with `steps`
    exchanges each, of which the first follows the local training, then the consensus rounds.

    Examples:
        >>> numbers = Numbering(trainings=2, steps=3)
        >>> [numbers.round_of(exchange) for exchange in range(1, 9)]
        [1, 1, 1, 2, 2, 2, 3, 4]
        >>> numbers.first(2), numbers.last(2), numbers.first(3)
        (4, 6, 7)
    """

    trainings: int
    steps: int = 1

    @property
    def exchanges(self) -> int:
        """Exchanges of all training rounds together."""
        return self.trainings * self.steps

    def round_of(self, exchange: int) -> int:
        """The run's round of an exchange."""
        if exchange > self.exchanges:
            return self.trainings + exchange - self.exchanges
        return -(-exchange // self.steps)

    def first(self, round: int) -> int:
        """First exchange of a round of the run."""
        return self.last(round - 1) + 1

    def last(self, round: int) -> int:
        """Last exchange of a round of the run; 0 for round 0."""
        return min(round, self.trainings) * self.steps + max(round - self.trainings, 0)

    def trains(self, exchange: int) -> bool:
        """Whether local training comes before an exchange."""
        return exchange <= self.exchanges and exchange == self.first(self.round_of(exchange))

    def is_last(self, exchange: int) -> bool:
        """Whether a round of the run ends with an exchange."""
        return exchange == self.last(self.round_of(exchange))
