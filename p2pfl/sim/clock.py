"""Virtual time."""

from __future__ import annotations


class VirtualClock:
    """A clock that moves only when the simulator says so. Seconds, from 0."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance(self, to: float) -> None:
        """Move to a later moment; an earlier one changes nothing."""
        self._now = max(self._now, to)
