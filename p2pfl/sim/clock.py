"""Virtual clock of a simulation."""

from __future__ import annotations


class VirtualClock:
    """Clock that only the simulator moves. Seconds, from 0."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance(self, to: float) -> None:
        """Move to a later time; an earlier one changes nothing."""
        self._now = max(self._now, to)
