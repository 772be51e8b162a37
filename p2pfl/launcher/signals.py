"""Ctrl-C and SIGTERM while a launch is under way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupts:
    """What Ctrl-C and SIGTERM do for a while: SIGTERM what Ctrl-C does, and nothing in the middle of what is whole."""

    def __init__(self) -> None:
        self._before: dict[int, signal._HANDLER] = {}
        self._shielded = False
        self._pending: Callable[[], object] | None = None

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.getsignal(number)
        interrupt = self._before[signal.SIGINT]
        if callable(interrupt):  # SIGINT stays ignored where the caller (nohup, say) has it ignored
            signal.signal(signal.SIGINT, self._handler(interrupt))
        signal.signal(signal.SIGTERM, self._handler(_interrupt))

    def _handler(self, handle: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
        def handler(number: int, frame: FrameType | None) -> None:
            if self._shielded and self._pending is None:
                self._pending = lambda: handle(number, None)
            else:
                handle(number, frame)

        return handler

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Let an interrupt wait until the end of this: half a message read is a stream that nobody can read on.

        A second one does not wait, in case that this never ends. Not to be nested.
        """
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
            pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def hold(self) -> None:
        """Ignore both from now on."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """SIGTERM ends a run as Ctrl-C does, until `hold`: from then on both are ignored. Signals reach the main thread."""
    interrupts = Interrupts()
    if threading.current_thread() is threading.main_thread():
        interrupts.install()
    try:
        yield interrupts
    finally:
        interrupts.restore()
