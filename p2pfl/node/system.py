"""Ports of a real process: system time, training thread, pipe and log file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

from p2pfl.node import messages


class SystemClock:
    """The operating system's steady clock."""

    def now(self) -> float:
        return time.monotonic()


class ThreadCompute:
    """Thread that computes while the calling thread exchanges messages."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake` is called in the thread when a task has finished."""
        self._wake = wake
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="trainer")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="saver")  # its thread is started when there is work
        self._last_aside: Future[None] | None = None
        self._results: SimpleQueue[Future[Any]] = SimpleQueue()

    def submit(self, work: Callable[[], Any]) -> None:
        self._executor.submit(work).add_done_callback(self._finished)

    def submit_aside(self, work: Callable[[], None]) -> Future[None]:
        self._last_aside = future = self._aside.submit(work)
        future.add_done_callback(lambda _: self._wake())
        return future

    def finish_aside(self) -> None:
        if (last := self._last_aside) is not None:
            last.exception()

    def finished(self) -> list[Future[Any]]:
        found: list[Future[Any]] = []
        try:
            while True:
                found.append(self._results.get_nowait())
        except Empty:
            return found

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._aside.shutdown()

    def _finished(self, future: Future[Any]) -> None:
        self._results.put(future)
        self._wake()


class LogReporter:
    """Reports to a launcher and a log."""

    def __init__(self, report: messages.Report, log: logging.Logger) -> None:
        self._report = report
        self._log = log

    def send(self, message: messages.FromWorker) -> None:
        self._report(message)

    def info(self, text: str) -> None:
        self._log.info("%s", text)

    def warn(self, text: str, matters: bool = True) -> None:
        self._log.warning("%s", text)
        if matters:
            self._report(messages.Warned(text))
