"""Virtual compute: real work that takes virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from p2pfl.sim.clock import VirtualClock
from p2pfl.training import EvalStats, TrainStats


class Killed(BaseException):
    """A simulated process is killed, so many seconds after the work began that it did.

    It derives from BaseException because it is no error that anything but the simulator may handle.
    """

    def __init__(self, after: float = 0.0) -> None:
        super().__init__("killed")
        self.after = after


class VirtualCompute:
    """Compute port of a simulated process.

    Work runs when it is submitted; its result is available later.
    """

    def __init__(self, clock: VirtualClock, train_seconds: float = 0.0, disk_seconds: float = 0.0) -> None:
        """`train_seconds`: virtual time of a training; `disk_seconds`: of a task aside."""
        self._clock = clock
        self._train_seconds = train_seconds
        self._disk_seconds = disk_seconds
        self._waiting: list[tuple[float, Future[Any]]] = []
        self._aside: tuple[float, Callable[[], None], Future[None]] | None = None

    @property
    def next_result(self) -> float:
        """Time of the next result; infinity if nothing was submitted."""
        aside = math.inf if self._aside is None else self._aside[0]
        return min([aside, *(when for when, _ in self._waiting)])

    def submit(self, work: Callable[[], Any]) -> None:
        future: Future[Any] = Future()
        seconds = 0.0
        try:
            result = work()
        except Exception as error:
            future.set_exception(error)
        except Killed as end:
            future.set_exception(end)
            seconds = end.after
        else:
            if isinstance(result, TrainStats):
                seconds = self._train_seconds
                result = replace(result, seconds=seconds)
            elif isinstance(evaluation := getattr(result, "evaluation", None), EvalStats):
                result = replace(result, evaluation=replace(evaluation, seconds=0.0))
            future.set_result(result)
        self._waiting.append((self._clock.now() + seconds, future))

    @property
    def is_behind(self) -> bool:
        """Whether a task aside is not done yet."""
        return self._aside is not None

    def submit_aside(self, work: Callable[[], None]) -> Future[None]:
        """Do the work when its time is over; a process killed before has not done it."""
        future: Future[None] = Future()
        self._aside = (self._clock.now() + self._disk_seconds, work, future)
        if self._disk_seconds == 0.0:
            self.finish_aside()
        return future

    def finish_aside(self) -> None:
        if self._aside is None:
            return
        _, work, future = self._aside
        self._aside = None
        try:
            work()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    def finished(self) -> list[Future[Any]]:
        now = self._clock.now()
        if self._aside is not None and self._aside[0] <= now:
            self.finish_aside()
        due = [future for when, future in self._waiting if when <= now]
        self._waiting = [(when, future) for when, future in self._waiting if when > now]
        return due

    def postpone(self, seconds: float) -> None:
        """Delay all results, since the process has not run for so long."""
        self._waiting = [(when + seconds, future) for when, future in self._waiting]

    def close(self) -> None:
        self._waiting.clear()
