"""Admission of connections (ZAP authentication), and limits on their number.

ZeroMQ asks this thread about every connection that has shown its proof (RFC 27). pyzmq's authenticator would do if it
knew how many connections of a neighbor are open; this thread knows from the socket's monitor, which tells when
connections begin and end. Messages of an admitted connection carry a User-Id made here, which tells whose they are.
Without credentials everybody is admitted.
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
from p2pfl.transport.connections import Admitted, Connection, ConnectionTable
from p2pfl.transport.credentials import Credentials
from p2pfl.transport.kernel_sockets import bytes_received, duplicate_accepted

MAX_CONNECTIONS = 2  # of one neighbor: an old one may outlive the new one for a moment
STRANGERS = 64  # further connections, before the surplus is closed
HANDSHAKE_MS = 5_000  # after which ZeroMQ closes a connection that is not admitted
SILENT_SECONDS = 2 * HANDSHAKE_MS / 1000  # after which a silent one is closed: neighbors send at once
BARRED_SECONDS = 10.0  # at most, for a neighbor whose connection was closed because of its messages
BARRED_PART = 0.25  # of the grace: an honest neighbor, misjudged, reconnects before it counts as lost
_DOMAIN = "p2pfl"
_POLL_MS = 100
_RESET = struct.pack("ii", 1, 0)  # closing resets the connection: the other end notices even while it sends
_BATCH = 1024  # requests, and monitor events, handled in one turn
_TURNS = 8  # without closing surplus connections while more events wait than one turn handles
_REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Refused(
        Refusal.HANDSHAKE, "a connection without this run's keys or token, or with others"
    ),
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: Refused(
        Refusal.UNFINISHED, "a connection that ended, or stayed silent, during its handshake"
    ),
}


class Admission:
    """Admission of connections to one socket, and account of those that are open."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        router: zmq.Socket[bytes],
        credentials: Credentials | None,
        grace: float,
    ) -> None:
        """Prepare a socket that is not bound yet.

        `router`: the only socket of its context that will be bound.
        `grace`: seconds after which a broken connection counts as lost.
        """
        self._barred_seconds = min(BARRED_SECONDS, BARRED_PART * grace)
        self.neighbors = 0 if credentials is None else credentials.size
        self._credentials = credentials
        self._table = ConnectionTable()
        self._router = router
        if credentials is not None:
            credentials.secure_server(router)
        router.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an answer nobody is admitted, instead of everybody
        self._monitor: Any = router.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | sum(_REFUSALS))
        self._zap = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind("inproc://zeromq.zap.01")
        threading.Thread(target=self._run, name="admission", daemon=True).start()

    def connection(self, user: str, number: int | None) -> Connection | None:
        """Connection of a User-Id's first message; None if it has ended.

        `number`: the file number over which the message came. Where the system does not tell it, connections are
        neither told apart nor counted.
        """
        with self._table.lock:
            self._table.is_blind = self._table.is_blind or number is None
            admitted = self._table.admitted.get(user)
            if admitted is None:
                return None
            connection = None if number is None else self._table.connections.get(number)
            if connection is None or connection.order > admitted.order:  # a later one with that number
                del self._table.admitted[user]
                return None
            connection.user, connection.neighbor = user, admitted.neighbor
            connection.proven = admitted.neighbor is not None
            admitted.connection = connection
            return connection

    def connections(self) -> list[Connection]:
        """Open connections."""
        with self._table.lock:
            return list(self._table.connections.values())

    def refusals(self) -> list[Refused]:
        """Take the refusals and closings of connections since the last call."""
        with self._table.lock:
            refused, self._table.refused = self._table.refused, Counter()
        return list(refused.elements())

    def close_connection(self, connection: Connection, reason: Refused) -> None:
        """Close a connection because of its messages, and bar its neighbor for a while."""
        with self._table.lock:
            if connection.ended:
                return
            if connection.neighbor is not None:
                self._table.barred[connection.neighbor] = time.monotonic() + self._barred_seconds
            self._shut(connection, reason)

    def close_silent(self) -> None:
        """Close connections that have long sent nothing.

        To be called when all received messages have been looked at.
        """
        limit = time.monotonic() - SILENT_SECONDS
        with self._table.lock:
            for connection in [] if self._table.is_blind else list(self._table.connections.values()):
                if connection.user is None and connection.since < limit:
                    self._shut(connection, Refused(Refusal.SILENT, "a connection that sent nothing"))
            for user, admitted in list(self._table.admitted.items()):
                if admitted.connection is None and admitted.since < limit:
                    del self._table.admitted[user]

    def close(self) -> None:
        """Stop the monitor before the socket is closed; the thread ends with the context."""
        self._router.disable_monitor()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._monitor, zmq.POLLIN)
        turns = 0
        try:
            while True:
                if self._can_answer and self._zap not in poller:
                    poller.register(self._zap, zmq.POLLIN)
                poller.poll(_POLL_MS)
                with self._table.lock:
                    turns = 0 if self._take_turn() else turns + 1
                    if turns % _TURNS == 0:  # after old events a file number may be another connection's by now
                        self._close_surplus()
        except zmq.ContextTerminated:
            pass
        finally:
            self._zap.close(0)
            self._monitor.close(0)
            for connection in self.connections():
                connection.end.close()

    def _take_turn(self) -> bool:
        """Read monitor events and answer requests; True if no events are left."""
        for _ in range(_BATCH):
            up_to_date = self._read_events()  # first: new connections must be known, and ended ones not counted
            if not up_to_date or not self._answer():
                return up_to_date
        return True

    def _read_events(self) -> bool:
        """Read a batch of monitor events; True if none are left."""
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
                    end = duplicate_accepted(number, event["endpoint"].decode())
                    come = bytes_received(end)
                    self._table.connections[number] = Connection(end, self._next(), now, come, settled=now)
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._forget(number)
            elif event["event"] in _REFUSALS:
                self._table.refused[_REFUSALS[zmq.Event(event["event"])]] += 1
        return False

    @property
    def _can_answer(self) -> bool:
        return self._credentials is None or self._credentials.is_complete

    def _answer(self) -> bool:
        """Answer one request; False if there is none that can be answered yet."""
        if not self._can_answer:
            return False
        try:
            _, request, *_, mechanism = (parts := self._zap.recv_multipart(zmq.NOBLOCK))[:6]
        except zmq.Again:
            return False
        neighbor, refusal = self._decide(mechanism, parts[6:])
        if refusal:
            self._table.refused[refusal] += 1
            self._zap.send_multipart([b"1.0", request, b"400", b"refused", b"", b""])
            return True
        order = self._next()
        user = f"{'' if neighbor is None else neighbor}.{order}"
        self._table.admitted[user] = Admitted(neighbor, order, time.monotonic())
        self._zap.send_multipart([b"1.0", request, b"200", b"OK", user.encode(), b""])
        return True

    def _decide(self, mechanism: bytes, proof: list[bytes]) -> tuple[int | None, Refused | None]:
        """Neighbor that asks, or the reason for its refusal."""
        if self._credentials is None:
            return None, None
        neighbor = self._credentials.neighbor(proof) if mechanism == self._credentials.mechanism else None
        if neighbor is None:
            return None, self._credentials.refusal
        if self._table.barred.get(neighbor, 0.0) > time.monotonic():
            return None, Refused(Refusal.BARRED, "a neighbor whose connection was closed a moment ago")
        if self._table.count_open(neighbor, self._credentials.unasked) >= MAX_CONNECTIONS:
            return None, Refused(Refusal.CONNECTIONS, f"more than {MAX_CONNECTIONS} of one neighbor")
        return neighbor, None

    def _close_surplus(self) -> None:
        open_ = self._table.connections.values()
        surplus = len(open_) - MAX_CONNECTIONS * self.neighbors - STRANGERS
        if surplus <= 0:
            return
        # Unproven connections are closed first: the oldest before newcomers that may be about to prove themselves, and
        # before one that may have been admitted and has sent nothing yet. Then the newest proven ones, of which there
        # are too many only without credentials.
        last = max((one.order for one in self._table.unmatched() if one.neighbor is not None), default=0)
        order = sorted(open_, key=lambda one: (one.proven, one.order < last, -one.order if one.proven else one.order))
        for connection in order[:surplus]:
            self._shut(connection, Refused(Refusal.CONNECTIONS, "more than a peer's neighbors need"))

    def _shut(self, connection: Connection, reason: Refused) -> None:
        with contextlib.suppress(OSError):  # closed by the other end
            connection.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.end.shutdown(socket.SHUT_RDWR)
        self._table.refused[reason] += 1
        self._forget(next(number for number, one in self._table.connections.items() if one is connection))

    def _forget(self, number: int) -> None:
        connection = self._table.connections.pop(number, None)
        if connection is not None:
            connection.ended = True
            connection.end.close()
            if connection.user is None:
                self._table.forget_ended()
            else:
                self._table.admitted.pop(connection.user, None)

    def _next(self) -> int:
        self._table.count += 1
        return self._table.count
