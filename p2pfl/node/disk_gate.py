"""Gate before a round's exchange: the checkpoint of the round before is on disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from p2pfl.node.ports import Compute
from p2pfl.training import TrainStats


class DiskGate:
    """Holds back the result of a training until the last checkpoint is on disk.

    So the wait for the disk overlaps with training, and whatever a neighbor has of this peer comes from a round whose
    predecessor outlasts a power cut: neighbors are never further apart on disk than in rounds.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._saving: Future[None] | None = None
        self._held: TrainStats | None = None

    def save(self, rest: Callable[[], None]) -> None:
        """Begin to wait for the disk; the wait before is over, or is awaited.

        Raises CheckpointError of the checkpoint before.
        """
        if self._saving is not None:
            self._saving.result()
        self._saving = self._compute.submit_aside(rest)

    def finish(self) -> None:
        """Wait until all is on disk. Raises CheckpointError where that failed."""
        if self._saving is not None:
            self._saving.result()

    def hold(self, trained: TrainStats) -> None:
        """Take the result of a training."""
        self._held = trained

    def release(self) -> TrainStats | None:
        """The held result, once all is on disk. Raises CheckpointError where that failed."""
        if self._saving is not None and self._saving.done():
            self._saving.result()
            self._saving = None
        held = self._held if self._saving is None else None
        self._held = None if held is not None else self._held
        return held
