"""The fork server that workers start from, and its end.

It has only imported the heavy libraries, so a peer forked from it starts in a moment and shares their memory. It
runs no tensor operation and opens no ZeroMQ context: threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver, process, resource_tracker
from typing import Any

from p2pfl.errors import ConfigError, P2PFLError

PRELOADED = ["torch", "torchvision", "zmq", "networkx", "safetensors.torch", "p2pfl.worker.process", "p2pfl.estimate"]


@contextlib.contextmanager
def fork_server() -> Iterator[None]:
    """While it lasts, `start` forks from a server that has imported `PRELOADED`; ends the server afterwards.

    Raises ConfigError where TMPDIR is too long for a socket's path, and in a process that is itself a starting
    worker, which happens when a script calls the API without `if __name__ == "__main__":`.
    """
    if getattr(process.current_process(), "_inheriting", False):
        raise ConfigError('call run_swarm under `if __name__ == "__main__":`, since every peer imports your script')
    try:
        _start_server()
        yield
    finally:
        _end_server()


def _start_server() -> None:
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # the fork server would start it, and that unblocks the signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        # The server and all workers inherit the blocked signals: Ctrl-C cannot hit one before it is ready for it.
        forkserver.ensure_running()
    except OSError as error:
        if "too long" not in str(error):
            raise
        raise ConfigError(
            f"TMPDIR {tempfile.gettempdir()}: too long a path for sockets; set TMPDIR to a shorter one, such as /tmp"
        ) from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_server() -> None:
    """End what would outlive this process by seconds. Python can stop both, but does so only in its own tests."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)  # it may still be importing, which nobody waits for any more
    server._stop()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def start(name: str, target: Callable[..., None], *arguments: Any) -> tuple[process.BaseProcess, connection.Connection]:
    """Start `target(*arguments, link)` in a new process; returns it and this end of the link.

    Raises P2PFLError where the system has no room for another one.
    """
    context = multiprocessing.get_context("forkserver")
    try:
        ours, theirs = context.Pipe()
        worker = context.Process(name=name, target=target, args=(*arguments, theirs))
        worker.start()
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise P2PFLError(f"no process can be started ({why}); see what `ulimit -a` allows, or take fewer") from None
    theirs.close()
    return worker, ours


def exit_text(ended: process.BaseProcess) -> str:
    """How a process ended, in words."""
    code = ended.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"exit status {code}"
