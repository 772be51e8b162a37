"""Carries out on its own process what a fault script says: kills and freezes it at named points of its rounds."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from p2pfl.faults import FaultScript, Kill, Pause, Point
from p2pfl.util.files import opener, read_if_any


def fired(path: Path) -> list[int]:
    """Numbers of the faults that have been carried out on a process, before restarts too, as its file says.

    What is no number is skipped. Raises UnreadableError.
    """
    words = read_if_any(path).split()
    return [int(word) for word in words if word.isdigit() and len(word) < 10]


class Saboteur:
    """The kills and pauses of one process. Each fires once, whatever is started again or resumed afterwards."""

    def __init__(self, script: FaultScript, index: int, path: Path) -> None:
        done = set(fired(path))
        self._path = path
        self._waiting: list[tuple[int, Kill | Pause]] = [item for item in script.of(index) if item[0] not in done]

    def reach(self, point: Point, round: int) -> None:
        """The process is at this point; it may not come back from here, or much later."""
        for item in list(self._waiting):
            number, fault = item
            if (fault.at, fault.round) == (point, round):
                self._waiting.remove(item)
                with open(self._path, "a", encoding="ascii", opener=opener) as file:
                    file.write(f"{number}\n")
                    file.flush()
                    os.fsync(file.fileno())
                # To this thread, which goes no step further then; one to the process may reach another thread first.
                number_of = signal.SIGKILL if isinstance(fault, Kill) else signal.SIGSTOP
                signal.pthread_kill(threading.get_ident(), number_of)

    def waits_for(self, point: Point, round: int) -> bool:
        """Whether something is to happen at this point."""
        return any((fault.at, fault.round) == (point, round) for _, fault in self._waiting)
