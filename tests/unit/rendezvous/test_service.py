"""Directory service on real sockets: admission, limits, and words for failures."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq
from tests.support.entries import RUN, entry
from tests.support.rendezvous_service import ServiceThread

from p2pfl import make_topology
from p2pfl.errors import ConfigError, TransportError
from p2pfl.rendezvous.client import ServiceClient
from p2pfl.rendezvous.directory import DirectoryError, Found
from p2pfl.rendezvous.entry import Entry, Identity, topology_digest
from p2pfl.rendezvous.service import Service
from p2pfl.rendezvous.token_keys import as_hex, from_hex, peer_pair
from p2pfl.rendezvous.wire import REQUEST_BYTES, Withdraw, encode

TOKEN = "0123456789abcdef" * 2
RING = make_topology("ring", 4)
IDENTITY = Identity(topology_digest(RING), RUN.settings)
PUBLIC, SECRET = (part.decode() for part in zmq.curve_keypair())


def of_ring(peer: int, address: str = "tcp://10.0.0.2:7000") -> Entry:
    return entry(peer, address, identity=IDENTITY)


class Running(ServiceThread):
    """A service in a thread, and clients of it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._has_said = threading.Condition()
        super().__init__(Service(RING, "tcp://127.0.0.1:*", (PUBLIC, SECRET), TOKEN, self._say))

    def _say(self, line: str) -> None:
        with self._has_said:
            self.said.append(line)
            self._has_said.notify_all()

    def wait_until_said(self, text: str) -> None:
        with self._has_said:
            assert self._has_said.wait_for(lambda: any(text in line for line in self.said), 30), self.said

    def client(self, peer: int, token: str = TOKEN, key: str = PUBLIC) -> contextlib.closing[ServiceClient]:
        return contextlib.closing(ServiceClient(self.where, as_hex(key), token, peer, 2))


@pytest.fixture
def running() -> Iterator[Running]:
    service = Running()
    yield service
    service.end()


def patient() -> bool:
    return False


def within(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_peers_find_their_neighbors(running: Running) -> None:
    with running.client(0) as zero, running.client(1) as one, running.client(2) as two:
        assert zero.exchange(of_ring(0), [1, 3], patient) == Found()
        assert two.exchange(of_ring(2), [1, 3], patient) == Found()
        assert one.exchange(of_ring(1), [0, 2], patient) == Found((of_ring(0), of_ring(2)))
        assert zero.exchange(of_ring(0), [1, 3], patient) == Found((of_ring(1),))
        assert zero.exchange(of_ring(0), [1, 3], patient) == Found()
        zero.withdraw(of_ring(0))
    with running.client(3) as three:
        assert three.exchange(of_ring(3), [0, 2], patient) == Found((of_ring(2),))
    assert running.said == [
        "peer 0 announces tcp://10.0.0.2:7000",
        "peer 2 announces tcp://10.0.0.2:7000",
        "peer 1 announces tcp://10.0.0.2:7000",
        "peer 0 has left",
        "peer 3 announces tcp://10.0.0.2:7000",
    ]


def test_who_holds_a_peer_s_place_is_told_without_taking_it(running: Running) -> None:
    first, second = of_ring(0), entry(0, "tcp://10.0.0.3:7000", identity=IDENTITY, process="process-later")
    with running.client(0) as one, running.client(0) as two, running.client(1) as neighbor:
        assert two.occupant(second, patient) is None
        one.exchange(first, (1, 3), patient)
        assert one.occupant(first, patient) is None, "its own process"
        assert two.occupant(second, patient) == first
        assert neighbor.exchange(of_ring(1), (0, 2), patient).entries == (first,)
        assert not two.claim(second, None, patient), "it was free a moment ago"
        assert neighbor.exchange(of_ring(1), (0, 2), patient).entries == (), "nothing has changed"
        assert not one.exchange(first, (1, 3), patient).is_superseded
        assert two.claim(second, first, patient)
        assert two.claim(second, None, patient), "it is its own by now"
        assert neighbor.exchange(of_ring(1), (0, 2), patient).entries == (second,)
        assert one.exchange(first, (1, 3), patient).is_superseded


def test_keys_follow_from_the_token_and_the_number() -> None:
    pairs = {peer_pair(token, peer) for token in (TOKEN, TOKEN[::-1]) for peer in range(3)}
    assert len(pairs) == 6
    assert peer_pair(TOKEN, 1) in pairs
    for public, secret in pairs:
        assert zmq.curve_public(secret.encode()).decode() == public
        assert from_hex(as_hex(public)) == public
        assert TOKEN not in secret


def test_who_has_not_the_token_or_the_service_s_key_is_told_so(running: Running) -> None:
    other = zmq.curve_keypair()[0].decode()
    cases = [
        (running.client(0, token=TOKEN[::-1]), "it refuses this peer: another token, or another topology"),
        (running.client(7), "it refuses this peer"),
        (running.client(0, key=other), "another key than --rendezvous-key, or no such service"),
        (contextlib.closing(ServiceClient("tcp://127.0.0.1:9", as_hex(PUBLIC), TOKEN, 0, 2)), "nothing listens there"),
    ]
    for made, reason in cases:
        with made as client:
            deadline, said = time.monotonic() + 60, ""
            while reason not in said:  # a try that ends amid a handshake says how far that one has come
                assert time.monotonic() < deadline, said
                with pytest.raises(DirectoryError, match="no answer from the rendezvous service at") as caught:
                    client.exchange(of_ring(0), [1, 3], within(1.0))
                said = str(caught.value)
    with running.client(0) as honest:
        assert honest.exchange(of_ring(0), [1, 3], patient) == Found()
    assert running.said == ["peer 0 announces tcp://10.0.0.2:7000"]


def test_another_topology_ends_the_peer_with_a_remedy(running: Running) -> None:
    with running.client(0) as client, pytest.raises(ConfigError, match="it serves another topology; start it and all"):
        client.exchange(entry(0), [1], patient)


def raw(running: Running, context: zmq.Context[zmq.Socket[bytes]], peer: int) -> zmq.Socket[bytes]:
    """A socket with a peer's own key, which sends what it likes."""
    public, secret = peer_pair(TOKEN, peer)
    socket = context.socket(zmq.DEALER)
    for option, value in {
        zmq.CURVE_PUBLICKEY: public,
        zmq.CURVE_SECRETKEY: secret,
        zmq.CURVE_SERVERKEY: PUBLIC,
    }.items():
        socket.setsockopt(option, value.encode())
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(running.where)
    return socket


@pytest.mark.parametrize(
    "frames",
    [[b"\xc1 no MessagePack"], [b""], [encode(Withdraw(1, "x")), b""], [b""] * 5000, [b"x" * (REQUEST_BYTES + 1)]],
    ids=["garbage", "empty", "two frames", "many frames", "too long"],
)
def test_what_is_no_request_closes_its_connection_and_disturbs_nobody(running: Running, frames: list[bytes]) -> None:
    with running.client(0) as honest, zmq.Context() as context:
        honest.exchange(of_ring(0), [1, 3], patient)
        hostile = raw(running, context, 1)
        monitor = hostile.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        hostile.send_multipart(frames)
        assert monitor.poll(60_000), "its connection is closed"
        assert honest.exchange(of_ring(0), [1, 3], patient) == Found()
        assert not hostile.poll(0), "no answer"
        hostile.disable_monitor()
        monitor.close(0)
        hostile.close(0)
    assert running.said == ["peer 0 announces tcp://10.0.0.2:7000"]


def test_probes_of_the_port_are_said_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.rendezvous.service.REPORT_SECONDS", 0.0)
    host, _, port = running.where.removeprefix("tcp://").partition(":")

    def probe() -> None:
        socket.create_connection((host, int(port))).close()

    probe()
    running.wait_until_said("refused: unfinished: ")
    probe()

    def is_refused() -> bool:
        return any("refused: key: " in line for line in running.said)

    with running.client(0, token="f" * 32) as stranger:
        deadline = time.monotonic() + 60
        while not is_refused():  # it stays until then: on a busy machine a handshake may take long
            assert time.monotonic() < deadline, running.said
            with pytest.raises(DirectoryError):
                stranger.exchange(of_ring(0), [1, 3], is_refused)
    assert sum("unfinished" in line for line in running.said) == 1


def test_an_address_that_is_taken_is_named(running: Running) -> None:
    with pytest.raises(TransportError, match=f"--bind {running.where}: cannot be opened"):
        Service(RING, running.where, (PUBLIC, SECRET), TOKEN, print)
