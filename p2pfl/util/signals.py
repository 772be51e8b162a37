"""Interruptions: Ctrl-C and other signals of a terminal or a service manager."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED = 130  # the exit status
# Signals that end a process group, such as Ctrl-C's. Workers start with these blocked, so that none comes too early,
# and handle only SIGTERM: the launcher decides what becomes of the run.
SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
SAME_INTERRUPT_SECONDS = 1.0  # signals this close to an interrupt belong to it, as from an impatient hand

_Handler = Callable[[int, FrameType | None], object]
_current: Interrupts | None = None


class Interrupts:
    """Handlers of SIGTERM, SIGHUP and SIGQUIT as Ctrl-C, deferred in shielded parts."""

    def __init__(self) -> None:
        self.came = False  # whether an interrupt has been raised
        self._before: dict[int, signal._HANDLER] = {}
        self._shields = 0
        self._pending: Callable[[], object] | None = None
        self._held: Callable[[], object] | None = None
        self._interrupted = -math.inf  # when the last one came

    def install(self) -> None:
        """Handle the signals from now on, in the main thread only.

        Those that the caller ignores stay ignored.
        """
        for number in sorted(SIGNALS):
            before = signal.getsignal(number)
            if before is signal.SIG_IGN or before is None:  # nohup, say
                continue
            self._before[number] = before
            own = callable(before) and number == signal.SIGINT and before is not _end  # a script's, for Ctrl-C
            handle: _Handler = before if own and callable(before) else _interrupt
            signal.signal(number, self._handler(handle))

    def _handler(self, handle: _Handler) -> Callable[[int, FrameType | None], None]:
        def handler(number: int, frame: FrameType | None) -> None:
            def interrupt() -> None:
                self.came = True
                handle(number, frame)

            now = time.monotonic()
            if now <= self._interrupted + SAME_INTERRUPT_SECONDS:
                return
            self._interrupted = now
            if self._held is not None:
                self._held()
            elif self._shields and self._pending is None:
                self._pending = interrupt
            else:
                interrupt()

        return handler

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Defer an interrupt to the end of the block.

        An interrupt within a message would make the rest of the stream unreadable. A second one that does not belong to
        the first does not wait, in case this never ends.
        """
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            pending = None
            if not self._shields:
                pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def hold(self, on_signal: Callable[[], object]) -> None:
        """Call `on_signal` for a signal instead of interrupting.

        A signal that belongs to the one before is ignored.
        """
        self._held = on_signal

    def release(self) -> None:
        """End `hold`: signals interrupt again."""
        self._held = None

    def restore(self) -> None:
        """Restore the caller's handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Let SIGTERM, SIGHUP and SIGQUIT interrupt the block as Ctrl-C does.

    Signals reach the main thread only. Within another `interruptible` it is that one's, so that no signal falls between
    two of them.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield Interrupts()
        return
    if _current is not None:
        try:
            yield _current
        finally:
            _current.release()
        return
    interrupts = Interrupts()
    try:
        interrupts.install()
        _current = interrupts
        yield interrupts
    finally:
        _current = None
        interrupts.restore()


def shielded() -> contextlib.AbstractContextManager[None]:
    """Defer an interrupt to the end of the block; see `Interrupts.shielded`."""
    if _current is None or threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext()
    return _current.shielded()


def interrupt_from_now_on() -> None:
    """Let the signals interrupt until this process, a command, ends."""
    global _current
    _current = Interrupts()
    _current.install()


def interrupted() -> bool:
    """Return whether an interrupt has been raised.

    A library may have turned it into another exception.
    """
    return _current is not None and _current.came


def end_at_once() -> None:
    """End this process on a signal with one line, while there is nothing to save.

    An exception that is raised amid an import can get lost, or come out as another one.
    """
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(*_: object) -> None:
    with contextlib.suppress(OSError):  # not `print`, which may be what the signal has interrupted
        os.write(2, b"p2pfl: interrupted before anything was written\n")
    os._exit(INTERRUPTED)


def ignore_all() -> None:
    """Ignore the signals from now on, while Python exits."""
    global _current
    _current = None
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
