"""Connections that end with messages waiting, each in each way: the peer that receives them does not crash."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading

import pytest
import zmq
from live_socket import LAST, LiveSocket, wire_frames
from raw_zmtp import PING, dial, message, open_stranger, reset, wait_until_read

from p2pfl.transport import Token

SECRET = "0123456789abcdef0123456789abcdef"
MANY = 500  # messages, far more than fit a queue of 64


def login(sender: int, receiver: int) -> tuple[str, str]:
    return str(sender), Token(SECRET, sender, frozenset()).password(sender, receiver)


class Cable:
    """A proxy between a client and an endpoint, which ends the connection in either way when the client has gone."""

    def __init__(self, endpoint: str, resets: bool) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.answered = threading.Event()  # after `MANY` messages
        self.ended = threading.Event()
        self._target, self._resets = endpoint, resets
        threading.Thread(target=self._forward, daemon=True).start()

    def _forward(self) -> None:
        near, _ = self._server.accept()
        far = dial(self._target)
        threading.Thread(target=self._back, args=(far, near), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 16):
                far.sendall(data)
        reset(far) if self._resets else far.close()
        self._server.close()
        self.ended.set()

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        seen = 0
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 16):
                near.sendall(data)
                seen += len(data)
                if seen > 450:  # of which a handshake takes fewer: heartbeats behind the messages are answered
                    self.answered.set()


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


@pytest.mark.parametrize("ends", ["close", "reset"])
def test_a_killed_neighbor_leaves_a_full_queue(ends: str) -> None:
    with LiveSocket(token=(SECRET, 0, [1, 2])) as victim:
        cable = Cable(victim.endpoint, ends == "reset")
        with contextlib.suppress(AssertionError), LiveSocket(token=(SECRET, 1, [0])) as neighbor:
            neighbor.connect(0, cable.endpoint)
            neighbor.send(0, MANY // 2)
            neighbor.process.send_signal(signal.SIGKILL)
            neighbor.process.wait()
        assert cable.ended.wait(30)
        last = open_stranger(victim.endpoint, login(2, 0))
        last.sendall(message(*wire_frames(2, LAST)))
        assert victim.poll()["came"]["last"] == 1
        last.close()


@pytest.mark.parametrize("ends", ["close", "reset"])
def test_a_neighbor_with_keys_ends_with_heartbeats_behind_a_full_queue(ends: str) -> None:
    pairs = [[part.decode() for part in zmq.curve_keypair()] for _ in range(2)]
    with LiveSocket(keys=(*pairs[0], {1: pairs[1][0]})) as victim, zmq.Context() as context:
        cable = Cable(victim.endpoint, ends == "reset")
        for round, endpoint in ((1, cable.endpoint), (LAST, victim.endpoint)):
            with context.socket(zmq.DEALER) as dealer:
                dealer.linger = 10_000
                dealer.heartbeat_ivl = 10
                dealer.curve_serverkey = pairs[0][0].encode()
                dealer.curve_publickey, dealer.curve_secretkey = (part.encode() for part in pairs[1])
                dealer.connect(endpoint)
                for _ in range(MANY if round == 1 else 1):
                    dealer.send_multipart(wire_frames(1, round))
                if round == 1:
                    cable.answered.wait(5)
        assert cable.ended.wait(30)
        assert victim.poll()["came"]["last"] == 1
