"""End of a launch in memory: no worker outlives it, whatever fails meanwhile."""

from __future__ import annotations

import os
import signal
import struct
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.helpers import small_config
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.launch.base import LaunchSpec, Outcome
from p2pfl.launch.local import LocalLauncher
from p2pfl.launch.loop import supervise
from p2pfl.modes import assign_roles
from p2pfl.node import messages

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

    def hear(self, *_: object) -> None:
        """Everything else that observers are told."""

    info = warn = progress = expect = step = hear


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.launch.supervisor.STOP_SECONDS", 0.01)
    monkeypatch.setattr("p2pfl.launch.local.prepare_data", lambda *_, **__: Path())


class Swarm:
    """Peers that never become ready, so that a launch ends them at once.

    The test has the other ends of their links.
    """

    def __init__(self, folder: Path, n: int) -> None:
        self.processes: list[Deaf] = []
        self.links: list[Connection] = []
        self.reports: dict[int, list[bytes]] = {}
        self.raw = b""  # that every link carries first, without a length
        sockets = folder / "sockets"
        sockets.mkdir()
        places: Any = SimpleNamespace(path=folder, subfolder=lambda: sockets, ensure_subfolder=lambda _: None)
        self._server: Any = SimpleNamespace(folder=places, start=self._start)
        config = small_config(start_timeout=1e-9)
        self._spec = LaunchSpec(assign_roles(config, make_topology("ring", n)), config, folder, "run", "settings")

    def _start(self, *_: object) -> tuple[Deaf, Connection]:
        here, there = Pipe()
        os.write(there.fileno(), self.raw)
        for report in self.reports.get(len(self.links), ()):
            there.send_bytes(report)
        self.processes.append(Deaf())
        self.links.append(there)
        return self.processes[-1], here

    def launch(self, observer: Any) -> Outcome:
        return supervise(self._spec, LocalLauncher(self._spec, self._server), [observer])


@pytest.mark.parametrize("broken", BROKEN)
def test_a_link_that_carries_no_message_has_ended(tmp_path: Path, broken: str) -> None:
    swarm, watcher = Swarm(tmp_path, 3), Watcher()
    swarm.reports = {0: [BROKEN[broken], REPORT], 1: [REPORT], 2: [REPORT]}
    outcome = swarm.launch(watcher)
    assert outcome.reason == "peer 0, peer 1, peer 2 not ready in time (--start-timeout)"
    assert watcher.rounds == [1, 1], "the others' reports are heard"
    assert all(process.is_closed for process in swarm.processes)


@pytest.mark.parametrize("length", [struct.pack("!i", -7), struct.pack("!iQ", -1, 1 << 62)])
def test_a_length_that_no_message_has_ends_a_link(tmp_path: Path, length: bytes) -> None:
    swarm, watcher = Swarm(tmp_path, 3), Watcher()
    swarm.raw = length + REPORT
    swarm.launch(watcher)
    assert watcher.rounds == []
    assert all(process.is_closed for process in swarm.processes)


def test_workers_are_ended_where_their_reports_cannot_be_shown(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path, 3)
    swarm.reports = {1: [REPORT]}
    with pytest.raises(ZeroDivisionError):
        swarm.launch(Watcher(fails=True))
    assert all(process.is_closed for process in swarm.processes)


def test_a_worker_without_a_link_is_asked_by_a_signal(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path, 3)
    swarm.reports = {0: [b""]}
    swarm.launch(Watcher())
    assert [process.signals for process in swarm.processes] == [
        [signal.SIGTERM, signal.SIGKILL],
        [signal.SIGKILL],
        [signal.SIGKILL],
    ]
    stop = messages.decode_to_worker(swarm.links[1].recv_bytes())
    assert isinstance(stop, messages.Stop), "one with a link is asked by a message"
