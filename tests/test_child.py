"""How a process that the fork server has started ended, in words."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfl.launcher.child import Child


def ended(code: int) -> Child:
    process: Any = SimpleNamespace(pid=1 << 23, exitcode=code, is_alive=lambda: False, join=lambda _seconds: None)
    return Child(process)  # no process has that number: its end was seen before it could be watched


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


def test_every_signal_has_a_name() -> None:
    for number in range(1, signal.NSIG):
        assert ended(-number).exit_text().startswith("killed by ")
