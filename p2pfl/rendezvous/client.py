"""Directory service as one peer uses it: requests, answers, reasons for none."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from p2pfl.errors import ConfigError
from p2pfl.rendezvous.directory import DirectoryError, Found
from p2pfl.rendezvous.entry import Entry
from p2pfl.rendezvous.token_keys import collector_pair, from_hex, peer_pair
from p2pfl.rendezvous.upload import Upload
from p2pfl.rendezvous.wire import (
    FILES_BYTES,
    Announce,
    Answer,
    Neighbors,
    Query,
    Refused,
    Request,
    Withdraw,
    answer_bytes,
    decode_answer,
    encode,
)

ANSWER_SECONDS = 3.0  # after which the connection is made again
FAREWELL_SECONDS = 1.0  # for the answer to a withdrawal
_POLL_MS = 50
_STATES = {
    zmq.EVENT_CONNECTED: "it does not finish the handshake: another key than --rendezvous-key, or no such service",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it refuses this peer: another token, or another topology",
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "it does not answer",
}


class ServiceClient:
    """Directory in a service (`p2pfl rendezvous`), on one thread."""

    def __init__(self, where: str, key: str, token: str, peer: int | None, neighbors: int = 0) -> None:
        """Prepare; nothing is connected before the first request.

        `key`: of the service, in hexadecimal digits. `peer`: None for a collector. `neighbors`: their number, which
        bounds an answer.
        """
        self.where = where
        self._key = from_hex(key)
        self._pair = collector_pair(token) if peer is None else peer_pair(token, peer)
        self._most = FILES_BYTES if peer is None else answer_bytes(neighbors)
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: Any = None
        self._number = 0
        self._service, self._revision = "", 0
        self._keeps_records = False

    def exchange(self, own: Entry, neighbors: Collection[int], stopped: Callable[[], bool]) -> Found:
        """As in the interface; only entries that have changed are answered."""
        self._number += 1
        answer = self._announce(Announce(self._number, own, self._service, self._revision), stopped)
        self._service, self._revision = answer.service, answer.revision
        self._keeps_records = answer.keeps_records
        return Found(answer.entries, is_superseded=answer.is_superseded)

    def record(self, upload: Upload, stopped: Callable[[], bool]) -> bool:
        """As in the interface."""
        if not self._keeps_records:
            return False
        self._number += 1
        return upload.step(self.ask, self._number, ANSWER_SECONDS, stopped)

    def occupant(self, own: Entry, stopped: Callable[[], bool]) -> Entry | None:
        """As in the interface."""
        self._number += 1
        answer = self.ask(Query(self._number), ANSWER_SECONDS, stopped)
        found = answer.entries if isinstance(answer, Neighbors) else ()
        return next((entry for entry in found if entry.peer == own.peer and entry.process != own.process), None)

    def claim(self, own: Entry, other: Entry | None, stopped: Callable[[], bool]) -> bool:
        """As in the interface."""
        self._number += 1
        before = "" if other is None else other.process
        return not self._announce(Announce(self._number, own, replaces=before), stopped).is_superseded

    def _announce(self, request: Announce, stopped: Callable[[], bool]) -> Neighbors:
        answer = self.ask(request, ANSWER_SECONDS, stopped)
        if isinstance(answer, Refused):
            raise ConfigError(f"--rendezvous {self.where}: {answer.reason}")
        if not isinstance(answer, Neighbors):
            raise DirectoryError(f"an answer of the rendezvous service at {self.where} makes no sense")
        return answer

    def withdraw(self, own: Entry) -> None:
        """As in the interface."""
        self._number += 1
        self.ask(Withdraw(self._number, own.process), FAREWELL_SECONDS, lambda: False)

    def close(self) -> None:
        """As in the interface."""
        self._disconnect()
        self._context.term()

    def ask(self, request: Request, seconds: float, stopped: Callable[[], bool]) -> Answer:
        """Send a request and wait for its answer. Raises DirectoryError where none comes."""
        socket = self._connected()
        socket.send(encode(request))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stopped():
            if socket.poll(_POLL_MS):
                answer = decode_answer(socket.recv())
                if answer is not None and answer.number == request.number:
                    return answer
        why = self._reason()
        self._disconnect()
        raise DirectoryError(f"no answer from the rendezvous service at {self.where} ({why})")

    def _connected(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            self._socket = self._context.socket(zmq.DEALER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.IPV6, 1)
            self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            self._socket.setsockopt(zmq.MAXMSGSIZE, self._most)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair[0].encode())
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair[1].encode())
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, self._key.encode())
            self._monitor = self._socket.get_monitor_socket(sum(_STATES))
            self._socket.connect(self.where)
        return self._socket

    def _reason(self) -> str:
        """Reason why no answer came, by what the connection has reached last."""
        reason = "no connection: nothing listens there, or a firewall is in between"
        while self._monitor is not None and self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            reason = _STATES[zmq.Event(event["event"])]
        return reason

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
            self._socket = self._monitor = None
