"""Description of how a process of the fork server ended."""

from __future__ import annotations

import resource
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfl.launch.fork_server import ForkedProcess


def ended(code: int) -> ForkedProcess:
    process: Any = SimpleNamespace(pid=1 << 23, exitcode=code, is_alive=lambda: False, join=lambda _seconds: None)
    return ForkedProcess(process)  # no process has that number: its end was seen before it could be watched


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "exit status 3"),
        (255, "exit status unknown, since the fork server was killed"),
        (-signal.SIGKILL, "killed by SIGKILL, perhaps out of memory"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-35, "killed by signal 35"),
        (-200, "killed by signal 200"),
    ],
)
def test_the_end_of_a_process_is_told(code: int, text: str) -> None:
    assert ended(code).exit_text() == text


LIMITS = [
    (signal.SIGKILL, resource.RLIMIT_CPU, 4, ", perhaps out of memory or out of CPU time (ulimit -t is 4 s: raise it)"),
    (signal.SIGXCPU, resource.RLIMIT_CPU, 4, ", perhaps out of CPU time (ulimit -t is 4 s: raise it)"),
    (signal.SIGABRT, resource.RLIMIT_AS, 2048, ", perhaps out of memory (ulimit -v is 2 KiB: raise it)"),
    (signal.SIGTERM, resource.RLIMIT_CPU, 4, ""),
]


@pytest.mark.parametrize(("number", "limit", "value", "said"), LIMITS)
def test_a_limit_that_may_have_killed_it_is_named(
    number: signal.Signals, limit: int, value: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (value, value) if asked == limit else none)
    assert ended(-number).exit_text() == f"killed by {number.name}{said}"


def test_every_signal_has_a_name() -> None:
    for number in range(1, signal.NSIG):
        assert ended(-number).exit_text().startswith("killed by ")
