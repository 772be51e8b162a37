"""Bounds what strangers can make a bound socket keep: messages without end, and connections without number."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from p2pfl import wire

# An empty frame takes 2 bytes on the wire and about 64 in memory: 8 MiB of them make 256 MiB.
STRAY_BYTES = 8 << 20  # that may have come on all connections together without ending a message
PART_BYTES = wire.CHUNK_BYTES + wire.HEADER_BYTES + (1 << 16)  # of a neighbor's message under way, with its framing
STRANGERS = 64  # connections beside two for each neighbor (an old one may outlive the new one for a moment)
HANDSHAKE_MS = 5_000  # after which ZeroMQ closes a connection that says nothing
WATCH_SECONDS = 0.1
EVENT_BATCH = 1024  # news of connections taken at one look
_TCP_INFO_BYTES = 192
_RECEIVED_AT = 128  # where Linux's struct tcp_info has tcpi_bytes_received
# Where keys do not fit, it is the first or the second, as this end or the other notices first.
_REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "handshake: a connection with other keys, or with keys at one end only",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "unfinished: a connection that ended, or said nothing, before it stood",
}


@dataclass
class _Connection:
    """An accepted connection; `end` is a second handle of it, so that its number cannot come to mean another."""

    end: socket.socket
    base: int  # bytes that had come when messages and bytes last agreed
    seen: int = 0  # bytes that had come when they were last measured
    taken: int = 0  # bytes of whole messages since `base`
    before: int = 0  # of these, the ones that had been taken when bytes were last measured
    spoken: bool = False  # a well-formed message has come


class Watchdog:
    """Watches the connections that one ROUTER accepts, and closes single ones; neighbors keep theirs."""

    def __init__(self, router: zmq.Socket[bytes], backlog: int) -> None:
        """`backlog` is how many whole messages may wait in one connection."""
        self._router = router
        wanted = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | sum(_REFUSALS)
        self._monitor: Any = router.get_monitor_socket(wanted)
        self._backlog = backlog * wire.CHUNK_BYTES
        self._connections: dict[int, _Connection] = {}
        self._numbers: dict[bytes, int] = {}  # a connection's file number by its ZeroMQ identity
        self._measured = 0.0
        self._is_due = False
        self._refused: list[str] = []  # why connections did not come to stand, since this was last told
        self.neighbors = 0

    def took(self, identity: zmq.Frame, size: int, well_formed: bool) -> None:
        """A whole message has come."""
        name = identity.bytes
        number = self._numbers.get(name)
        if number is None:
            try:
                number = self._numbers[name] = int(identity.get(zmq.SRCFD))
            except zmq.ZMQError:
                return  # ZMTP 1 and 2 do not say whose it is: its bytes count like those of a flood
        connection = self._connections.get(number)
        if connection is not None:
            connection.taken += size
            connection.spoken = connection.spoken or well_formed

    def measure(self) -> None:
        """Ask how much has come. What is judged by this must be taken from the socket only afterwards: else a message
        that comes in between would look like one without end."""
        now = time.monotonic()
        if now < self._measured + WATCH_SECONDS / 2:
            return  # it asks the system about every connection
        self._measured, self._is_due = now, True
        self._hear()
        for connection in self._connections.values():
            connection.seen, connection.before = _received(connection.end), connection.taken

    def look(self, drained: bool) -> list[str]:
        """Close what is too much and say why; `drained`: after it was measured, all whole messages were taken."""
        if not self._is_due:
            return []
        self._is_due = False
        refused, self._refused = self._refused, []
        return refused + self._close_surplus() + self._close_strays(drained)

    def close(self) -> None:
        self._router.disable_monitor()
        self._monitor.close(0)
        for connection in self._connections.values():
            connection.end.close()
        self._connections.clear()

    def _hear(self) -> None:
        for _ in range(EVENT_BATCH):
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            number = event["value"]
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._forget(number)
                with contextlib.suppress(OSError):  # gone already
                    end = socket.socket(fileno=os.dup(number))
                    base = _received(end)
                    self._connections[number] = _Connection(end, base, base)
            elif event["event"] == zmq.EVENT_DISCONNECTED:
                self._forget(number)
            else:
                self._refused.append(_REFUSALS[zmq.Event(event["event"])])

    def _forget(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        if connection is not None:
            connection.end.close()
        self._numbers = {name: other for name, other in self._numbers.items() if other != number}

    def _close_surplus(self) -> list[str]:
        surplus = len(self._connections) - 2 * self.neighbors - STRANGERS
        if surplus <= 0:
            return []
        # Whoever has said nothing goes first, the oldest of these before a newcomer that is about to speak.
        order = sorted(self._connections, key=lambda number: self._connections[number].spoken)
        for number in order[:surplus]:
            self._shut(number)
        return ["connections: more than a peer's neighbors need"] * surplus

    def _close_strays(self, drained: bool) -> list[str]:
        allowed = STRAY_BYTES + self.neighbors * (PART_BYTES + (0 if drained else self._backlog))
        excess = {}
        for number, connection in self._connections.items():
            excess[number] = connection.seen - connection.base - connection.taken
            quiet = drained and connection.taken == connection.before
            if quiet and connection.taken and excess[number] <= PART_BYTES:
                connection.base, connection.taken = connection.seen - max(excess[number], 0), 0
        reasons = []
        total = sum(max(bytes, 0) for bytes in excess.values())
        for number in sorted(excess, key=lambda number: -excess[number]):
            if total <= allowed:
                break
            total -= max(excess[number], 0)
            self._shut(number)
            reasons.append("flood: a message without end")
        return reasons

    def _shut(self, number: int) -> None:
        connection = self._connections[number]
        with contextlib.suppress(OSError):  # closed by the other end
            connection.end.shutdown(socket.SHUT_RDWR)
        self._forget(number)


def _received(end: socket.socket) -> int:
    """Bytes that ZeroMQ has read from a connection; 0 where the system does not say (Unix sockets, macOS)."""
    if end.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
        return 0
    waiting = array.array("i", [0])
    try:
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        fcntl.ioctl(end, termios.FIONREAD, waiting)
    except OSError:
        return 0
    if len(info) < _RECEIVED_AT + 8:
        return 0
    return int(struct.unpack_from("<Q", info, _RECEIVED_AT)[0]) - waiting[0]
