"""Control of a worker: reports to its launcher, and the launcher's orders."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import connection, parent_process

from p2pfl.errors import Interrupted, TransportError
from p2pfl.node import messages

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
_WAITING_REPORTS = 256
_BATCH_REPORTS = 64  # reports of progress that wait at most for others
BATCH_SECONDS = 0.25  # between two batches of reports of progress
_ORPHAN_SECONDS = 4.0  # a worker whose launcher is gone ends within 5 s, whatever it is doing


class ReportQueue:
    """Reports that wait for the launcher, so that a slow one delays no worker."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[messages.FromWorker | None] = queue.SimpleQueue()

    def __call__(self, message: messages.FromWorker) -> None:
        # A round is in the peer's own files all the same.
        if not messages.is_progress(message) or len(self) < _WAITING_REPORTS:
            self._waiting.put(message)

    def __len__(self) -> int:
        return self._waiting.qsize()

    def end(self) -> None:
        """Say that no report follows."""
        self._waiting.put(None)

    def take(self, seconds: float | None = None) -> messages.FromWorker | None:
        """Next report, or None after the last one.

        Raises queue.Empty after so many seconds without any.
        """
        return self._waiting.get(timeout=seconds)


class LinkReport:
    """Reports to the launcher over a pipe, from a thread.

    Reports of progress that follow each other within `seconds` travel together: with rounds of some milliseconds the
    launcher would otherwise take as much of the cores as a peer.
    """

    def __init__(self, link: connection.Connection, seconds: float = BATCH_SECONDS) -> None:
        self._link = link
        self._seconds = seconds
        self._waiting = ReportQueue()
        self._hurry = threading.Event()  # what waits is to be sent now
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def __call__(self, message: messages.FromWorker) -> None:
        self._waiting(message)
        if not messages.is_progress(message) or len(self._waiting) >= _BATCH_REPORTS:
            self._hurry.set()

    def close(self) -> None:
        """Send the reports that are waiting, for two seconds at most."""
        self._waiting.end()
        self._hurry.set()
        self._thread.join(timeout=2.0)

    def _send(self) -> None:
        sent = -math.inf
        try:
            while (first := self._waiting.take()) is not None:
                self._hurry.wait(max(0.0, sent + self._seconds - time.monotonic()))
                self._hurry.clear()  # what comes from now on is taken with the others, or sets it again
                reports, is_last = self._taken(first)
                self._link.send_bytes(messages.encode(reports[0] if len(reports) == 1 else messages.Batch(reports)))
                if is_last:
                    return
                sent = time.monotonic()
        except OSError:
            return  # a lost link alone changes nothing

    def _taken(self, first: messages.FromWorker) -> tuple[list[messages.FromWorker], bool]:
        """The first report and those that wait after it; whether none will follow."""
        reports: list[messages.FromWorker] = [first]
        with contextlib.suppress(queue.Empty):
            while (report := self._waiting.take(0.0)) is not None:
                reports.append(report)
            return messages.without_outdated(reports), True
        return messages.without_outdated(reports), False


class Control:
    """Orders to a worker from its launcher: endpoints, to hold the model, to stop."""

    def __init__(self) -> None:
        self.endpoints: queue.SimpleQueue[dict[int, str] | None] = queue.SimpleQueue()
        self.holds_model = False  # ordered by the launcher since the start
        self._on_stop: Callable[[], None] | None = None
        self._on_move: Callable[[Mapping[int, str]], None] | None = None
        self._moves = threading.Lock()
        self.is_orphan = False  # the launcher is gone
        self._stopped = False  # no Event: its lock could be held when a signal handler sets it

    def stop(self) -> None:
        """Ask the worker to end; from any thread or signal handler."""
        self._stopped = True
        self.endpoints.put(None)
        if self._on_stop is not None:
            self._on_stop()

    def attach(self, stop: Callable[[], None], move: Callable[[Mapping[int, str]], None] | None = None) -> None:
        """Let `stop` stop the worker from now on, and `move` take further endpoints."""
        self._on_stop = stop
        with self._moves:
            self._on_move = move
            while move is not None and not self.endpoints.empty():
                move(self.endpoints.get() or {})
        if self._stopped:
            stop()

    def wait_for_endpoints(self, seconds: float) -> dict[int, str]:
        """Endpoints of the neighbors, which the launcher sends once every peer is ready.

        Raises Interrupted, TransportError.
        """
        try:
            endpoints = self.endpoints.get(timeout=seconds)
        except queue.Empty:
            raise TransportError(f"the other peers were not ready within {seconds:.0f} s (--start-timeout)") from None
        if endpoints is None:
            raise Interrupted("stopped")
        return endpoints

    def obey(self, order: messages.ToWorker) -> None:
        """Carry out an order of the launcher; from any thread or signal handler."""
        if isinstance(order, messages.Stop):
            self.stop()
        elif isinstance(order, messages.HoldModel):
            self.holds_model = True
        else:
            with self._moves:
                (self._on_move or self.endpoints.put)(order.endpoints)

    def listen(self, link: connection.Connection) -> None:
        """Obey orders from the link, in a separate thread; its end alone changes nothing."""
        try:
            while True:
                self.obey(messages.receive_order(link))
        except EOFError:
            return

    def watch_parent(self, clean_up: Callable[[], None]) -> None:
        """End this process soon after its launcher's; in a separate thread.

        `clean_up` is called before such an end.
        """
        parent = parent_process()
        if parent is None:
            return
        connection.wait([parent.sentinel])
        self.is_orphan = True
        self.stop()
        threading.Event().wait(_ORPHAN_SECONDS)
        clean_up()
        os._exit(EXIT_INTERRUPTED)
