"""Progress over several runs, as of a comparison: a bar, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from p2pfl.model.sketches import Vector
from p2pfl.run.records import RoundRecord
from p2pfl.util.units import clock_text, counted

_BAR_WIDTH = 40


@dataclass
class _Current:
    """Run in progress: its samples, those of a step, the steps of its processes."""

    samples: int
    batch_size: int
    is_resumed: bool
    steps: dict[int, int]
    before: int = 0  # samples of an earlier call, where it is resumed

    @property
    def done(self) -> int:
        return min(sum(self.steps.values()) * self.batch_size, self.samples)


class OverallProgress:
    """Runs and samples done of all, an observer of each launch in turn.

    Its methods are cheap. The time left is that of the samples left at the speed since the first run of this process.
    """

    def __init__(self, samples: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._runs = len(samples)
        self._total = sum(samples)
        self._clock = clock
        self._began: float | None = None
        self._runs_done = 0
        self._passed = 0  # samples of runs that are over
        self._worked = 0  # of these, those processed by this process's runs
        self._current: _Current | None = None

    def begin(self, samples: int, batch_size: int, resumed: bool) -> None:
        """Begin or resume a run that will have processed so many samples."""
        if self._began is None:
            self._began = self._clock()
        self._current = _Current(samples, batch_size, resumed, {})

    def end(self, samples: int, is_complete: bool = True) -> None:
        """End a run of so many samples, or pass over one that need not be run.

        One that is not complete has diverged, and processed fewer.
        """
        self._runs_done += 1
        self._passed += samples
        if self._current is not None:
            self._worked += (samples if is_complete else self._current.done) - self._current.before
            self._current = None

    @property
    def samples(self) -> int:
        """Samples done."""
        return self._passed + (0 if self._current is None else self._current.done)

    def seconds_left(self) -> float | None:
        """Seconds left; None before the first samples."""
        current = self._current
        worked = self._worked + (0 if current is None else current.done - current.before)
        if self._began is None or worked <= 0:
            return None
        return (self._total - self.samples) * (self._clock() - self._began) / worked

    def text(self) -> str:
        """Runs done of all, and the time left, such as 3 of 8 runs, about 1:30 left."""
        seconds = self.seconds_left()
        left = "" if seconds is None or self._runs_done == self._runs else f", about {clock_text(seconds)} left"
        return f"{self._runs_done} of {counted(self._runs, 'run')}{left}"

    def render(self) -> RenderableType:
        """One line with a bar, for the live part of a terminal."""
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self._total, 1), completed=self.samples, width=_BAR_WIDTH)
        line.add_row("all runs", bar, f"{self.samples:,} of {self._total:,} samples, {self.text()}")
        return line

    # As an observer

    def step(self, peer: int, steps: int) -> None:
        """Note the optimizer steps that a process has done so far."""
        current = self._current
        if current is None:
            return
        if current.is_resumed and peer not in current.steps:  # its first report counts what was done before
            current.before += steps * current.batch_size
        current.steps[peer] = max(steps, current.steps.get(peer, 0))

    def round(self, peer: int, record: RoundRecord, sketch: Vector) -> None:
        """Note the steps of a finished round."""
        self.step(peer, record.steps)

    def info(self, text: str) -> None:
        """Ignore a line."""

    def warn(self, text: str) -> None:
        """Ignore a line."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Ignore a preparation."""

    def expect(self, steps_per_peer: int, consensus_rounds: int) -> None:
        """Ignore the steps of the whole run, which are known."""
