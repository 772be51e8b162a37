"""Admission to a peer's socket by the run's token, in raw ZMTP.

Also what admitted connections may do.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from tests.support.live_socket import LAST, SECRET, LiveSocket, login, wire_frames
from tests.support.raw_zmtp import GREETING, dial, frame, greeting, message, open_stranger, reset

from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Received, Reconnected, Refused, TransportEvent
from p2pfl.transport import Token, ZmqTransport
from p2pfl.transport.admission import STRANGERS

MEMORY_BYTES = 500 << 20  # of a process that has attackers; an attack without bounds takes gigabytes


def token(me: int, *neighbors: int, secret: str = SECRET) -> Token:
    return Token(secret, me, frozenset(neighbors))


@pytest.fixture
def victim() -> Iterator[ZmqTransport]:
    """Peer 0, whose neighbors are 1 and 2."""
    with ZmqTransport("tcp://127.0.0.1:*", credentials=token(0, 1, 2)) as transport:
        yield transport


def poll_until(transport: ZmqTransport, enough: Callable[[list[TransportEvent]], bool]) -> list[TransportEvent]:
    events: list[TransportEvent] = []
    deadline = time.monotonic() + 30
    while not enough(events):
        assert time.monotonic() < deadline, events[-5:]
        events += transport.poll(0.1)
    return events


def received(events: list[TransportEvent]) -> list[int]:
    return [event.message.header.sender for event in events if isinstance(event, Received)]


def reasons(events: list[TransportEvent]) -> list[str]:
    return [f"{event.code}: {event.detail}" for event in events if isinstance(event, Refused)]


@pytest.mark.parametrize(
    "user",
    [
        ("1", "wrong"),
        ("1", ""),
        ("", ""),
        (" 1", login(1, 0)[1]),
        ("2", login(1, 0)[1]),
        ("1", login(1, 2)[1]),
        login(7, 0),
        ("1", token(1, secret=SECRET[::-1]).password(1, 0)),
        ("9" * 200, "x" * 200),
    ],
    ids=["wrong", "empty", "nobody", "spelled", "another's", "elsewhere's", "no neighbor", "another run's", "long"],
)
def test_who_does_not_prove_a_neighbors_name_is_refused_and_counted(
    victim: ZmqTransport, user: tuple[str, str]
) -> None:
    with pytest.raises(ConnectionError):
        open_stranger(victim.endpoint, user)
    assert set(reasons(poll_until(victim, lambda events: bool(reasons(events))))) == {
        "token: not this run's, or no neighbor's"
    }


def test_messages_of_who_has_not_been_admitted_are_not_read(victim: ZmqTransport) -> None:
    strangers = [dial(victim.endpoint) for _ in range(3)]
    hello = message(*wire_frames(1))
    with contextlib.suppress(ConnectionError):
        open_stranger(victim.endpoint)  # of no mechanism
    for stranger, words in zip(strangers, (hello, b"\1\0\2\0A" + hello, b"GET / HTTP/1.1\r\n\r\n"), strict=True):
        stranger.sendall(words)
    with contextlib.closing(open_stranger(victim.endpoint, login(2, 0))) as neighbor:
        neighbor.sendall(message(*wire_frames(1)) + message(*wire_frames(2)))
        events = poll_until(victim, lambda events: bool(received(events)))
        assert received(events) == [2], "who is admitted speaks for itself only"
        assert "sender: not the owner of the connection" in reasons(events)
    for stranger in strangers:
        stranger.close()


def test_a_neighbor_has_two_connections_at_most_and_who_is_gone_makes_room(victim: ZmqTransport) -> None:
    live = [open_stranger(victim.endpoint, login(1, 0)) for _ in range(2)]
    for connection in live:
        connection.sendall(message(*wire_frames(1)))
    poll_until(victim, lambda events: len(received(events)) == 2)
    with pytest.raises(ConnectionError):
        open_stranger(victim.endpoint, login(1, 0))
    seen = poll_until(victim, lambda events: bool(reasons(events)))
    assert reasons(seen) == ["connections: more than 2 of one neighbor"]
    for connection in live:
        connection.sendall(message(*wire_frames(1)))
    assert received(poll_until(victim, lambda events: len(received(events)) == 2)) == [1, 1]
    with contextlib.closing(open_stranger(victim.endpoint, login(2, 0))) as other:
        other.sendall(message(*wire_frames(2)))
        poll_until(victim, lambda events: received(events) == [2])
    live[0].close()
    reset(live[1])
    for _ in range(2):  # the socket hears of the end before it is asked for the new one
        again = open_stranger(victim.endpoint, login(1, 0))
        again.sendall(message(*wire_frames(1)))
        poll_until(victim, lambda events: received(events) == [1])


@pytest.mark.parametrize("end", [socket.socket.close, reset])
def test_a_connection_that_ends_before_its_first_message_makes_room(
    victim: ZmqTransport, end: Callable[[socket.socket], None]
) -> None:
    with contextlib.ExitStack() as kept:
        for _ in range(20):  # far more than two, and long before a silent one is closed
            end(open_stranger(victim.endpoint, login(1, 0)))
        for _ in range(2):
            last = kept.enter_context(contextlib.closing(open_stranger(victim.endpoint, login(1, 0))))
            last.sendall(message(*wire_frames(1)))
        assert received(poll_until(victim, lambda events: len(received(events)) == 2)) == [1, 1]
        with pytest.raises(ConnectionError):
            open_stranger(victim.endpoint, login(1, 0))


def is_open(connection: socket.socket) -> bool:
    """Whether the other end has not closed a connection."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while connection.recv(100):
            pass
        return False
    return True


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux says which connections were answered")
def test_strangers_that_say_nothing_do_not_hide_that_a_connection_has_ended(victim: ZmqTransport) -> None:
    strangers = [dial(victim.endpoint) for _ in range(3)]
    strangers[1].sendall(greeting(b"PLAIN"))
    for _ in range(2):
        open_stranger(victim.endpoint, login(1, 0)).close()
    last = None
    while last is None:
        with contextlib.suppress(ConnectionError):
            last = open_stranger(victim.endpoint, login(1, 0))
    for stranger in strangers:
        assert is_open(stranger)
        stranger.close()
    last.close()


def test_a_burst_of_one_neighbor_gets_two_connections(victim: ZmqTransport) -> None:
    with ThreadPoolExecutor(16) as pool:
        opened = list(pool.map(lambda _: _try(victim.endpoint), range(48)))
    live = [connection for connection in opened if connection is not None]
    assert len(live) == 2
    for connection in live:
        connection.close()


def _try(endpoint: str) -> socket.socket | None:
    with contextlib.suppress(ConnectionError):
        return open_stranger(endpoint, login(1, 0))
    return None


def test_two_silent_connections_of_a_neighbor_are_its_two(victim: ZmqTransport) -> None:
    first, second = (open_stranger(victim.endpoint, login(1, 0)) for _ in range(2))
    with pytest.raises(ConnectionError):
        open_stranger(victim.endpoint, login(1, 0))
    first.close()
    third = open_stranger(victim.endpoint, login(1, 0))
    with pytest.raises(ConnectionError):
        open_stranger(victim.endpoint, login(1, 0))
    for connection in (second, third):
        connection.sendall(message(*wire_frames(1)))
        poll_until(victim, lambda events: received(events) == [1])
        connection.close()


def test_strangers_are_closed_before_a_connection_that_was_just_admitted(victim: ZmqTransport) -> None:
    silent = open_stranger(victim.endpoint, login(1, 0))
    strangers = [dial(victim.endpoint) for _ in range(STRANGERS + 20)]
    poll_until(victim, lambda events: len(refused(events)) >= 16)
    silent.sendall(message(*wire_frames(1)))
    assert received(poll_until(victim, lambda events: bool(received(events)))) == [1]
    for connection in (silent, *strangers):
        connection.close()


def test_strangers_without_number_do_not_cut_a_neighbors_connection(victim: ZmqTransport) -> None:
    with ZmqTransport("tcp://127.0.0.1:*", credentials=token(1, 0)) as neighbor:
        victim.connect({1: neighbor.endpoint}, 4)
        neighbor.connect({0: victim.endpoint}, 4)
        hello = wire.Message(wire.Header(wire.VERSION, "run", "hello", 1, 1))
        neighbor.send(0, hello)
        poll_until(victim, lambda events: received(events) == [1])
        events = []
        strangers = []
        for number in range(150):
            strangers.append(dial(victim.endpoint))
            with contextlib.suppress(OSError):
                words = GREETING + message(*wire_frames(1)) * number
                strangers[-1].sendall(words if number % 2 else GREETING[:11])
            events += neighbor.poll(0.0) + victim.poll(0.0)
        poll_until(victim, lambda more: len(refused(events + more)) >= 150 - STRANGERS - 6)
        neighbor.send(0, hello)
        poll_until(victim, lambda more: received(more) == [1])
        assert Reconnected(0) not in events + neighbor.poll(0.0)
        for stranger in strangers:
            stranger.close()


def refused(events: list[TransportEvent]) -> list[str]:
    return [reason for reason in reasons(events) if reason.startswith(("connections", "handshake"))]


def pour(connection: socket.socket, data: bytes, limit: int) -> None:
    with contextlib.suppress(OSError):
        while limit > 0:
            limit -= connection.send(data[:limit])


FLOODS = {
    "an endless message": frame(b"", more=True) * 4096,
    "messages of a million empty frames": frame(b"", more=True) * 1_000_000 + frame(b""),
    "messages of ten thousand empty frames": frame(b"", more=True) * 10_000 + frame(b""),
    "messages of two empty frames": (frame(b"", more=True) + frame(b"")) * 4096,
    "greetings": message(*wire_frames(1)) * 4096,
    "heartbeats": frame(b"\x04PING\0\0", command=True) * 4096,
}


def test_a_neighbor_that_was_cut_off_comes_back_before_it_counts_as_lost() -> None:
    """However long the grace is: who was cut off may have been misjudged."""
    grace = 6.0
    with (
        ZmqTransport("tcp://127.0.0.1:*", grace, token(0, 1)) as victim,
        contextlib.closing(open_stranger(victim.endpoint, login(1, 0))) as hostile,
    ):
        hostile.sendall(message(*wire_frames(1)))
        poll_until(victim, lambda events: bool(received(events)))
        thread = threading.Thread(target=pour, args=(hostile, FLOODS["an endless message"] * 256, 100 << 20))
        thread.start()
        poll_until(victim, lambda events: any(reason.startswith("flood") for reason in reasons(events)))
        thread.join()
        with ZmqTransport("tcp://127.0.0.1:*", grace, token(1, 0)) as neighbor:
            neighbor.connect({0: victim.endpoint}, 4)
            heard: list[TransportEvent] = []
            while not heard:
                victim.poll(0.01)
                heard = [event for event in neighbor.poll(0.01) if isinstance(event, Lost | Reconnected)]
            assert heard == [Reconnected(0)]


SUBSCRIBE = b"\x09SUBSCRIBE"
ODD = {  # what is sent, and how often
    "heartbeats with a context": (frame(b"\x04PING\0\0" + b"x" * 16, command=True), 1000),
    "unasked answers": (frame(b"\x04PONG" + b"x" * 16, command=True), 200_000),
    "a giant subscription": (frame(SUBSCRIBE + bytes(1 << 20), command=True), 20),
    "a giant old subscription": (frame(b"\1" + bytes(1 << 20)), 20),
    "subscriptions within a message": (frame(b"", more=True) + frame(SUBSCRIBE, command=True), 50_000),
    "a subscription that says more": (frame(SUBSCRIBE, more=True, command=True), 50_000),
    "empty frames": (frame(b""), 200_000),
    "empty commands": (frame(b"", command=True), 50_000),
    "reserved flags": (b"\xf8\1A", 50_000),
    "a length of everything": (b"\2" + b"\xff" * 8, 1),
    "a frame without end": (b"\3" + (1 << 20).to_bytes(8, "big") + bytes((1 << 20) - 1), 1),
}


@pytest.mark.processes
def test_odd_frames_of_neighbors_harm_no_other() -> None:
    honest = len(ODD) + 1
    with LiveSocket(token=(SECRET, 0, [*range(1, honest + 1)])) as victim, contextlib.ExitStack() as ends:
        other = ends.enter_context(open_stranger(victim.endpoint, login(honest, 0)))
        other.sendall(message(*wire_frames(honest)) * 50)
        pool = ends.enter_context(ThreadPoolExecutor(len(ODD) + 1))
        attacks = []
        for number, (data, times) in enumerate(ODD.values(), start=1):
            hostile = ends.enter_context(open_stranger(victim.endpoint, login(number, 0)))
            hostile.settimeout(20.0)  # who reads no answers may find its own pings no longer taken
            attacks.append(pool.submit(pour, hostile, data * times, len(data) * times))

        def finish() -> None:
            wait(attacks, 60)
            other.sendall(message(*wire_frames(honest)) * 50 + message(*wire_frames(honest, LAST)))

        end = pool.submit(finish)
        found = victim.poll()
        end.result()
        assert found["came"]["last"] == 1
        assert found["came"][f"from {honest}"] == 100
        assert found["peak"] < MEMORY_BYTES


@pytest.mark.processes
@pytest.mark.parametrize("flood", FLOODS)
def test_a_neighbors_flood_is_cut_off_and_another_neighbor_is_heard(flood: str) -> None:
    with LiveSocket(token=(SECRET, 0, [1, 2])) as victim:
        hostile = open_stranger(victim.endpoint, login(1, 0))
        other = open_stranger(victim.endpoint, login(2, 0))
        thread = threading.Thread(target=pour, args=(hostile, FLOODS[flood], 100 << 20))
        thread.start()
        other.sendall(message(*wire_frames(2)) * 100)

        def finish() -> None:
            thread.join(60)
            other.sendall(message(*wire_frames(2, LAST)))

        end = threading.Thread(target=finish)
        end.start()
        found = victim.poll()
        end.join()
        assert found["came"]["last"] == 1
        assert found["came"]["from 2"] == 100
        assert found["came"]["flood"] == 1
        assert found["peak"] < MEMORY_BYTES
        other.close()
        hostile.close()
