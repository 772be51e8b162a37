"""Watchdog of an admitted connection, on a test's clock and byte counts."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from p2pfl.errors import Refusal
from p2pfl.protocol.events import Refused
from p2pfl.transport import watchdog
from p2pfl.transport.admission import Connection
from p2pfl.transport.watchdog import HEARTBEAT_BYTES, PART_BYTES, Watchdog

NOTICE = 100  # bytes of a small message
STEP = 0.25  # seconds between two verdicts


class Line:
    """One connection, its admission, and what the system would count of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.come = 0
        self.closed: Refused | None = None
        self._end = socket.socket()
        self._connection = Connection(self._end, 1, self.now, 0, settled=self.now)
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(watchdog, "bytes_received", lambda _: self.come)
        self._watchdog = Watchdog(self)  # type: ignore[arg-type]

    def connections(self) -> list[Connection]:
        return [] if self.closed else [self._connection]

    def close_silent(self) -> None:
        """There is nothing to close."""

    def close_connection(self, _: Connection, reason: Refused) -> None:
        self.closed = reason

    def step(self, part: int = 0, messages: tuple[int, ...] = (), seconds: float = STEP) -> None:
        """Receive bytes, of which some make whole messages that are taken, and judge."""
        self.now += seconds
        self.come += part
        self._watchdog.measure()
        for size in messages:
            self._watchdog.count_message(self._connection, 2, size)
        self._watchdog.enforce(drained=True)

    def close(self) -> None:
        self._end.close()


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    line = Line(monkeypatch)
    yield line
    line.close()


@pytest.mark.parametrize("seconds_between_messages", [1.0, 3_600.0])
def test_heartbeats_are_accounted_for_however_rarely_messages_come(line: Line, seconds_between_messages: float) -> None:
    """Half a day at 60 bytes a second, ten times the rate of encrypted heartbeats."""
    steps = round(seconds_between_messages / STEP)
    for number in range(1, 160_000):
        whole = number % steps == 0
        line.step(15 + NOTICE * whole, (NOTICE,) * whole)
        assert not line.closed, f"after {number * STEP:.0f} s"


def test_a_slow_chunk_after_a_long_silence_is_no_flood(line: Line) -> None:
    for _ in range(14_400):
        line.step(21, seconds=1.0)
    for _ in range(16):
        line.step(1 << 16)
    line.step(NOTICE, ((1 << 20) + NOTICE,))
    assert not line.closed


@pytest.mark.parametrize("message", [(), (NOTICE,)], ids=["alone", "beside messages"])
def test_heartbeats_beyond_their_rate_are_cut_off(line: Line, message: tuple[int, ...]) -> None:
    while not line.closed:
        line.step(1_000 + sum(message), message, seconds=1.0)
        assert line.come < 2 * PART_BYTES
    assert line.closed == Refused(Refusal.FLOOD, "a message without end")


def test_silence_saves_up_no_credit_for_an_endless_message(line: Line) -> None:
    """A longer message begins after each day of silence, and ends after a small one."""
    size = 0
    while not line.closed:
        size += HEARTBEAT_BYTES
        line.step(seconds=86_400.0)
        line.step(NOTICE + size, (NOTICE,))
        line.step(NOTICE, (size + NOTICE,))
        assert size <= PART_BYTES + 2 * HEARTBEAT_BYTES
