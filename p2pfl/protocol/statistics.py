"""Rule for running statistics of batch normalization in the exchanges of a peer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from p2pfl.model.statistics import RunningStatistics


@dataclass(frozen=True)
class StatisticsRule:
    """Treatment of running statistics beside the rest of x, which is mixed.

    running: their places; none where they are mixed like all of x. kept_until: last round in which each peer keeps its
    own, which are sent and not mixed: SiloBN (Andreux et al. 2020, "Siloed federated learning for multi-centric
    histopathology datasets") keeps them so; FedBN (Li et al. 2021) keeps all parameters of batch normalization.
    estimated_in: first round of a second merge, before whose exchange each peer re-estimates its own with the merged
    weights. pooled: first and last round of the merge that makes of the peers' own the statistics of all their samples.
    0: none.
    """

    running: RunningStatistics = field(default_factory=RunningStatistics)
    kept_until: int = 0
    estimated_in: int = 0
    pooled: tuple[int, int] = (0, 0)

    @property
    def barrier_rounds(self) -> frozenset[int]:
        """Rounds that end only when all neighbors have the vector: a first merge's last."""
        return frozenset({self.estimated_in - 1} if self.estimated_in else ())

    def take(self, x: Tensor, round: int) -> tuple[Tensor, ...]:
        """Copies of what the peer keeps in this round, before it mixes x.

        Variances that are to be pooled become second moments in x.
        """
        if round == self.pooled[0]:
            self.running.to_moments(x)
        return self.running.copies(x) if round <= self.kept_until else ()

    def give(self, x: Tensor, round: int, kept: tuple[Tensor, ...]) -> None:
        """Write what was kept to the mixed x.

        After the last round pooled second moments become variances again.
        """
        if kept:
            self.running.write(x, kept)
        if round == self.pooled[1]:
            self.running.to_variances(x)
