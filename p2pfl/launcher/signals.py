"""Ctrl-C and SIGTERM while a launch is under way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """SIGTERM ends a run as Ctrl-C does, until the given function is called: from then on both are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def hold() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    # SIGINT keeps its handler, and stays ignored where the caller (nohup, say) has it ignored.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield hold
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
