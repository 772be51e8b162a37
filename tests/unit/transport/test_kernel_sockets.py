"""Second handles of connections whose file number is in use by another file."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from p2pfl.errors import Refusal
from p2pfl.transport.admission import STRANGERS, Admission
from p2pfl.transport.kernel_sockets import bytes_received, duplicate_accepted, duplicate_connected


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def dialled(stack: ExitStack, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client's end and the accepted one."""
    client = stack.enter_context(socket.socket(server.family))
    client.connect(server.getsockname())
    return client, stack.enter_context(server.accept()[0])


def listening(stack: ExitStack, folder: Path, kind: str) -> tuple[socket.socket, str]:
    server = stack.enter_context(socket.socket(socket.AF_UNIX if kind == "ipc" else socket.AF_INET))
    server.bind(f"{folder}/a" if kind == "ipc" else ("127.0.0.1", 0))
    server.listen(200)
    name = server.getsockname()
    return server, f"ipc://{name}" if kind == "ipc" else f"tcp://some-host:{name[1]}"


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_a_handle_is_of_the_connection_that_is_meant_or_there_is_none(
    stack: ExitStack, tmp_path: Path, kind: str
) -> None:
    server, endpoint = listening(stack, tmp_path, kind)
    client, inside = dialled(stack, server)
    for handle, end in ((duplicate_accepted, inside), (duplicate_connected, client)):
        with handle(end.fileno(), endpoint) as copy:
            assert copy.getsockname() == end.getsockname()
    pipe = os.pipe()
    gone = os.dup(0)
    os.close(gone)
    before = open_files()
    for handle, other in ((duplicate_accepted, client), (duplicate_connected, inside)):
        for number in (other.fileno(), pipe[0], gone):
            with pytest.raises(OSError, match=r"\w"):
                handle(number, endpoint)
    assert open_files() == before, "nothing stays open where there is no handle"
    for number in pipe:
        os.close(number)


class FakeRouter:
    """A bound socket of which only the monitor is real, and says what the test says."""

    def __init__(self, monitor: zmq.Socket[bytes]) -> None:
        self._monitor = monitor

    def setsockopt(self, option: int, value: int) -> None:
        """Nothing to set."""

    def setsockopt_string(self, option: int, value: str) -> None:
        """Nothing to set."""

    def get_monitor_socket(self, events: int) -> Any:
        return self._monitor

    def disable_monitor(self) -> None:
        """Nothing to disable."""


def test_connections_that_have_ended_are_not_surplus_however_much_news_there_is(
    stack: ExitStack, tmp_path: Path
) -> None:
    """An accepted connection ended, its event comes late, and its number is reused."""
    server, endpoint = listening(stack, tmp_path, "ipc")
    pairs = [dialled(stack, server) for _ in range(STRANGERS + 9)]
    context = zmq.Context()
    news, monitor = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    for end in (news, monitor):
        end.set_hwm(0)
        end.linger = 0
    news.bind("inproc://news")
    monitor.connect("inproc://news")

    def say(event: int, number: int) -> None:
        news.send_multipart([struct.pack("=hi", event, number), endpoint.encode()])

    for _, inside in pairs:
        say(zmq.EVENT_ACCEPTED, inside.fileno())
    for _ in range(3_000):
        say(zmq.EVENT_DISCONNECTED, 10_000)
    for _, inside in pairs[1:]:
        say(zmq.EVENT_DISCONNECTED, inside.fileno())
    say(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 0)
    admission = Admission(context, FakeRouter(monitor), None, 10.0)  # type: ignore[arg-type]
    refused: list[Refusal] = []
    deadline = time.monotonic() + 20
    while Refusal.UNFINISHED not in refused:
        assert time.monotonic() < deadline
        refused += [refusal.code for refusal in admission.refusals()]
    assert Refusal.CONNECTIONS not in refused
    assert len(admission.connections()) == 1
    news.close()
    context.term()


class _ClosedAmid(socket.socket):
    """A connection that another thread closes as soon as it has been asked."""

    def getsockopt(self, *which: int) -> bytes:  # type: ignore[override]
        found = super().getsockopt(*which)
        self.close()
        return found  # type: ignore[return-value]


def test_a_connection_that_is_closed_while_it_is_measured_has_received_nothing(
    stack: ExitStack, tmp_path: Path
) -> None:
    server, _ = listening(stack, tmp_path, "tcp")
    client, _ = dialled(stack, server)
    with _ClosedAmid(fileno=client.detach()) as end:
        assert bytes_received(end) == 0
