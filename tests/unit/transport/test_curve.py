"""Encrypted links on real sockets: admission, identity, confidentiality."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq
from zmq.utils.monitor import parse_monitor_message

from p2pfl.errors import Refusal
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Reconnected, Refused, TransportEvent
from p2pfl.transport import Keys, ZmqTransport

HELLO = wire.Message(wire.Header(wire.VERSION, "run", "hello", 0, 1))
NOT_THE_OWNER = Refused(Refusal.SENDER, "not the owner of the connection")


class Trio:
    """Peers 0 and 1 know each other; 2 has a key that nobody lists."""

    def __init__(self) -> None:
        pairs = [[part.decode() for part in zmq.curve_keypair()] for _ in range(3)]
        self.public = {peer: pair[0] for peer, pair in enumerate(pairs)}
        self.secret = {peer: pair[1] for peer, pair in enumerate(pairs)}

    def keys(self, me: int, *neighbors: int) -> Keys:
        return Keys(self.public[me], self.secret[me], {peer: self.public[peer] for peer in neighbors})

    def curve(self, me: int, server: int) -> dict[int, bytes]:
        """The options of a bare socket that connects to a peer with a key of these."""
        return {
            zmq.CURVE_PUBLICKEY: self.public[me].encode(),
            zmq.CURVE_SECRETKEY: self.secret[me].encode(),
            zmq.CURVE_SERVERKEY: self.public[server].encode(),
        }


@pytest.fixture
def trio() -> Trio:
    return Trio()


@pytest.fixture(params=["ipc", "tcp"])
def bind(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    return lambda name: f"ipc://{tmp_path}/{name}" if request.param == "ipc" else "tcp://127.0.0.1:*"


def poll_until(transport: ZmqTransport, enough: Callable[[list[TransportEvent]], bool]) -> list[TransportEvent]:
    events: list[TransportEvent] = []
    deadline = time.monotonic() + 30
    while not enough(events):
        assert time.monotonic() < deadline, events
        events += transport.poll(0.1)
    return events


def received(events: list[TransportEvent]) -> list[wire.Message]:
    return [event.message for event in events if isinstance(event, Received)]


def test_neighbors_with_keys_talk(trio: Trio, bind: Callable[[str], str]) -> None:
    with (
        ZmqTransport(bind("a"), credentials=trio.keys(0, 1)) as a,
        ZmqTransport(bind("b"), credentials=trio.keys(1, 0)) as b,
    ):
        a.connect({1: b.endpoint}, 4)
        b.connect({0: a.endpoint}, 4)
        a.send(1, HELLO)
        assert received(poll_until(b, lambda events: bool(received(events)))) == [HELLO]


def test_connections_that_end_before_their_first_message_make_room(trio: Trio, bind: Callable[[str], str]) -> None:
    with ZmqTransport(bind("b"), credentials=trio.keys(1, 0)) as victim, zmq.Context() as context:
        admitted, deadline = 0, time.monotonic() + 30
        while admitted < 8:
            neighbor = context.socket(zmq.DEALER)
            for option, value in trio.curve(0, 1).items():
                neighbor.setsockopt(option, value)
            monitor = neighbor.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            neighbor.connect(victim.endpoint)
            assert monitor.poll(30_000)
            # On a busy machine the end of the last one may not have been seen yet.
            admitted += parse_monitor_message(monitor.recv_multipart())["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            assert time.monotonic() < deadline, f"{admitted} of 8 connections were let in"
            neighbor.disable_monitor()
            monitor.close(0)
            neighbor.close(0)
            victim.poll(0.05)


def outsiders(trio: Trio) -> dict[str, dict[int, bytes]]:
    """CURVE options of strangers: no key, their own, or one for another server."""
    return {"no key": {}, "its own key": trio.curve(2, 1), "another server's key": trio.curve(0, 2)}


@pytest.mark.parametrize("name", ["no key", "its own key", "another server's key"])
def test_strangers_are_not_let_in(trio: Trio, bind: Callable[[str], str], name: str) -> None:
    with (
        ZmqTransport(bind("b"), credentials=trio.keys(1, 0)) as victim,
        ZmqTransport(bind("a"), credentials=trio.keys(0, 1)) as neighbor,
        zmq.Context() as context,
    ):
        neighbor.connect({1: victim.endpoint}, 4)
        stranger = context.socket(zmq.DEALER)
        for option, value in outsiders(trio)[name].items():
            stranger.setsockopt(option, value)
        failures = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED
        monitor = stranger.get_monitor_socket(failures)
        stranger.connect(victim.endpoint)
        stranger.send_multipart([bytes(part) for part in wire.encode(HELLO)])
        events: list[TransportEvent] = []
        deadline = time.monotonic() + 30
        while not monitor.poll(0):
            assert time.monotonic() < deadline, "the connection must fail"
            events += victim.poll(0.1)
        neighbor.send(1, HELLO)
        events += poll_until(victim, lambda events: bool(received(events)))
        assert received(events) == [HELLO], "the neighbor's, and nobody else's"
        if name == "its own key":
            assert Refused(Refusal.KEY, "no neighbor's") in events
        stranger.disable_monitor()
        monitor.close(0)
        stranger.close(0)


def test_a_neighbor_cannot_speak_in_anothers_name(trio: Trio, bind: Callable[[str], str]) -> None:
    with (
        ZmqTransport(bind("b"), credentials=trio.keys(1, 0, 2)) as victim,
        ZmqTransport(bind("a"), credentials=trio.keys(0, 1)) as neighbor,
    ):
        neighbor.connect({1: victim.endpoint}, 4)
        neighbor.send(1, wire.Message(wire.Header(wire.VERSION, "run", "hello", 2, 1)))
        neighbor.send(1, HELLO)
        events = poll_until(victim, lambda events: bool(received(events)))
        assert NOT_THE_OWNER in events
        assert received(events) == [HELLO]


def test_nobody_on_the_way_can_read_weights(trio: Trio) -> None:
    overheard = bytearray()
    with (
        ZmqTransport("tcp://127.0.0.1:*", credentials=trio.keys(1, 0)) as b,
        socket.create_server(("127.0.0.1", 0)) as tap,
    ):
        target = int(b.endpoint.rsplit(":", 1)[1])

        def forward(source: socket.socket, sink: socket.socket) -> None:
            while data := source.recv(65536):
                overheard.extend(data)
                sink.sendall(data)

        def listen() -> None:
            near, _ = tap.accept()
            far = socket.create_connection(("127.0.0.1", target))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=forward, args=ends, daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        with ZmqTransport("tcp://127.0.0.1:*", credentials=trio.keys(0, 1)) as a:
            a.connect({1: f"tcp://127.0.0.1:{tap.getsockname()[1]}"}, 1 << 12)
            weights = torch.arange(256, dtype=torch.float32).numpy().tobytes()
            header = wire.Header(wire.VERSION, "run", "chunk", 0, 1, "fp32", "layout", "x", 0, len(weights))
            a.send(1, wire.Message(header, weights, ends=True))
            (message,) = received(poll_until(b, lambda events: bool(received(events))))
            assert bytes(message.body) == weights
    assert len(overheard) > len(weights)
    assert weights[:64] not in overheard
    assert weights[-64:] not in overheard


def test_large_vectors_arrive_whole(trio: Trio, bind: Callable[[str], str]) -> None:
    with (
        ZmqTransport(bind("a"), credentials=trio.keys(0, 1)) as a,
        ZmqTransport(bind("b"), credentials=trio.keys(1, 0)) as b,
    ):
        a.connect({1: b.endpoint}, 1 << 23)
        data = np.random.default_rng(0).standard_normal(700_000).astype(np.float32)
        header = wire.Header(wire.VERSION, "run", "chunk", 0, 1, codec="fp32")
        for message in wire.chunks(header, {"x": data.view(np.uint8).data}):
            a.send(1, message)
        messages = received(poll_until(b, lambda events: len(received(events)) == 3))
        assert messages[0].size == wire.CHUNK_BYTES
        assert b"".join(bytes(message.body) for message in messages) == data.tobytes()


def test_the_name_of_a_connection_proves_nothing(trio: Trio, bind: Callable[[str], str]) -> None:
    """A neighbor may call its connection what another neighbor's was called before."""
    imposture = [bytes(part) for part in wire.encode(HELLO)]
    with ZmqTransport(bind("b"), credentials=trio.keys(1, 0, 2)) as victim, zmq.Context() as context:
        for me in (0, 2):
            events: list[TransportEvent] = []
            deadline = time.monotonic() + 60
            while not events:  # a name is taken until the socket has seen its last connection end
                assert time.monotonic() < deadline
                link = context.socket(zmq.DEALER)
                link.setsockopt(zmq.ROUTING_ID, b"the same")
                for option, value in trio.curve(me, 1).items():
                    link.setsockopt(option, value)
                link.connect(victim.endpoint)
                link.send_multipart(imposture)
                events = victim.poll(2.0)
                link.close(0)
            assert events == ([Received(HELLO, sum(map(len, imposture)))] if me == 0 else [NOT_THE_OWNER])


def test_a_neighbor_that_is_let_in_later_is_tried_again(trio: Trio, bind: Callable[[str], str]) -> None:
    with ZmqTransport(bind("a"), credentials=trio.keys(0, 1)) as a:
        strict = ZmqTransport(bind("b"), credentials=trio.keys(1, 2))
        a.connect({1: strict.endpoint}, 4)
        a.send(1, HELLO)
        refusals = 0
        began = time.monotonic()
        while refusals < 3:
            assert time.monotonic() < began + 30
            refusals += len(strict.poll(0.02))
            assert a.poll(0.02) == []
        assert time.monotonic() > began + 1, "not as often as the machine can"
        endpoint = strict.endpoint
        strict.close()
        with ZmqTransport(endpoint, credentials=trio.keys(1, 0)) as b:
            assert poll_until(a, bool) == [Reconnected(1)], "which says that what was sent may be lost"
            a.send(1, HELLO)
            assert HELLO in received(poll_until(b, lambda events: bool(received(events))))


@pytest.mark.parametrize("stranger_has_keys", [False, True])
def test_connections_that_fit_no_keys_are_counted(stranger_has_keys: bool) -> None:
    own, theirs, old = (zmq.curve_keypair() for _ in range(3))
    keys = Keys(own[0].decode(), own[1].decode(), {1: theirs[0].decode()})
    with ZmqTransport("tcp://127.0.0.1:*", credentials=keys) as transport, zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        dealer.linger = 0
        if stranger_has_keys:  # but an old one of the other end
            dealer.curve_serverkey, (dealer.curve_publickey, dealer.curve_secretkey) = old[0], theirs
        dealer.connect(transport.endpoint)
        seen = poll_until(transport, lambda events: any(isinstance(event, Refused) for event in events))
        dealer.close()
    # Without keys both ends notice, and if the other is first, it is gone before it has said what it wants.
    allowed = {"handshake"} if stranger_has_keys else {"handshake", "unfinished"}
    assert {event.code for event in seen if isinstance(event, Refused)} <= allowed
