"""The end of a launch in memory: whatever comes over a link or fails meanwhile, no worker outlives it."""

from __future__ import annotations

import os
import signal
import struct
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.launch.started import Worker
from p2pfl.launch.supervisor import end
from p2pfl.node import messages
from p2pfl.util.signals import Interrupts

REPORT = messages.encode(messages.RoundFinished(train_record(make_topology("ring", 3), 0, 1, 1, 8), b""))
BROKEN = {
    "amid a message": REPORT[len(REPORT) // 2 :],
    "no MessagePack": b"\xc1" * 9,
    "nothing": b"",
    "an order": messages.encode(messages.Stop()),
    "nested": b"\x91" * 100_000,
    "not UTF-8": b"\x81\xa4type\xa6\xff\xff\xff\xff\xff\xff",
}


class Deaf:
    """A process that ends by SIGKILL only."""

    def __init__(self) -> None:
        self.sentinel, self._held = os.pipe()
        self.signals: list[int] = []
        self.is_closed = False

    def is_alive(self) -> bool:
        return signal.SIGKILL not in self.signals

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        if self.is_alive():
            self.signal(signal.SIGKILL)
            os.close(self._held)

    def join(self, _seconds: float) -> bool:
        return not self.is_alive()

    def close(self) -> None:
        assert not self.is_alive()
        os.close(self.sentinel)
        self.is_closed = True


class Watcher:
    """An observer that fails at the first round, if it is to."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.rounds: list[int] = []

    def round(self, _peer: int, record: Any, _sketch: Any) -> None:
        if self.fails:
            raise ZeroDivisionError
        self.rounds.append(record.round)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.launch.supervisor.STOP_SECONDS", 0.01)


def workers(n: int) -> tuple[list[Worker], list[Deaf], list[Connection]]:
    pairs = [Pipe() for _ in range(n)]
    processes: list[Any] = [Deaf() for _ in range(n)]
    here = [Worker(i, str(i), process, pair[0]) for i, (process, pair) in enumerate(zip(processes, pairs, strict=True))]
    return here, processes, [pair[1] for pair in pairs]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_link_that_carries_no_message_has_ended(broken: str) -> None:
    here, processes, links = workers(2)
    links[0].send_bytes(BROKEN[broken])
    for link in links:
        link.send_bytes(REPORT)
    watcher: Any = Watcher()
    end(here, watcher, Interrupts())
    assert watcher.rounds == [1], "the other's report is heard"
    assert all(process.is_closed for process in processes)


@pytest.mark.parametrize("length", [struct.pack("!i", -7), struct.pack("!iQ", -1, 1 << 62)])
def test_a_length_that_no_message_has_ends_a_link(length: bytes) -> None:
    here, processes, links = workers(1)
    os.write(links[0].fileno(), length + REPORT)
    watcher: Any = Watcher()
    end(here, watcher, Interrupts())
    assert watcher.rounds == []
    assert processes[0].is_closed


def test_workers_are_ended_where_their_reports_cannot_be_shown() -> None:
    here, processes, links = workers(3)
    links[1].send_bytes(REPORT)
    failing: Any = Watcher(fails=True)
    with pytest.raises(ZeroDivisionError):
        end(here, failing, Interrupts())
    assert all(process.is_closed for process in processes)
    assert all(worker.link is None or worker.link.closed for worker in here)


def test_a_worker_without_a_link_is_asked_by_a_signal() -> None:
    here, processes, _links = workers(1)
    here[0].link = None
    watcher: Any = Watcher()
    end(here, watcher, Interrupts())
    assert processes[0].signals == [signal.SIGTERM, signal.SIGKILL]
