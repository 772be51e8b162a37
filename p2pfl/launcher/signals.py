"""Interruptions of a launch: Ctrl-C, and the other signals by which a terminal or a service manager ends it."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from p2pfl.worker.messages import SIGNALS

_Handler = Callable[[int, FrameType | None], object]
SAME_INTERRUPT_SECONDS = 1.0  # signals this close to an interrupt belong to it, as from an impatient hand


class Interrupts:
    """Handles SIGTERM, SIGHUP and SIGQUIT as Ctrl-C, and none of them in the middle of what must stay whole."""

    def __init__(self) -> None:
        self._before: dict[int, signal._HANDLER] = {}
        self._shielded = False
        self._pending: Callable[[], object] | None = None
        self._held: Callable[[], object] | None = None
        self._interrupted = -math.inf  # when the last one came

    def install(self) -> None:
        """Handle the signals from now on, in the main thread only. Those that the caller ignores stay ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in sorted(SIGNALS):
            before = signal.getsignal(number)
            if before is signal.SIG_IGN or before is None:  # nohup, say
                continue
            self._before[number] = before
            handle = before if callable(before) and number == signal.SIGINT else _interrupt
            signal.signal(number, self._handler(handle))

    def _handler(self, handle: _Handler) -> Callable[[int, FrameType | None], None]:
        def handler(number: int, frame: FrameType | None) -> None:
            now = time.monotonic()
            if now <= self._interrupted + SAME_INTERRUPT_SECONDS:
                return
            self._interrupted = now
            if self._held is not None:
                self._held()
            elif self._shielded and self._pending is None:
                self._pending = lambda: handle(number, None)
            else:
                handle(number, frame)

        return handler

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Defer an interrupt to the end of this: half a message read is a stream that nobody can read on.

        A second one that does not belong to the first does not wait, in case this never ends. Not to be nested.
        """
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
            pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def hold(self, on_signal: Callable[[], object]) -> None:
        """Interrupt nothing from now on: a signal calls `on_signal`, unless it belongs to the one before."""
        self._held = on_signal

    def restore(self) -> None:
        """Put the caller's handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Let SIGTERM, SIGHUP and SIGQUIT end a run as Ctrl-C does. Signals reach the main thread only."""
    interrupts = Interrupts()
    interrupts.install()
    try:
        yield interrupts
    finally:
        interrupts.restore()
