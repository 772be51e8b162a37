"""Fork server that workers start from, and handles of the forked processes.

The server has only imported the heavy libraries, so a peer forked from it starts in a moment and shares their memory.
It runs no tensor operation and opens no ZeroMQ context: threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import connection, forkserver, process, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from p2pfl.errors import ConfigError, P2PFLError
from p2pfl.os_errors import limited_to
from p2pfl.util.signals import SIGNALS, shielded
from p2pfl.util.tempdir import TemporaryFolder

_END_SECONDS = 2.0  # that a helper process gets to end by itself
_STATUS_SECONDS = 1.0  # within which the server tells the exit status of a process that has ended
_MEMORY_SIGNALS = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)  # how libraries end that get no memory
_UNKNOWN = 255  # multiprocessing's exit status where it cannot read the real one

_current: ForkServer | None = None


class ForkServer:
    """Starts processes; a server that was killed is replaced by the next start."""

    def __init__(self, folder: TemporaryFolder) -> None:
        self.folder = folder

    def start(
        self, name: str, target: Callable[..., None], *arguments: Any
    ) -> tuple[ForkedProcess, connection.Connection]:
        """Start `target(*arguments, link)` in a process; returns it and the other end.

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
    ) -> tuple[ForkedProcess, connection.Connection]:
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
        return ForkedProcess(worker), ours


def _is_broken(error: OSError | EOFError) -> bool:
    """Whether the fork server was killed, or its socket removed with the folder."""
    return isinstance(error, EOFError | ConnectionError | FileNotFoundError | ChildProcessError)


def _no_process(error: OSError | EOFError) -> P2PFLError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return P2PFLError(f"no process can be started ({why}); see what `ulimit -a` allows, or take fewer")


@contextlib.contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Provide a fork server, which starts with the first process.

    Within another `fork_server` it is the same server. So one server serves all runs of a comparison, or all tests of a
    session. It ends with the outermost use.

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
    """Start multiprocessing's fork server unless it runs, with its socket in `folder`.

    Raises ConfigError, OSError.
    """
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
    """End multiprocessing's fork server.

    Python has a function for that, meant for its own tests, which waits without limit.
    """
    server: Any = forkserver._forkserver
    pid, alive = server._forkserver_pid, server._forkserver_alive_fd
    server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)  # it may still be importing
    with contextlib.suppress(OSError):
        os.close(alive)
    with contextlib.suppress(ChildProcessError):  # reaped already
        os.waitpid(pid, 0)  # killed: this takes no time


def _stop_tracker() -> None:
    """End multiprocessing's resource tracker, which would outlive this process."""
    tracker: Any = resource_tracker._resource_tracker
    pid, alive = tracker._pid, tracker._fd
    tracker._pid = tracker._fd = None
    if pid is None:
        return
    with contextlib.suppress(OSError):
        os.close(alive)
    with contextlib.suppress(ChildProcessError):
        # It ends when the last process that holds its pipe ends; some may be impossible to end.
        _wait_for(pid, _END_SECONDS)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _wait_for(pid: int, seconds: float) -> None:
    """Wait for a child of this very process, without taking its exit status."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                connection.wait([pidfd], seconds)
            finally:
                os.close(pidfd)


class ForkedProcess:
    """Handle of a forked process, watched and killed without the server's help.

    Call `close` in the end. The server, not the launcher, is the parent of these processes, and multiprocessing's
    knowledge of them comes from the server. A pidfd (Linux) says whether the process itself is alive, whatever has
    become of the server.
    """

    def __init__(self, started: BaseProcess) -> None:
        assert started.pid is not None
        self.pid = started.pid
        self._process = started
        self._pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # ended and reaped already, or a kernel before 5.3
                self._pidfd = os.pidfd_open(self.pid)

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process ends."""
        return self._process.sentinel if self._pidfd is None else self._pidfd

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        if self._pidfd is not None:
            return not connection.wait([self._pidfd], 0)
        if self._process.is_alive():
            return True
        return self._process.exitcode == _UNKNOWN and _exists(self.pid)  # the server is gone, not the process

    def join(self, seconds: float) -> bool:
        """Wait for the end of the process; False where it has not come by then."""
        if self._pidfd is not None:
            return bool(connection.wait([self._pidfd], seconds))
        self._process.join(seconds)
        return not self.is_alive()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        with contextlib.suppress(OSError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self.is_alive():
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self.signal(signal.SIGKILL)

    @property
    def exitcode(self) -> int | None:
        """Exit status, or minus a signal's number; None where it runs, or is unknown."""
        if self.is_alive():
            return None
        self._process.join(_STATUS_SECONDS)
        code = self._process.exitcode
        return None if code == _UNKNOWN else code  # no worker ends with 255

    def exit_text(self) -> str:
        """The end of the process, in words."""
        code = self.exitcode
        if code is None:
            return "exit status unknown, since the fork server was killed"
        if code < 0:
            return f"killed by {_name(-code)}" + _perhaps(-code)
        return f"exit status {code}"

    def close(self) -> None:
        """Close the pidfd."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _name(number: int) -> str:
    """A signal's name; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _perhaps(number: int) -> str:
    """Limits that may have made the system kill a process by this signal, as text.

    The limits of this process are its children's.
    """
    causes = ["out of memory"] if number == signal.SIGKILL else []
    if number in (signal.SIGKILL, signal.SIGXCPU) and (seconds := limited_to(resource.RLIMIT_CPU)) is not None:
        causes.append(f"out of CPU time (ulimit -t is {seconds} s: raise it)")
    if number in _MEMORY_SIGNALS and (limit := limited_to(resource.RLIMIT_AS)) is not None:
        causes.append(f"out of memory (ulimit -v is {limit // 1024} KiB: raise it)")
    return f", perhaps {' or '.join(causes)}" if causes else ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
