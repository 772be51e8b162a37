"""ZeroMQ transport: one ROUTER bound to receive, one DEALER per neighbor to send.

A peer sends to another over the DEALER that it connected to the other's ROUTER, so each direction has its own
connection, and a ROUTER never sends. Timeouts, size limits and reconnecting are left to ZeroMQ.
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
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import zmq

from p2pfl.errors import TransportError
from p2pfl.protocol import wire
from p2pfl.protocol.events import TransportEvent
from p2pfl.transport.admission import HANDSHAKE_MS, Admission
from p2pfl.transport.credentials import AnnouncedKeys, Credentials
from p2pfl.transport.links import AND_MORE, NOW, Links, LinkStage
from p2pfl.transport.receiver import Receiver
from p2pfl.transport.watchdog import WATCH_SECONDS, Watchdog
from p2pfl.util.tempdir import is_private

LOST_SECONDS = 10.0  # after which a neighbor whose connection broke, and did not come back, counts as lost
MAX_TRACKERS = 1024  # kept before those that are done are dropped
FILE_SECONDS = 0.5  # at most, until the removal of a local socket's file is noticed
LOOK_SECONDS = 0.05  # at most, until a broken connection is noticed while messages keep coming
# libzmq 4.3 aborts (`!_io_error`) where a connection breaks whose input a full queue has stopped, and then has to
# write: its heartbeat, or the answer to one that came before the break. So no queue here is ever full (flow control
# and the watchdog bound the waiting messages), and this end sends no heartbeats. The connecting end does, and TCP
# keepalive notices when that machine is gone.
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
    """Start pyzmq's thread that tells when a buffer has been sent.

    The first send without a copy would start it. Where the first sends of several threads coincide, each makes a socket
    to that thread, one of which is thrown away with its content, and its owner's buffers never count as sent (pyzmq 27,
    `zmq.utils.garbage`).
    """
    with _COLLECTOR:
        zmq.Frame(b"none", copy=False)


class ZmqTransport:
    """ZeroMQ sockets of one peer. Use as a context manager, or call `close`."""

    def __init__(self, bind: str, grace: float = LOST_SECONDS, credentials: Credentials | None = None) -> None:
        """Bind to `ipc:///path`, `tcp://host:port` or `tcp://host:*`.

        `grace`: seconds after which a connection that broke, or was never established, counts as lost. With
        `credentials`, only the neighbors that they name can connect, and each can send only as itself. Raises
        TransportError naming the endpoint.
        """
        if bind.startswith("ipc://") and len(bind) - 6 > zmq.IPC_PATH_MAX_LEN:
            raise TransportError(f"{bind}: longer than {zmq.IPC_PATH_MAX_LEN} bytes; set TMPDIR to a shorter folder")
        _start_collector()
        self._credentials = credentials
        self._redirected: SimpleQueue[dict[int, str]] = SimpleQueue()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._trackers: list[zmq.MessageTracker] = []
        self._file_seen = 0.0  # time of the last look for a local socket's file
        self._looked = 0.0  # time of the last look at connections, beside messages
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._poller = zmq.Poller()
        sealing = None if credentials is None else credentials.sealing
        for option, value in _OPTIONS.items():
            self._router.setsockopt(option, value)
        self._router.setsockopt(zmq.MAXMSGSIZE, wire.CHUNK_BYTES + (sealing or 0))
        self._links = Links(self._context, self._poller, grace, credentials)
        self._admission = Admission(self._context, self._router, credentials, grace)
        self._watchdog = Watchdog(self._admission)
        self._receiver = Receiver(self._router, self._admission, self._watchdog, sealing)
        try:
            self._router.bind(bind)
        except zmq.ZMQError as error:
            self.close()
            raise TransportError(f"{bind}: cannot be opened ({_explained(error)})") from None
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        if isinstance(credentials, AnnouncedKeys):
            self.endpoint = credentials.announced(self.endpoint)
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._wake_reader, zmq.POLLIN)

    def __enter__(self) -> ZmqTransport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._admission.neighbors = max(self._admission.neighbors, len(endpoints))
        self._watchdog.set_limits(vector_bytes)
        self._links.connect(self._plain(endpoints), vector_bytes)

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        self._redirected.put(dict(endpoints))
        self.wake()

    def _plain(self, endpoints: Mapping[int, str]) -> Mapping[int, str]:
        """Endpoints without the keys in them, which the credentials take.

        Raises TransportError.
        """
        if not isinstance(self._credentials, AnnouncedKeys):
            return endpoints
        try:
            return self._credentials.learn(endpoints)
        except ValueError as error:
            raise TransportError(str(error)) from None

    def readdress(self, neighbor: int, endpoint: str) -> None:
        """Open the link to a neighbor at another endpoint; it comes back as after a break.

        A neighbor may also be connected to with an empty endpoint first, where its own is not known yet.
        """
        self._links.readdress(neighbor, endpoint)

    def stage(self, neighbor: int) -> LinkStage:
        """Return how far the connection to a neighbor has come, for people."""
        return self._links.stage(neighbor)

    def send(self, neighbor: int, message: wire.Message) -> int:
        header, body = wire.encode(message)
        link = self._links[neighbor]
        try:
            link.send(header, AND_MORE)
            if not message.size:
                link.send(body, NOW)
            elif not message.ends:
                link.send(body, NOW, copy=False)
            else:  # bodies are released in order, and a tracker takes as long as the rest of a send
                self._trackers.append(link.send(body, NOW, copy=False, track=True))
                if len(self._trackers) > MAX_TRACKERS:
                    self.flushed()  # drops those that are done
        except zmq.Again:  # the neighbor takes nothing: as good as broken
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
        with contextlib.suppress(Empty):
            for neighbor, endpoint in self._plain(self._redirected.get_nowait()).items():
                if neighbor in self._links:
                    self._links.readdress(neighbor, endpoint)
        self._links.retry()
        deadline = self._links.next_deadline()
        if deadline is not None:
            seconds = min(seconds, max(deadline - time.monotonic(), 0.0))
        events: list[TransportEvent] = []
        if time.monotonic() < self._looked + LOOK_SECONDS and self._receiver.has_more():
            self._receiver.receive(events)  # asking each neighbor's monitor takes longer than a message
            if events:
                return events
        for ready, _ in self._wait(max(seconds, 0.0), events):
            if ready is self._router:
                self._watchdog.enforce(self._receiver.receive(events))
            elif ready == self._wake_reader.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
            else:
                self._links.read_monitor(ready, events)
        return [*events, *self._admission.refusals(), *self._links.losses()]

    def _bind_again(self) -> None:
        """Bind again where a local socket's file was removed, for later connections.

        Not in a folder that others can write to: one of them may have made it.
        """
        now = time.monotonic()
        if not self.endpoint.startswith("ipc://") or now < self._file_seen + FILE_SECONDS:
            return
        self._file_seen = now
        path = Path(self.endpoint.removeprefix("ipc://"))
        if not os.path.lexists(path) and is_private(path.parent):
            with contextlib.suppress(zmq.ZMQError):  # removed again; established connections do not need it
                self._router.bind(self.endpoint)

    def _wait(self, seconds: float, events: list[TransportEvent]) -> list[tuple[Any, int]]:
        """Wait for ready sockets, and look after connections meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._looked = time.monotonic()
            left = max(deadline - self._looked, 0.0)
            self._watchdog.measure()
            ready = self._poller.poll(math.ceil(min(left, WATCH_SECONDS) * 1000))
            events += self._links.check_answers()
            if ready:
                return ready
            self._watchdog.enforce(drained=True)
            events += self._admission.refusals()
            if events or left <= WATCH_SECONDS:
                return []

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: a wake-up is under way already; closed: no thread waits
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        self._links.close()
        self._admission.close()
        self._router.close(0)
        self._wake_reader.close()
        self._wake_writer.close()
        self._context.term()


def _explained(error: zmq.ZMQError) -> str:
    """Reason why a socket cannot be bound, and remedy."""
    if error.errno == zmq.EADDRINUSE:
        return "address already in use: end what listens there, or choose another port in the topology file"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "no address of this machine: correct the node's host in the topology file"
    return zmq.strerror(error.errno) if error.errno is not None else str(error)
