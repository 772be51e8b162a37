"""Tasks of a driver on its compute port, one at a time, and their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from p2pfl.errors import Interrupted
from p2pfl.node.ports import Compute
from p2pfl.training import Stopped


class Tasks:
    """Tasks in progress and finished.

    `is_busy`: the compute port has work. One that has nothing to do is skipped: two changes of threads would take
    longer than the rest of an exchange of small vectors.
    """

    def __init__(self, compute: Compute) -> None:
        self.is_busy = False
        self._compute = compute
        self._skipped: deque[Any] = deque()  # results

    def submit(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Start a task; the previous one has finished."""
        self.is_busy = True
        self._compute.submit(lambda: work(*arguments))

    def skip(self, result: Any) -> None:
        """Have a task's result without the compute port."""
        self._skipped.append(result)

    @property
    def has_skipped(self) -> bool:
        """Whether there are results that no thread will wake the driver for."""
        return bool(self._skipped)

    def results(self) -> Iterator[Any]:
        """Results of tasks that have finished, and of those skipped meanwhile.

        Raises what they do, Interrupted where they were stopped.
        """
        for future in self._compute.finished():
            self.is_busy = False
            try:
                yield future.result()
            except Stopped as error:
                raise Interrupted(str(error)) from None
        while self._skipped:
            yield self._skipped.popleft()

    def close(self) -> None:
        """Wait for the running task, and start no other."""
        self._compute.close()
