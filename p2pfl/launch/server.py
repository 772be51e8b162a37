"""Fork server that workers start from, and handles of the processes forked from it.

The server has only imported the heavy libraries, so a peer forked from it starts in a moment and shares their memory.
It runs no tensor operation and opens no ZeroMQ context: threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver, process, resource_tracker
from pathlib import Path
from typing import Any

from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.launch.child import Child
from p2pfl.util.signals import SIGNALS, shielded
from p2pfl.util.tempdir import TemporaryFolder

_END_SECONDS = 2.0  # that a helper process gets to end by itself

_current: ForkServer | None = None


class ForkServer:
    """Starts processes; a server that was killed is replaced by the next start."""

    def __init__(self, folder: TemporaryFolder) -> None:
        self.folder = folder

    def start(self, name: str, target: Callable[..., None], *arguments: Any) -> tuple[Child, connection.Connection]:
        """Start `target(*arguments, link)` in a new process; returns it and this end of the link.

        Raises P2PFLError where the system has no room for another process, ConfigError where TMPDIR is gone, or too
        long for a socket's path.
        """
        self.folder.ensure()  # its own troubles are no reason to replace a server
        try:
            return self._start(name, target, arguments)
        except (OSError, EOFError) as error:
            if not _is_broken(error):
                raise _no_process(error) from None
        stop_server()
        try:
            return self._start(name, target, arguments)
        except (OSError, EOFError) as error:
            raise _no_process(error) from None

    def _start(
        self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]
    ) -> tuple[Child, connection.Connection]:
        start_server(self.folder.path)
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        with theirs:
            try:
                worker = context.Process(name=name, target=target, args=(*arguments, theirs))
                worker.start()
            except BaseException:
                ours.close()
                raise
        return Child(worker), ours


def _is_broken(error: OSError | EOFError) -> bool:
    """Whether the fork server was killed (and somebody has waited for it), or its socket removed with the folder."""
    return isinstance(error, EOFError | ConnectionError | FileNotFoundError | ChildProcessError)


def _no_process(error: OSError | EOFError) -> P2PFLError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return P2PFLError(f"no process can be started ({why}); see what `ulimit -a` allows, or take fewer")


@contextlib.contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Provide a fork server, which starts with the first process; within another `fork_server` it is that one's.

    So one server serves all runs of a comparison, or all tests of a session. It ends with the outermost use.

    Raises ConfigError where the temporary folder cannot be written, and in a process that is itself a starting worker,
    which happens when a script calls the API without `if __name__ == "__main__":`.
    """
    global _current
    if getattr(process.current_process(), "_inheriting", False):
        raise ConfigError('call run_swarm under `if __name__ == "__main__":`, since every peer imports your script')
    if _current is not None:
        yield _current
        return
    folder: TemporaryFolder | None = None
    try:
        with shielded():
            folder = TemporaryFolder()
        _current = ForkServer(folder)
        yield _current
    finally:
        with shielded():
            _current = None
            stop_server()
            _stop_tracker()
            if folder is not None:
                folder.close()


def start_server(folder: Path) -> None:
    """Make sure that multiprocessing's fork server runs, with its socket in `folder`. Raises ConfigError, OSError."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["p2pfl.launch.preload"])
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    before = config.get("tempdir")
    # The server and all workers inherit the blocked signals: Ctrl-C cannot hit one before it is ready for it. And so
    # does the resource tracker, which multiprocessing starts beside it.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        config["tempdir"] = str(folder)
        resource_tracker.ensure_running()  # the fork server would start it, and that unblocks the signals
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        forkserver.ensure_running()
    except OSError as error:
        if "too long" not in str(error):
            raise
        raise ConfigError(
            f"TMPDIR {tempfile.gettempdir()}: too long a path for sockets; set TMPDIR to a shorter one, such as /tmp"
        ) from None
    finally:
        config["tempdir"] = before
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def stop_server() -> None:
    """End multiprocessing's fork server; Python can do so, but only in its own tests, and waits without limit."""
    server: Any = forkserver._forkserver
    pid, alive = server._forkserver_pid, server._forkserver_alive_fd
    server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)  # it may still be importing
    with contextlib.suppress(OSError):
        os.close(alive)
    with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
        os.waitpid(pid, 0)  # killed: this takes no time


def _stop_tracker() -> None:
    """End multiprocessing's resource tracker, which would outlive this process by seconds."""
    tracker: Any = resource_tracker._resource_tracker
    pid, alive = tracker._pid, tracker._fd
    tracker._pid = tracker._fd = None
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.close(alive)
    with contextlib.suppress(ChildProcessError):
        # It ends when the last process that holds its pipe ends. There may be some that nobody could end.
        Child.wait_for(pid, _END_SECONDS)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
