"""Strangers' bytes at a live socket: refused, counted, bounded in memory.

Neighbors do not notice.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable

import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import commands
from tests.support.helpers import THOROUGHNESS
from tests.support.paths import ROOT
from tests.support.raw_zmtp import GREETING, dial, frame, open_stranger

from p2pfl.errors import ProtocolError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Reconnected, Refused, TransportEvent
from p2pfl.transport import ZmqTransport
from p2pfl.transport.admission import STRANGERS

HELLO = wire.Message(wire.Header(wire.VERSION, "run", "hello", 0, 1))
MEMORY_BYTES = 600 << 20  # far below what an attack sends or makes the socket keep without a bound


def poll_until(transport: ZmqTransport, enough: Callable[[list[TransportEvent]], bool]) -> list[TransportEvent]:
    events: list[TransportEvent] = []
    deadline = time.monotonic() + 60
    while not enough(events):
        assert time.monotonic() < deadline, f"only {events[-5:]}"
        events += transport.poll(0.2)
    return events


def reasons(events: list[TransportEvent]) -> list[str]:
    return [event.code for event in events if isinstance(event, Refused)]


def pour(connection: socket.socket, data: bytes, sent: list[int]) -> None:
    with contextlib.suppress(OSError):  # closed by the watchdog, which is what the test waits for
        while sent[0] < 4 << 30:
            sent[0] += connection.send(data)


@pytest.mark.parametrize("size", [0, 33, 65_536], ids=["empty", "small", "large"])
def test_an_endless_message_is_cut_off_and_neighbors_stay_connected(size: int) -> None:
    data = frame(bytes(size), more=True) * (1 if size > 1000 else 4096)
    with ZmqTransport("tcp://127.0.0.1:*") as victim, ZmqTransport("tcp://127.0.0.1:*") as neighbor:
        victim.connect({0: neighbor.endpoint}, 1 << 20)
        neighbor.connect({1: victim.endpoint}, 1 << 20)
        neighbor.send(1, HELLO)
        poll_until(victim, lambda events: any(isinstance(event, Received) for event in events))
        before = psutil.Process().memory_info().rss
        for _ in range(3):
            stranger, sent = open_stranger(victim.endpoint), [0]
            thread = threading.Thread(target=pour, args=(stranger, data, sent))
            thread.start()
            poll_until(victim, lambda events: "flood" in reasons(events))
            thread.join(timeout=30)
            assert not thread.is_alive()
            stranger.close()
            neighbor.send(1, HELLO)
            poll_until(victim, lambda events: any(isinstance(event, Received) for event in events))
        assert Reconnected(1) not in neighbor.poll(0)
        assert psutil.Process().memory_info().rss - before < MEMORY_BYTES


def test_connections_have_a_bound_and_neighbors_are_not_among_those_closed() -> None:
    with ZmqTransport("tcp://127.0.0.1:*") as victim, ZmqTransport("tcp://127.0.0.1:*") as neighbor:
        victim.connect({0: neighbor.endpoint}, 4)
        neighbor.connect({1: victim.endpoint}, 4)
        neighbor.send(1, HELLO)
        poll_until(victim, lambda events: any(isinstance(event, Received) for event in events))
        strangers = [dial(victim.endpoint) for _ in range(2 * STRANGERS)]
        poll_until(victim, lambda events: reasons(events).count("connections") >= STRANGERS - 2)
        neighbor.send(1, HELLO)
        poll_until(victim, lambda events: any(isinstance(event, Received) for event in events))
        assert Reconnected(1) not in neighbor.poll(0)
        for stranger in strangers:
            stranger.close()


@pytest.mark.parametrize("words", [None, b"", GREETING[:11]], ids=["gone at once", "nothing", "half a greeting"])
def test_a_connection_that_does_not_shake_hands_is_refused_and_counted(words: bytes | None) -> None:
    with ZmqTransport("tcp://127.0.0.1:*") as victim, contextlib.closing(dial(victim.endpoint)) as stranger:
        if words is None:
            stranger.close()
        else:
            stranger.sendall(words)
        seen = poll_until(victim, lambda events: bool(reasons(events)))
        assert reasons(seen) == ["unfinished"]
        if words is not None:
            stranger.settimeout(10.0)
            while stranger.recv(1 << 16):  # until the victim has closed it
                pass


OLD = {  # of the protocol's earlier versions, and of none
    "ZMTP 1.0": [b"\x01\x00\x02\x00A"],
    "ZMTP 2.0": [b"\xff" + bytes(8) + b"\x7f\x01\x05", b"\x00\x00\x00\x01A"],
    "HTTP": [b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"],
    "noise": [bytes((7 * i * i + i // 3) % 256 for i in range(5000))],
}


@pytest.mark.parametrize("name", OLD)
def test_strangers_of_other_protocols_are_refused_and_harm_nobody(name: str) -> None:
    with ZmqTransport("tcp://127.0.0.1:*") as victim, ZmqTransport("tcp://127.0.0.1:*") as neighbor:
        victim.connect({0: neighbor.endpoint}, 4)
        neighbor.connect({1: victim.endpoint}, 4)
        with contextlib.closing(dial(victim.endpoint)) as stranger, contextlib.suppress(ConnectionError):
            for part in OLD[name]:
                stranger.sendall(part)
            while stranger.recv(1 << 16):  # until the victim has closed it
                pass
        neighbor.send(1, HELLO)
        events = poll_until(victim, lambda events: any(isinstance(event, Received) for event in events))
        assert next(event for event in events if isinstance(event, Received)).message == HELLO
        assert set(reasons(events)) <= {"unfinished", "handshake"}


def test_a_large_honest_stream_is_no_flood() -> None:
    body = bytes(wire.CHUNK_BYTES)
    header = wire.Header(wire.VERSION, "run", "chunk", 0, 1, codec="fp32", length=len(body))
    with ZmqTransport("tcp://127.0.0.1:*") as victim, ZmqTransport("tcp://127.0.0.1:*") as neighbor:
        victim.connect({0: neighbor.endpoint}, 1 << 28)
        neighbor.connect({1: victim.endpoint}, 1 << 28)
        for _ in range(256):
            neighbor.send(1, wire.Message(header, body))
        seen = 0
        deadline = time.monotonic() + 60
        while seen < 256:
            assert time.monotonic() < deadline
            events = victim.poll(0.2)
            assert reasons(events) == []
            seen += sum(isinstance(event, Received) for event in events)


SAMPLE = wire.Header(wire.VERSION, "run", "chunk", 2, 5, "fp32", "abc", "x", 8, 12, {"weight": 0.5})
VALUES = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=80) | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=20),
    max_leaves=30,
)


@settings(max_examples=150 * THOROUGHNESS, deadline=None)
@given(st.integers(0, 10), VALUES)
def test_any_value_in_any_field_is_a_message_or_refused(index: int, value: object) -> None:
    fields = list(msgspec.structs.astuple(SAMPLE))
    fields[index] = value
    refusal, message = "", None
    try:
        message = wire.decode([msgspec.msgpack.encode(fields), bytes(12)])
    except ProtocolError as error:
        refusal = str(error)
    assert len(refusal) < 300
    assert refusal.isprintable()
    assert message is None or (message.header.sender >= 0 and message.header.round >= 0)


def test_a_header_that_nests_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError):
        wire.decode([b"\x91" * wire.HEADER_BYTES, b""])


def test_what_a_stranger_writes_does_not_break_a_line_of_the_log() -> None:
    fields = list(msgspec.structs.astuple(SAMPLE))
    fields[2] = "\n\x1b[2Jfake line" * 100
    with pytest.raises(ProtocolError) as caught:
        wire.decode([msgspec.msgpack.encode(fields), bytes(12)])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.processes
def test_a_live_swarm_under_mutated_messages_ends_with_the_same_weights() -> None:
    program, root = (sys.executable, "-m", "soak.mutations"), ROOT
    done = commands.run("--messages", "2000", "--rounds", "150", program=program, cwd=root, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[0])
    assert all(figures["checks"].values())
    assert figures["refused"].keys() >= {"frames", "header", "sender"}
