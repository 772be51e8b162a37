"""Admission of connections before their first message (ZAP), and their number.

ZeroMQ asks this thread about every connection that has shown its proof (RFC 27); pyzmq's own authenticator would do,
if it could know how many connections of a neighbor are still alive. The thread hears so from the socket's monitor,
which says when connections begin and end. An admitted connection's messages have a User-Id made here, which says whose
it is. Without credentials everybody is admitted.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from p2pfl.errors import Refusal
from p2pfl.protocol.events import Refused
from p2pfl.transport.connections import Admitted, Connection, State
from p2pfl.transport.counters import received
from p2pfl.transport.credentials import Credentials
from p2pfl.transport.handles import accepted

LIVE = 2  # connections of one neighbor: an old one may outlive the new one for a moment
STRANGERS = 64  # connections beside those
HANDSHAKE_MS = 5_000  # after which ZeroMQ closes a connection that has not been admitted
SILENT_SECONDS = 2 * HANDSHAKE_MS / 1000  # after which one is closed that has sent nothing: a neighbor's begins at once
BARRED_SECONDS = 10.0  # at most, that a neighbor has to wait whose connection was closed because of what it sent
BARRED_PART = 0.25  # of the grace: an honest neighbor that was misjudged comes back before it counts as lost
_DOMAIN = "p2pfl"
_LOOK_MS = 100
_RESET = struct.pack("ii", 1, 0)  # closing resets the connection: the other end hears of it, whatever it still sends
_BATCH = 1024  # connections, and news of connections, dealt with at one look
_LOOKS = 8  # that go by without closing surplus connections while there is more news than one look deals with
_REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Refused(
        Refusal.HANDSHAKE, "a connection without this run's keys or token, or with others"
    ),
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: Refused(
        Refusal.UNFINISHED, "a connection that ended, or said nothing, before it stood"
    ),
}


class Admission:
    """Decides who may connect to one socket, and keeps account of the connections."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        router: zmq.Socket[bytes],
        credentials: Credentials | None,
        grace: float,
    ) -> None:
        """Before `router` is bound; it is the only socket of its context that is.

        `grace`: seconds after which a broken connection counts as lost.
        """
        self._barred_seconds = min(BARRED_SECONDS, BARRED_PART * grace)
        self.neighbors = 0 if credentials is None else credentials.size
        self._credentials = credentials
        self._state = State()
        self._router = router
        if credentials is not None:
            credentials.secure_server(router)
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # if nobody answers, nobody comes in, instead of everybody
        self._monitor: Any = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | sum(_REFUSALS))
        self._zap = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind("inproc://zeromq.zap.01")
        threading.Thread(target=self._run, name="admission", daemon=True).start()

    def connection(self, user: str, number: int | None) -> Connection | None:
        """The connection with a User-Id, whose first message has come by this file number; None if it has ended.

        Where the system does not say numbers, connections are neither told apart nor counted.
        """
        with self._state.lock:
            self._state.is_blind = self._state.is_blind or number is None
            admitted = self._state.admitted.get(user)
            if admitted is None:
                return None
            connection = None if number is None else self._state.connections.get(number)
            if connection is None or connection.order > admitted.order:  # that number's next
                del self._state.admitted[user]
                return None
            connection.user, connection.neighbor = user, admitted.neighbor
            connection.proven = admitted.neighbor is not None
            admitted.connection = connection
            return connection

    def connections(self) -> list[Connection]:
        """Those that are open."""
        with self._state.lock:
            return list(self._state.connections.values())

    def refusals(self) -> list[Refused]:
        """Why connections have been refused or closed since this was last asked."""
        with self._state.lock:
            refused, self._state.refused = self._state.refused, Counter()
        return list(refused.elements())

    def close_connection(self, connection: Connection, reason: Refused) -> None:
        """Close one because of what it has sent; its neighbor has to wait before it may connect again."""
        with self._state.lock:
            if connection.ended:
                return
            if connection.neighbor is not None:
                self._state.barred[connection.neighbor] = time.monotonic() + self._barred_seconds
            self._shut(connection, reason)

    def close_silent(self) -> None:
        """Close connections that have sent nothing for long; to be called when all that came has been looked at."""
        limit = time.monotonic() - SILENT_SECONDS
        with self._state.lock:
            for connection in [] if self._state.is_blind else list(self._state.connections.values()):
                if connection.user is None and connection.since < limit:
                    self._shut(connection, Refused(Refusal.SILENT, "a connection that sent nothing"))
            for user, admitted in list(self._state.admitted.items()):
                if admitted.connection is None and admitted.since < limit:
                    del self._state.admitted[user]

    def close(self) -> None:
        """Before the socket is closed; the thread ends with the context."""
        self._router.disable_monitor()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        looks = 0
        try:
            while True:
                poller.poll(_LOOK_MS)
                with self._state.lock:
                    looks = 0 if self._look() else looks + 1
                    if looks % _LOOKS == 0:  # what is old news must not be closed: its number may be another's by now
                        self._close_surplus()
        except zmq.ContextTerminated:
            pass
        finally:
            self._zap.close(0)
            self._monitor.close(0)
            for connection in self.connections():
                connection.end.close()

    def _look(self) -> bool:
        """Hear the news and answer requests; True where no news is left."""
        for _ in range(_BATCH):
            up_to_date = self._hear()  # first, so that whoever asks is known, and whoever has gone is not counted
            if not up_to_date or not self._answer():
                return up_to_date
        return True

    def _hear(self) -> bool:
        """Hear a batch of news; True where none is left."""
        for _ in range(_BATCH):
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return True
            number = event["value"]
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._forget(number)
                now = time.monotonic()
                with contextlib.suppress(OSError):  # gone already
                    end = accepted(number, event["endpoint"].decode())
                    self._state.connections[number] = Connection(end, self._next(), now, received(end), settled=now)
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._forget(number)
            elif event["event"] in _REFUSALS:
                self._state.refused[_REFUSALS[zmq.Event(event["event"])]] += 1
        return False

    def _answer(self) -> bool:
        """Answer one request; False where there is none."""
        try:
            _, request, *_, mechanism = (parts := self._zap.recv_multipart(zmq.NOBLOCK))[:6]
        except zmq.Again:
            return False
        neighbor, refusal = self._decide(mechanism, parts[6:])
        if refusal:
            self._state.refused[refusal] += 1
            self._zap.send_multipart([b"1.0", request, b"400", b"refused", b"", b""])
            return True
        order = self._next()
        user = f"{'' if neighbor is None else neighbor}.{order}"
        self._state.admitted[user] = Admitted(neighbor, order, time.monotonic())
        self._zap.send_multipart([b"1.0", request, b"200", b"OK", user.encode(), b""])
        return True

    def _decide(self, mechanism: bytes, proof: list[bytes]) -> tuple[int | None, Refused | None]:
        """The neighbor that asks, or why it is refused."""
        if self._credentials is None:
            return None, None
        neighbor = self._credentials.neighbor(proof) if mechanism == self._credentials.mechanism else None
        if neighbor is None:
            return None, self._credentials.refusal
        if self._state.barred.get(neighbor, 0.0) > time.monotonic():
            return None, Refused(Refusal.BARRED, "a neighbor whose connection was closed a moment ago")
        if self._state.live(neighbor, self._credentials.unasked) >= LIVE:
            return None, Refused(Refusal.CONNECTIONS, f"more than {LIVE} of one neighbor")
        return neighbor, None

    def _close_surplus(self) -> None:
        open_ = self._state.connections.values()
        surplus = len(open_) - LIVE * self.neighbors - STRANGERS
        if surplus <= 0:
            return
        # Whoever has proven nothing goes first, the oldest of these before a newcomer that is about to, and before one
        # that may have been admitted and has sent nothing yet; of those that have, which are too many only without
        # credentials, the newest.
        last = max((one.order for one in self._state.unknown() if one.neighbor is not None), default=0)
        order = sorted(open_, key=lambda one: (one.proven, one.order < last, -one.order if one.proven else one.order))
        for connection in order[:surplus]:
            self._shut(connection, Refused(Refusal.CONNECTIONS, "more than a peer's neighbors need"))

    def _shut(self, connection: Connection, reason: Refused) -> None:
        with contextlib.suppress(OSError):  # closed by the other end
            connection.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.end.shutdown(socket.SHUT_RDWR)
        self._state.refused[reason] += 1
        self._forget(next(number for number, one in self._state.connections.items() if one is connection))

    def _forget(self, number: int) -> None:
        connection = self._state.connections.pop(number, None)
        if connection is not None:
            connection.ended = True
            connection.end.close()
            if connection.user is None:
                self._state.forget_unknown()
            else:
                self._state.admitted.pop(connection.user, None)

    def _next(self) -> int:
        self._state.count += 1
        return self._state.count
