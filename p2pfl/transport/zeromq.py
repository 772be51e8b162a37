"""Messages over ZeroMQ: one ROUTER bound to receive, a DEALER connected to each neighbor to send.

Everything that one peer tells another goes over the DEALER that it connected to the other's ROUTER, so each
direction has its own connection and a ROUTER never sends. Timeouts, high-water marks, size limits and reconnecting
are ZeroMQ's own.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import time
from collections.abc import Mapping
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from p2pfl import wire
from p2pfl.errors import ProtocolError, TransportError
from p2pfl.transport.curve import SEALING_BYTES, Guard, Keys
from p2pfl.transport.interface import Event, Lost, Received, Reconnected, Refused
from p2pfl.transport.watchdog import HANDSHAKE_MS, WATCH_SECONDS, Watchdog

HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 30_000  # a chunk of 1 MiB passes a link of 0.3 Mbit/s in this time
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1_000
AGAIN_SECONDS = 1.0  # until a link is made anew that was refused: ZeroMQ gives up where a key is not accepted
LINGER_MS = 1_000
LOST_SECONDS = 10.0  # a broken connection that does not come back within this is a lost neighbor
CONTROL_MESSAGES = 256  # hello, grants, acknowledgements, notices and goodbye that may wait in one link
RECEIVED_MESSAGES = 64  # that may wait in each connection to be taken
_NOW, _AND_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)  # joining the enums takes longer than a send
MANY_TRACKERS = 1024  # that may wait until somebody asks whether they are done
_FRAMING = 2  # bytes before a small frame, which is how ZeroMQ says its length
LOOK_SECONDS = 0.05  # a broken connection is noticed this late at most while messages keep coming
POLL_BATCH = 64  # messages taken from the socket before the peer looks after its other work


class ZmqTransport:
    """One peer's sockets. Use as a context manager, or call `close`."""

    def __init__(self, bind: str, grace: float = LOST_SECONDS, keys: Keys | None = None) -> None:
        """Bind to `ipc:///path`, `tcp://host:port` or `tcp://host:*`. Raises TransportError naming the endpoint.

        `grace`: seconds after which a connection that broke, or never came about, counts as lost. With `keys` every
        link is encrypted, and nobody but the neighbors that they name can connect.
        """
        if bind.startswith("ipc://") and len(bind) - 6 > zmq.IPC_PATH_MAX_LEN:
            raise TransportError(f"{bind}: longer than {zmq.IPC_PATH_MAX_LEN} bytes; set TMPDIR to a shorter folder")
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._links: dict[int, zmq.Socket[bytes]] = {}
        self._monitors: dict[zmq.Socket[bytes], int] = {}
        self._grace = grace
        self._down_since: dict[int, float] = {}
        self._new: set[int] = set()  # of these, those that have never been connected
        self._lost: set[int] = set()
        self._again: dict[int, float] = {}  # when to try again where a connection ended before it stood
        self._trackers: list[zmq.MessageTracker] = []
        self._looked = 0.0  # when it last looked after connections, beside messages
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._poller = zmq.Poller()
        for option, value in _OPTIONS.items():
            self._router.setsockopt(option, value)
        self._router.setsockopt(zmq.LINGER, 0)
        self._guard = None if keys is None else Guard(self._context, keys)
        self._sealing = 0 if keys is None else SEALING_BYTES
        self._router.setsockopt(zmq.MAXMSGSIZE, wire.CHUNK_BYTES + self._sealing)
        if self._guard is not None:
            self._guard.secure_server(self._router)
        self._watchdog = Watchdog(self._router, RECEIVED_MESSAGES)
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
        # Grants bound what waits in a link to one payload, or two after a broken connection.
        self._mark = 2 * wire.chunk_count(vector_bytes) + CONTROL_MESSAGES
        self._endpoints = dict(endpoints)
        self._watchdog.neighbors = len(endpoints)
        now = time.monotonic()
        for neighbor in endpoints:
            self._new.add(neighbor)
            self._down_since[neighbor] = now
            self._open_link(neighbor)

    def _open_link(self, neighbor: int) -> None:
        link = self._context.socket(zmq.DEALER)
        for option, value in _OPTIONS.items():
            link.setsockopt(option, value)
        link.setsockopt(zmq.LINGER, LINGER_MS)
        link.setsockopt(zmq.SNDHWM, self._mark)
        link.copy_threshold = 0  # a small last chunk that pyzmq copied would count as sent at once
        link.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        link.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        if self._guard is not None:
            self._guard.secure_client(link, neighbor)
        monitor = link.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._links[neighbor], self._monitors[monitor] = link, neighbor
        self._poller.register(monitor, zmq.POLLIN)
        endpoint = self._endpoints[neighbor]
        try:
            link.connect(endpoint)
        except zmq.ZMQError as error:
            raise TransportError(f"peer {neighbor}: {endpoint} is no endpoint ({error})") from None

    def _close_link(self, monitor: Any, linger: int) -> None:
        neighbor = self._monitors.pop(monitor)
        link = self._links.pop(neighbor)
        self._poller.unregister(monitor)
        link.disable_monitor()
        link.close(linger)
        monitor.close(0)

    def send(self, neighbor: int, message: wire.Message) -> int:
        header, body = wire.encode(message)
        link = self._links[neighbor]
        try:
            link.send(header, _AND_MORE)
            if not message.size:
                link.send(body, _NOW)
            elif not message.ends:
                link.send(body, _NOW, copy=False)
            else:  # a link lets go of bodies in order, and a tracker takes as long as the rest of a send
                self._trackers.append(link.send(body, _NOW, copy=False, track=True))
                if len(self._trackers) > MANY_TRACKERS:
                    self.flushed()  # lets go of those that are done, where nobody else asks
        except zmq.Again:  # it takes nothing any more: as good as broken
            self._renew_link(neighbor)
            return 0
        return len(header) + message.size

    def discard(self, neighbor: int) -> None:
        if neighbor in self._links:
            self._renew_link(neighbor)
            self._lost.add(neighbor)  # which is known; when it comes back is what is worth telling

    def _renew_link(self, neighbor: int) -> None:
        """A new link, because the old one keeps what was not sent yet."""
        self._down_since.setdefault(neighbor, time.monotonic())
        self._again.pop(neighbor, None)
        self._close_link(next(monitor for monitor, other in self._monitors.items() if other == neighbor), 0)
        self._open_link(neighbor)

    def flushed(self) -> bool:
        self._trackers = [tracker for tracker in self._trackers if not tracker.done]
        return not self._trackers

    def poll(self, seconds: float) -> list[Event]:
        self._try_again()
        deadline = self._next_duty()
        if deadline is not None:
            seconds = min(seconds, max(deadline - time.monotonic(), 0.0))
        events: list[Event] = []
        if time.monotonic() < self._looked + LOOK_SECONDS:
            self._receive(events)  # asking each neighbor's monitor takes longer than a message
            if events:
                return events
        for ready, _ in self._wait(max(seconds, 0.0), events):
            if ready is self._router:
                drained = self._receive(events)
                events += [Refused(reason) for reason in self._watchdog.look(drained)]
            elif ready in self._monitors:
                self._watch(ready, events)
            elif ready == self._wake_reader.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
        return events + self._refusals() + self._losses()

    def _refusals(self) -> list[Event]:
        count = 0 if self._guard is None else self._guard.refusals()
        return [Refused("key: no neighbor's")] * count

    def _wait(self, seconds: float, events: list[Event]) -> list[tuple[Any, int]]:
        """What is ready, looking after strangers' connections meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            self._looked = time.monotonic()
            left = max(deadline - self._looked, 0.0)
            self._watchdog.measure()
            ready = self._poller.poll(math.ceil(min(left, WATCH_SECONDS) * 1000))
            if ready:
                return ready
            events += [Refused(reason) for reason in self._watchdog.look(drained=True)]
            if events or left <= WATCH_SECONDS:
                return []

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: a wake-up is on its way already; closed: nobody waits
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        for monitor, neighbor in list(self._monitors.items()):
            self._close_link(monitor, 0 if neighbor in self._lost else LINGER_MS)
        self._watchdog.close()
        self._router.close(0)
        if self._guard is not None:  # after the socket that it guards
            self._guard.close()
        self._wake_reader.close()
        self._wake_writer.close()
        self._context.term()  # returns once the links have lingered

    def _receive(self, events: list[Event]) -> bool:
        """Take a batch of messages; True where nothing is left."""
        for _ in range(POLL_BATCH):
            try:
                identity = self._router.recv(_NOW, copy=False)  # the connection's; the header names the sender
            except zmq.Again:
                return True
            frame, size, overhead = identity, 0, _FRAMING + self._sealing
            frames: list[memoryview] = []
            while frame.more:
                frame = self._router.recv(copy=False)
                data = frame.buffer
                size += data.nbytes + overhead
                if len(frames) < 3:  # a third shows that it is no message; what follows is thrown away
                    frames.append(data)
            try:
                message = wire.decode(frames)
                if self._guard is not None and self._guard.owner(identity) != message.header.sender:
                    raise ProtocolError("sender: not the owner of the key")
                events.append(Received(message, frames[0].nbytes + frames[1].nbytes))
            except ProtocolError as error:
                events.append(Refused(str(error)))
            self._watchdog.took(identity, size, isinstance(events[-1], Received))
        return False

    def _watch(self, monitor: Any, events: list[Event]) -> None:
        neighbor = self._monitors[monitor]
        while monitor.poll(0):
            kind = parse_monitor_message(monitor.recv_multipart())["event"]
            if kind == zmq.EVENT_DISCONNECTED and neighbor in self._down_since:
                self._again.setdefault(neighbor, time.monotonic() + AGAIN_SECONDS)
            elif kind == zmq.EVENT_DISCONNECTED:
                self._renew_link(neighbor)  # the peer will say it all again
                return
            elif neighbor in self._down_since:
                self._again.pop(neighbor, None)
                del self._down_since[neighbor]
                self._lost.discard(neighbor)
                if neighbor not in self._new:
                    events.append(Reconnected(neighbor))
                self._new.discard(neighbor)

    def _try_again(self) -> None:
        now = time.monotonic()
        for neighbor in [neighbor for neighbor, due in self._again.items() if due <= now]:
            self._renew_link(neighbor)
            self._new.discard(neighbor)  # what waited in the old link is lost, and must be said again

    def _next_duty(self) -> float | None:
        """When a neighbor will be lost, or a link is to be tried again."""
        losses = [since + self._grace for neighbor, since in self._down_since.items() if neighbor not in self._lost]
        return min([*losses, *self._again.values()], default=None)

    def _losses(self) -> list[Event]:
        limit = time.monotonic() - self._grace
        gone = [n for n, since in self._down_since.items() if since <= limit and n not in self._lost]
        self._lost.update(gone)
        self._new.difference_update(gone)  # should it come about after all, that is worth telling
        return [Lost(neighbor) for neighbor in gone]


_OPTIONS = {
    zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
    zmq.HEARTBEAT_TTL: HEARTBEAT_TIMEOUT_MS,
    zmq.RCVHWM: RECEIVED_MESSAGES,
    zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
    zmq.TCP_KEEPALIVE: 1,
    zmq.IPV6: 1,
}


def _explained(error: zmq.ZMQError) -> str:
    """Why a socket cannot be bound, and what helps."""
    if error.errno == zmq.EADDRINUSE:
        return "address already in use: end what listens there, or choose another port in the topology file"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return "no address of this machine: correct the node's host in the topology file"
    return zmq.strerror(error.errno) if error.errno is not None else str(error)
