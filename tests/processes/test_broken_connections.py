"""Connections that end with messages waiting do not crash the receiving peer."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
import zmq
from tests.support.live_socket import LAST, SECRET, LiveSocket, login, wire_frames
from tests.support.raw_zmtp import PING, answer_hands, dial, message, open_stranger, reset, wait_until_read

MANY = 500  # messages, far more than fit a queue of 64


class Cable:
    """Proxy between a client and an endpoint.

    It closes or resets the connection when the client has gone.
    """

    def __init__(self, endpoint: str, resets: bool) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.full = threading.Event()  # a good part of `MANY` messages has passed
        self.answered = threading.Event()  # and heartbeats have been answered
        self.ended = threading.Event()
        self._target, self._resets, self._passed = endpoint, resets, 0
        threading.Thread(target=self._forward, daemon=True).start()

    def _forward(self) -> None:
        near, _ = self._server.accept()
        far = dial(self._target)
        threading.Thread(target=self._back, args=(far, near), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                far.sendall(data)
                self._passed += len(data)
                if self._passed > 24 * MANY // 4:
                    self.full.set()
        reset(far) if self._resets else far.close()
        self._server.close()
        self.ended.set()

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                near.sendall(data)
                if self.full.is_set():  # the handshake is over: a heartbeat behind messages is answered
                    self.answered.set()


@pytest.mark.processes
@pytest.mark.parametrize("ends", ["close", "reset"])
@pytest.mark.parametrize("who", ["stranger", "neighbor"])
def test_a_raw_client_ends_with_heartbeats_behind_a_full_queue(who: str, ends: str) -> None:
    proof = {} if who == "stranger" else {"token": (SECRET, 0, [1, 2])}
    with LiveSocket(**proof) as victim:
        client = open_stranger(victim.endpoint, None if who == "stranger" else login(1, 0))
        client.sendall((message(*wire_frames(1)) * 4 + PING) * MANY)
        wait_until_read(client)
        client.sendall(PING * 50)
        reset(client) if ends == "reset" else client.close()
        last = open_stranger(victim.endpoint, None if who == "stranger" else login(2, 0))
        last.sendall(message(*wire_frames(2, LAST)))
        came = victim.poll()["came"]
        assert came["last"] == 1
        last.close()


@pytest.mark.processes
@pytest.mark.parametrize("ends", ["close", "reset"])
def test_a_link_is_reconnected_while_its_other_end_sends(ends: str) -> None:
    with LiveSocket() as victim, socket.create_server(("127.0.0.1", 0)) as hostile:
        victim.connect(1, f"tcp://127.0.0.1:{hostile.getsockname()[1]}")
        connection, _ = hostile.accept()
        connection.settimeout(60)
        answer_hands(connection)
        connection.sendall((message(*wire_frames(1)) * 4 + PING) * MANY)
        wait_until_read(connection)
        reset(connection) if ends == "reset" else connection.close()
        last = open_stranger(victim.endpoint)
        last.sendall(message(*wire_frames(1, LAST)))
        assert victim.poll()["came"]["last"] == 1
        hostile.settimeout(60)
        hostile.accept()[0].close()
        last.close()


@pytest.mark.processes
@pytest.mark.parametrize("ends", ["close", "reset"])
def test_a_killed_neighbor_leaves_a_full_queue(ends: str) -> None:
    with LiveSocket(token=(SECRET, 0, [1, 2])) as victim:
        cable = Cable(victim.endpoint, ends == "reset")
        neighbor = LiveSocket(token=(SECRET, 1, [0]))
        try:
            neighbor.connect(0, cable.endpoint)
            neighbor.send(0, MANY // 2)
            assert cable.full.wait(60)
        finally:
            neighbor.kill()
        assert cable.ended.wait(60)
        last = open_stranger(victim.endpoint, login(2, 0))
        last.sendall(message(*wire_frames(2, LAST)))
        assert victim.poll()["came"]["last"] == 1
        last.close()


@pytest.mark.processes
@pytest.mark.parametrize("ends", ["close", "reset"])
def test_a_neighbor_with_keys_ends_with_heartbeats_behind_a_full_queue(ends: str) -> None:
    pairs = [[part.decode() for part in zmq.curve_keypair()] for _ in range(2)]
    with LiveSocket(keys=(*pairs[0], {1: pairs[1][0]})) as victim, zmq.Context() as context:
        cable = Cable(victim.endpoint, ends == "reset")
        for round, endpoint in ((1, cable.endpoint), (LAST, victim.endpoint)):
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 10_000
                dealer.heartbeat_ivl = 100  # with 10, and encryption, libzmq sends none
                dealer.curve_serverkey = pairs[0][0].encode()
                dealer.curve_publickey, dealer.curve_secretkey = (part.encode() for part in pairs[1])
                dealer.connect(endpoint)
                for _ in range(MANY if round == 1 else 1):
                    dealer.send_multipart(wire_frames(1, round))
                if round == 1:
                    assert cable.answered.wait(60)
        assert cable.ended.wait(60)
        assert victim.poll()["came"]["last"] == 1
