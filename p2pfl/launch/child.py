"""Handle of a process forked by the fork server: watched and killed without the server's help.

The server, not the launcher, is the parent of these processes, and what multiprocessing knows of them comes from it.
A pidfd (Linux) says whether the process itself is alive, whatever has become of the server.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from multiprocessing import connection
from multiprocessing.process import BaseProcess

from p2pfl.errors import limited_to

_STATUS_SECONDS = 1.0  # within which the server tells the exit status of a process that has ended
_FAULTS = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)  # how libraries end that get no memory
_UNKNOWN = 255  # what multiprocessing makes of an exit status that it cannot read


class Child:
    """One started process; `close` it in the end."""

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
        """The exit status, or minus a signal's number; None where the process runs or nobody knows."""
        if self.is_alive():
            return None
        self._process.join(_STATUS_SECONDS)
        code = self._process.exitcode
        return None if code == _UNKNOWN else code  # no worker ends with 255

    def exit_text(self) -> str:
        """How the process ended, in words."""
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

    @staticmethod
    def wait_for(pid: int, seconds: float) -> None:
        """Wait for a child of this very process, without taking its exit status."""
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                try:
                    connection.wait([pidfd], seconds)
                finally:
                    os.close(pidfd)


def _name(number: int) -> str:
    """A signal's name; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _perhaps(number: int) -> str:
    """Why the system may have killed a process by this signal; the limits of this process are its children's."""
    causes = ["out of memory"] if number == signal.SIGKILL else []
    if number in (signal.SIGKILL, signal.SIGXCPU) and (seconds := limited_to(resource.RLIMIT_CPU)) is not None:
        causes.append(f"out of CPU time (ulimit -t is {seconds} s: raise it)")
    if number in _FAULTS and (limit := limited_to(resource.RLIMIT_AS)) is not None:
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
