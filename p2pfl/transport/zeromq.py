"""Messages over ZeroMQ: one ROUTER bound to receive, a DEALER connected to each neighbor to send.

Everything that one peer tells another goes over the DEALER that it connected to the other's ROUTER, so each
direction has its own connection and a ROUTER never sends. Timeouts, size limits and reconnecting are ZeroMQ's own.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from p2pfl.errors import ProtocolError, Refusal, TransportError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Refused, TransportEvent
from p2pfl.transport.admission import HANDSHAKE_MS, Admission
from p2pfl.transport.connections import Connection
from p2pfl.transport.credentials import Credentials
from p2pfl.transport.links import AND_MORE, MARKER, NOW, Links
from p2pfl.transport.watchdog import MESSAGE_FRAMES, WATCH_SECONDS, Watchdog
from p2pfl.util.tempdir import is_private

LOST_SECONDS = 10.0  # a broken connection that does not come back within this is a lost neighbor
MANY_TRACKERS = 1024  # that may wait until somebody asks whether they are done
FILE_SECONDS = 0.5  # the removal of a local socket's file is noticed so late at most
LOOK_SECONDS = 0.05  # a broken connection is noticed this late at most while messages keep coming
MANY_ORIGINS = 256  # that are known before those that have ended are forgotten
TURN_FRAMES = 1_000  # and frames, so that no message keeps it busy
POLL_BATCH = 64  # messages taken from the socket before the peer looks after its other work
# libzmq 4.3 aborts (`!_io_error`) where a connection breaks whose input a full queue has stopped, and then has to
# write: its heartbeat, or the answer to one that came before the break. So no queue is ever full here (flow control
# and the watchdog bound what waits), and this end sends no heartbeats. Who connects does, and the system notices
# when that machine is gone.
_OPTIONS = {
    zmq.LINGER: 0,
    zmq.RCVHWM: 0,
    zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 30,
    zmq.TCP_KEEPALIVE_INTVL: 10,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.IPV6: 1,
}


_COLLECTOR = threading.Lock()


def _start_collector() -> None:
    """Start pyzmq's thread that says when a buffer has been sent.

    The first send without a copy would start it. Where the first ones of several threads meet, each makes a socket to
    that thread, one of them is thrown away with what it carries, and buffers of its owner count as unsent for ever
    (pyzmq 27, `zmq.utils.garbage`).
    """
    with _COLLECTOR:
        zmq.Frame(b"none", copy=False)


@dataclass
class _Origin:
    """Whose messages have a User-Id; the connection is None where it has ended."""

    neighbor: int | None
    connection: Connection | None


@dataclass(slots=True)
class _Arriving:
    """A message of which some frames have been taken; a third shows that it is none, and is thrown away."""

    origin: _Origin
    frames: list[memoryview] = field(default_factory=list)
    count: int = 0
    size: int = 0
    whole: bool = False


class ZmqTransport:
    """One peer's sockets. Use as a context manager, or call `close`."""

    def __init__(self, bind: str, grace: float = LOST_SECONDS, credentials: Credentials | None = None) -> None:
        """Bind to `ipc:///path`, `tcp://host:port` or `tcp://host:*`. Raises TransportError naming the endpoint.

        `grace`: seconds after which a connection that broke, or never came about, counts as lost. With `credentials`
        nobody but the neighbors that they name can connect, and each speaks for itself only.
        """
        if bind.startswith("ipc://") and len(bind) - 6 > zmq.IPC_PATH_MAX_LEN:
            raise TransportError(f"{bind}: longer than {zmq.IPC_PATH_MAX_LEN} bytes; set TMPDIR to a shorter folder")
        _start_collector()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._trackers: list[zmq.MessageTracker] = []
        self._file_seen = 0.0  # when the file of a local socket was looked for last
        self._looked = 0.0  # when it last looked after connections, beside messages
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._poller = zmq.Poller()
        self._sealing = 0 if credentials is None else credentials.sealing
        for option, value in _OPTIONS.items():
            self._router.setsockopt(option, value)
        self._router.setsockopt(zmq.MAXMSGSIZE, wire.CHUNK_BYTES + self._sealing)
        self._links = Links(self._context, self._poller, grace, credentials)
        self._admission = Admission(self._context, self._router, credentials, grace)
        self._watchdog = Watchdog(self._admission)
        self._speaks_for_itself = credentials is not None
        self._origins: dict[str, _Origin] = {}
        self._arriving: _Arriving | None = None
        try:
            self._router.bind(bind)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"{bind}: cannot be opened ({_explained(error)})") from None
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._wake_reader, zmq.POLLIN)

    def __enter__(self) -> ZmqTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._admission.neighbors = max(self._admission.neighbors, len(endpoints))
        self._watchdog.expect(vector_bytes)
        self._links.connect(endpoints, vector_bytes)

    def send(self, neighbor: int, message: wire.Message) -> int:
        header, body = wire.encode(message)
        link = self._links[neighbor]
        try:
            link.send(header, AND_MORE)
            if not message.size:
                link.send(body, NOW)
            elif not message.ends:
                link.send(body, NOW, copy=False)
            else:  # a link lets go of bodies in order, and a tracker takes as long as the rest of a send
                self._trackers.append(link.send(body, NOW, copy=False, track=True))
                if len(self._trackers) > MANY_TRACKERS:
                    self.flushed()  # lets go of those that are done, where nobody else asks
        except zmq.Again:  # it takes nothing any more: as good as broken
            self._links.renew(neighbor)
            return 0
        return len(header) + message.size

    def discard(self, neighbor: int) -> None:
        self._links.discard(neighbor)

    def flushed(self) -> bool:
        self._trackers = [tracker for tracker in self._trackers if not tracker.done]
        return not self._trackers

    def poll(self, seconds: float) -> list[TransportEvent]:
        self._bind_again()
        self._links.try_again()
        deadline = self._links.next_duty()
        if deadline is not None:
            seconds = min(seconds, max(deadline - time.monotonic(), 0.0))
        events: list[TransportEvent] = []
        if time.monotonic() < self._looked + LOOK_SECONDS:
            self._receive(events)  # asking each neighbor's monitor takes longer than a message
            if events:
                return events
        for ready, _ in self._wait(max(seconds, 0.0), events):
            if ready is self._router:
                self._watchdog.judge(self._receive(events))
            elif ready == self._wake_reader.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
            else:
                self._links.watch(ready, events)
        return [*events, *self._admission.refusals(), *self._links.losses()]

    def _bind_again(self) -> None:
        """Bind again where something has removed a local socket's file: who connects from now on needs one.

        Not in a folder that others can write: it may have been made by one of them.
        """
        now = time.monotonic()
        if not self.endpoint.startswith("ipc://") or now < self._file_seen + FILE_SECONDS:
            return
        self._file_seen = now
        path = Path(self.endpoint.removeprefix("ipc://"))
        if not os.path.lexists(path) and is_private(path.parent):
            with contextlib.suppress(zmq.ZMQError):  # removed again; the connections that stand do not need it
                self._router.bind(self.endpoint)

    def _wait(self, seconds: float, events: list[TransportEvent]) -> list[tuple[Any, int]]:
        """What is ready, looking after connections meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._looked = time.monotonic()
            left = max(deadline - self._looked, 0.0)
            self._watchdog.measure()
            ready = self._poller.poll(math.ceil(min(left, WATCH_SECONDS) * 1000))
            events += self._links.look()
            if ready:
                return ready
            self._watchdog.judge(drained=True)
            events += self._admission.refusals()
            if events or left <= WATCH_SECONDS:
                return []

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: a wake-up is on its way already; closed: nobody waits
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        self._links.close()
        self._admission.close()
        self._router.close(0)
        self._wake_reader.close()
        self._wake_writer.close()
        self._context.term()

    def _receive(self, events: list[TransportEvent]) -> bool:
        """Take a batch of messages; True where nothing is left."""
        frames = TURN_FRAMES
        for _ in range(POLL_BATCH):
            if self._arriving is None:
                try:
                    identity = self._router.recv(NOW, copy=False)  # the connection's; its User-Id says whose it is
                except zmq.Again:
                    return True
                user = str(identity.get("User-Id"))
                self._arriving = _Arriving(self._origins.get(user) or self._origin(user, identity))
            message = self._arriving
            frames -= self._take(message, frames)
            if not message.whole:
                if message.count > MESSAGE_FRAMES and message.origin.connection is not None:
                    self._watchdog.endless(message.origin.connection)
                return False
            self._arriving = None
            event = self._understand(message)
            if event is not None:
                events.append(event)
            if not frames:
                return False
        return False

    def _take(self, message: _Arriving, most: int) -> int:
        """Take frames of a message, so many at most, and what it says if that is all; returns how many."""
        for taken in range(1, most + 1):
            frame = self._router.recv(copy=False)
            data = frame.buffer
            sealed = data.nbytes + self._sealing
            message.size += sealed + (2 if sealed < 256 else 9)  # which is how ZeroMQ says its length
            message.count += 1
            if len(message.frames) < 3:
                message.frames.append(data)
            if not frame.more:
                message.whole = True
                return taken
        return most

    def _understand(self, message: _Arriving) -> TransportEvent | None:
        """What a whole message says; None for what begins and ends a link's messages."""
        origin, frames = message.origin, message.frames
        event: TransportEvent | None = None
        if len(frames) > 1 or frames[0] != MARKER:
            try:
                decoded = wire.decode(frames)
                if self._speaks_for_itself and origin.neighbor != decoded.header.sender:
                    raise ProtocolError(Refusal.SENDER, "not the owner of the connection")
                event = Received(decoded, frames[0].nbytes + frames[1].nbytes)
            except ProtocolError as error:
                event = Refused(error.code, error.detail)
        if origin.connection is not None:
            origin.connection.proven = origin.connection.proven or isinstance(event, Received)
            self._watchdog.took(origin.connection, message.count, message.size)
        return event

    def _origin(self, user: str, identity: zmq.Frame) -> _Origin:
        """Whose the first message of a connection is."""
        if len(self._origins) > MANY_ORIGINS:
            self._origins = {u: one for u, one in self._origins.items() if one.connection and not one.connection.ended}
        try:
            number = int(identity.get(zmq.SRCFD))
        except zmq.ZMQError:  # macOS does not say it of Unix sockets
            number = None
        connection = self._admission.connection(user, number)
        neighbor = user.partition(".")[0]
        origin = self._origins[user] = _Origin(int(neighbor) if neighbor else None, connection)
        return origin


def _explained(error: zmq.ZMQError) -> str:
    """Why a socket cannot be bound, and what helps."""
    if error.errno == zmq.EADDRINUSE:
        return "address already in use: end what listens there, or choose another port in the topology file"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "no address of this machine: correct the node's host in the topology file"
    return zmq.strerror(error.errno) if error.errno is not None else str(error)
