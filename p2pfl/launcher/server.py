"""The fork server that workers start from, and its end.

It has only imported the heavy libraries, so a peer forked from it starts in a moment and shares their memory. It
runs no tensor operation and opens no ZeroMQ context: threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver, process, resource_tracker
from typing import Any

from p2pfl.errors import ConfigError

PRELOADED = ["torch", "torchvision", "zmq", "networkx", "safetensors.torch", "p2pfl.worker.process"]


@contextlib.contextmanager
def fork_server() -> Iterator[None]:
    """While it lasts, `start` forks from a server that has imported `PRELOADED`; ends the server afterwards.

    Raises ConfigError in a process that is itself a starting worker, which happens when a script calls the API
    without `if __name__ == "__main__":`.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise ConfigError('call run_swarm under `if __name__ == "__main__":`, since every peer imports your script')
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        # The server and all workers inherit the blocked signals: Ctrl-C cannot hit one before it is ready for it.
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        yield
    finally:
        # Both would outlive this process by seconds. Python stops them itself, but only in its own tests.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def start(name: str, target: Callable[..., None], *arguments: Any) -> tuple[process.BaseProcess, connection.Connection]:
    """Start `target(*arguments, link)` in a new process; returns it and this end of the link."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    worker = context.Process(name=name, target=target, args=(*arguments, theirs))
    worker.start()
    theirs.close()
    return worker, ours


def exit_text(ended: process.BaseProcess) -> str:
    """How a process ended, in words."""
    code = ended.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"exit status {code}"
