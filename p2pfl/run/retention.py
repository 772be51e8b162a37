"""Plan of a process's checkpoints: rounds that are saved, and those that are kept."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 2  # at least; more where peers may be further apart


@dataclass(frozen=True)
class CheckpointPlan:
    """Plan of one process's checkpoints.

    `rounds`: training rounds of the run, of which the last is always saved; None: all that it is asked for. `every`:
    rounds between two checkpoints. `also`: further rounds that are saved. `kept`: how many of those that are due every
    so many rounds are kept at least. `has_common_marks`: false for a process that takes part in some rounds only, a
    client: it saves each, and keeps what it had when the coordinator saved. `resumed`: round after which it continued.
    `trains`: false for a coordinator, which sends its next weights at once: it waits for the disk before.
    """

    kept: int = KEPT
    every: int = 1
    rounds: int | None = None
    also: frozenset[int] = frozenset()
    has_common_marks: bool = True
    resumed: int = 0
    trains: bool = True

    def is_due(self, round: int) -> bool:
        """Whether a round's checkpoint is saved."""
        if self.rounds is not None and round > self.rounds:
            return False
        return not self.has_common_marks or round % self.every == 0 or round == self.rounds or round in self.also

    def outdated(self, before: Sequence[int], round: int) -> list[int]:
        """Rounds before `round` whose checkpoints can go now that it is saved.

        `before`: those that are there, ascending. Up to the oldest that stays nothing has a gap, so that all peers have
        a round in common, also where another number of rounds lay between two checkpoints before.
        """
        if self.every == 1:
            return list(before[: max(len(before) + 1 - self.kept, 0)])
        if not self.has_common_marks:
            stays = {before[place - 1] for mark in self._marks(round) if (place := bisect.bisect(before, mark))}
            return [number for number in before if number not in stays]
        marks = [number for number in (*before, round) if number % self.every == 0]
        return [] if len(marks) < self.kept else [number for number in before if number < marks[-self.kept]]

    def _marks(self, round: int) -> list[int]:
        """Rounds before `round` to which a coordinator may go back."""
        newest = (round - 1) // self.every * self.every
        return [newest, newest - self.every, min(self.resumed, round - 1)]


EACH_ROUND = CheckpointPlan()
