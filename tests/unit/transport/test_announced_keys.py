"""Key pairs of one start, whose public halves go with the endpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from p2pfl.errors import Refusal, TransportError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Reconnected, Refused, TransportEvent
from p2pfl.transport import AnnouncedKeys, ZmqTransport

BIND = "tcp://127.0.0.1:*"


def message(sender: int) -> wire.Message:
    return wire.Message(wire.Header(wire.VERSION, "run", "hello", sender, 1))


def started(neighbors: int = 1) -> ZmqTransport:
    """A process with a new key pair, which listens at a free port."""
    return ZmqTransport(BIND, credentials=AnnouncedKeys(neighbors))


@pytest.fixture
def pair() -> Iterator[tuple[ZmqTransport, ZmqTransport]]:
    with started() as a, started() as b:
        yield a, b


def until(enough: Callable[[list[TransportEvent]], bool], *polled: ZmqTransport) -> list[TransportEvent]:
    """Events of the first transport, while all are polled."""
    events: list[TransportEvent] = []
    deadline = time.monotonic() + 30
    while not enough(events):
        assert time.monotonic() < deadline, events
        events += polled[0].poll(0.01)
        for other in polled[1:]:
            other.poll(0.0)
    return events


def has_received(events: list[TransportEvent]) -> bool:
    return any(isinstance(event, Received) for event in events)


def test_a_connection_waits_until_its_key_is_known(pair: tuple[ZmqTransport, ZmqTransport]) -> None:
    a, b = pair
    b.connect({0: a.endpoint}, 4)
    b.send(0, message(1))
    for _ in range(20):
        assert a.poll(0.01) == [], "neither admitted nor refused"
    a.connect({1: b.endpoint}, 4)
    events = until(has_received, a, b)
    assert not [event for event in events if isinstance(event, Refused)]


def test_the_public_half_alone_is_announced(pair: tuple[ZmqTransport, ZmqTransport]) -> None:
    endpoint, _, key = pair[0].endpoint.partition("#")
    assert endpoint.startswith("tcp://")
    assert len(bytes.fromhex(key)) == 32
    assert key != pair[1].endpoint.partition("#")[2]


def test_a_neighbor_that_is_started_elsewhere_is_found_there(pair: tuple[ZmqTransport, ZmqTransport]) -> None:
    a, b = pair
    a.connect({1: b.endpoint}, 4)
    b.connect({0: a.endpoint}, 4)
    b.send(0, message(1))
    until(has_received, a, b)
    with started() as again:
        again.connect({0: a.endpoint}, 4)
        a.redirect({1: again.endpoint})
        until(lambda events: Reconnected(1) in events, a, again)
        again.send(0, message(1))
        until(has_received, a, again)
        a.send(1, message(0))
        until(has_received, again, a)


def test_the_old_key_of_a_neighbor_is_no_longer_admitted(pair: tuple[ZmqTransport, ZmqTransport]) -> None:
    a, b = pair
    with started() as again:
        a.connect({1: again.endpoint}, 4)
        again.connect({0: a.endpoint}, 4)
        b.connect({0: a.endpoint}, 4)
        events = until(lambda events: any(isinstance(event, Refused) for event in events), a, b, again)
    assert {event.code for event in events if isinstance(event, Refused)} == {Refusal.KEY}


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:9", "tcp://127.0.0.1:9#abcd", "tcp://127.0.0.1:9#no-key"])
def test_an_endpoint_without_a_key_is_refused(pair: tuple[ZmqTransport, ZmqTransport], endpoint: str) -> None:
    with pytest.raises(TransportError):
        pair[0].connect({1: endpoint}, 4)


def test_a_secret_is_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "curve_keypair", lambda: (b"public" * 6 + b"publ", b"hidden"))
    assert "hidden" not in repr(AnnouncedKeys(1))
