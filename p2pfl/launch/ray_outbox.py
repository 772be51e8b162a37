"""Outbox of a worker on a Ray cluster: reports and changed files, in answers.

Answers are numbered. One that got lost on its way, as when a node could not be reached for a moment, is asked for
again, and is then the same: no report and no part of a file is missed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass, field

from p2pfl.launch.ray_files import PrivateFolder
from p2pfl.node import messages
from p2pfl.node.control import EXIT_FAILED, ReportQueue
from p2pfl.run.mirror import Piece

# Of the reports of one answer, after which none is added. With a piece of a file and one more report (a sketch has 16
# KiB) an answer stays below 100 KiB, beyond which Ray would put it into its object store.
_BATCH_BYTES = 8 << 10
_LOOK_SECONDS = 0.5  # between two looks for changed files


@dataclass(frozen=True)
class Place:
    """Place of an actor: its node, the node's address, its process id."""

    node: str
    host: str
    pid: int


@dataclass(frozen=True)
class Answer:
    """Encoded reports since the last answer, and the exit status once none follow.

    `wants_files`: number of the next batch of the launcher's files, where the node does not share the run directory and
    the worker waits for them. `pieces`: what it has written there. `is_over`: the worker has ended, and only such
    pieces follow.
    """

    place: Place
    reports: list[bytes]
    status: int | None
    wants_files: int | None = None
    pieces: list[Piece] = field(default_factory=list)
    is_over: bool = False


class Outbox:
    """Reports of a worker, and the changes in its private folder, if it has one.

    `status`: the exit status, which is to be set before the end of the reports.
    """

    def __init__(self, place: Place, folder: PrivateFolder | None) -> None:
        self.reports = ReportQueue()
        self.status = EXIT_FAILED
        self._place = place
        self._folder = folder
        self._is_over = False  # all reports have been taken
        self._wanted: int | None = -1  # the batch of files that was asked for last
        self._lock = threading.Lock()
        self._number = -1
        self._last = Answer(place, [], None)

    def take(self, number: int, seconds: float) -> Answer:
        """Answer of this number; a new one waits up to `seconds` for the first report."""
        with self._lock:  # an earlier call for the same answer may be waiting still
            if number != self._number:
                self._number, self._last = number, self._next(seconds)
            return self._last

    def _next(self, seconds: float) -> Answer:
        folder = self._folder
        if folder is None:
            reports = self._take_reports(seconds)
            return Answer(self._place, reports, self.status if self._is_over else None, is_over=self._is_over)
        if self._wanted is not None:
            self._wanted = folder.wanted(self._wanted, _LOOK_SECONDS)
        was_over, pieces = self._is_over, folder.changes()
        if not was_over:
            is_waiting = not pieces and self._wanted is None
            reports = self._take_reports(min(seconds, _LOOK_SECONDS) if is_waiting else 0.0)
            pieces = pieces or folder.changes()  # what was written before a report comes with it
            return Answer(self._place, reports, None, self._wanted, pieces, self._is_over)
        if pieces:
            return Answer(self._place, [], None, None, pieces, True)
        folder.close()
        return Answer(self._place, [], self.status, is_over=True)

    def _take_reports(self, seconds: float) -> list[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            while sum(map(len, found)) < _BATCH_BYTES and not self._is_over:
                report = self.reports.take(0.0 if found else seconds)
                if report is None:
                    self._is_over = True
                else:
                    found.append(messages.encode(report))
        return found
