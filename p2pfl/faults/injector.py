"""Fault injection into the own process: kills and pauses at points of rounds."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from p2pfl.faults import FaultScript, Kill, Pause, Point
from p2pfl.util.files import opener, read_if_any, replace_file


def fired(path: Path) -> list[int]:
    """Numbers of the faults that were carried out on a process, from its file.

    Those before a restart are among them. Words that are no numbers are skipped. Raises UnreadableError.
    """
    words = read_if_any(path).split()
    return [int(word) for word in words if word.isdigit() and len(word) < 10]


class FaultInjector:
    """Kills and pauses of one process, each of which fires once, restarts included."""

    def __init__(
        self,
        script: FaultScript,
        index: int,
        path: Path,
        inject: Callable[[Kill | Pause], None] | None = None,
    ) -> None:
        """`inject` kills or pauses the process, by default with a signal."""
        done = set(fired(path))
        self._inject = inject or _signal_this_thread
        self._path = path
        self._waiting: list[tuple[int, Kill | Pause]] = [item for item in script.of(index) if item[0] not in done]

    def reach(self, point: Point, round: int) -> None:
        """Carry out the faults of this point, from which the process may not return."""
        for item in list(self._waiting):
            number, fault = item
            if (fault.at, fault.round) == (point, round):
                self._waiting.remove(item)
                with open(self._path, "a", encoding="ascii", opener=opener) as file:
                    file.write(f"{number}\n")
                    file.flush()
                    os.fsync(file.fileno())
                self._inject(fault)

    def waits_for(self, point: Point, round: int) -> bool:
        """Return whether a fault is due at this point."""
        return any((fault.at, fault.round) == (point, round) for _, fault in self._waiting)

    def amid(self, point: Point, round: int, steps: int, stopped: Callable[[], bool]) -> Callable[[], bool]:
        """Function to call after each step of some work instead of `stopped`.

        The last of so many `steps` reaches the point.
        """
        left = steps if self.waits_for(point, round) else 0

        def step() -> bool:
            nonlocal left
            left -= 1
            if left == 0:
                self.reach(point, round)
            return stopped()

        return step


def forget(path: Path, numbers: Collection[int]) -> None:
    """Let faults of a process happen again. Raises OSError, UnreadableError."""
    left = [number for number in fired(path) if number not in numbers]
    replace_file(path, b"".join(b"%d\n" % number for number in left))


def _signal_this_thread(fault: Kill | Pause) -> None:
    """Signal this thread, which stops at once.

    A signal to the process may reach another thread first.
    """
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL if isinstance(fault, Kill) else signal.SIGSTOP)
