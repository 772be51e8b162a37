"""Outgoing links: one DEALER per neighbor, renewed when its connection breaks.

A link only sends, and its other end may send only heartbeats. A malicious one could send more: such a link is renewed
before this fills memory.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import zmq
from zmq.utils.monitor import parse_monitor_message

from p2pfl.errors import Refusal, TransportError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Reconnected, Refused, TransportEvent
from p2pfl.transport.credentials import Credentials
from p2pfl.transport.kernel_sockets import bytes_received, duplicate_connected
from p2pfl.transport.watchdog import WATCH_SECONDS

HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 30_000  # a chunk of 1 MiB passes a link of 0.3 Mbit/s in this time
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1_000
RETRY_SECONDS = 1.0  # until a refused link is replaced: ZeroMQ gives up where a key is not accepted
LINGER_SECONDS = 1.0
POLL_SECONDS = 0.01
CONTROL_MESSAGES = 256  # hello, grants, acknowledgements, heartbeats and goodbye that may wait in one link
ANSWER_BYTES = 16 << 10  # at most of the other end's handshake
ANSWER_RATE = 64  # bytes a second at most of its heartbeats, with encryption
MARKER = b"p2pfl"  # a message of this frame alone is a link's first and last: no connection is silent
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)
NOW, AND_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)  # joining the enums takes longer than a send
_OPTIONS = {
    zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
    zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
    zmq.HEARTBEAT_TTL: HEARTBEAT_TIMEOUT_MS,
    zmq.RCVHWM: 0,  # as in `ZmqTransport`
    zmq.MAXMSGSIZE: ANSWER_BYTES,
    zmq.RECONNECT_IVL: RECONNECT_MS,
    zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
    zmq.TCP_KEEPALIVE: 1,
    zmq.IPV6: 1,
}


def is_readable(a_socket: zmq.Socket[bytes]) -> bool:
    """Whether a socket has a message; faster than an attempt to receive one."""
    return bool(int(a_socket.get(_EVENTS)) & _READABLE)


LinkStage = Literal["none", "connected", "admitted"]


@dataclass(eq=False)
class _Link:
    """One neighbor's DEALER, its monitor, and a second handle of its connection."""

    neighbor: int
    sender: zmq.Socket[bytes]
    monitor: Any
    connection: socket.socket | None = None
    since: float = 0.0

    def answered_too_much(self) -> bool:
        """Return whether the other end has sent a message, or more than heartbeats."""
        if is_readable(self.sender):
            return True
        if self.connection is None:
            return False
        return bytes_received(self.connection) > ANSWER_BYTES + ANSWER_RATE * (time.monotonic() - self.since)

    def close_handle(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Links:
    """Outgoing links of one peer, on one thread."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        grace: float,
        credentials: Credentials | None,
    ) -> None:
        """Register the links' monitors with `poller`.

        `grace`: seconds after which a neighbor with a broken link counts as lost.
        """
        self._context = context
        self._poller = poller
        self._grace = grace
        self._credentials = credentials
        self._endpoints: Mapping[int, str] = {}
        self._mark = CONTROL_MESSAGES
        self._links: dict[int, _Link] = {}
        self._monitors: dict[Any, _Link] = {}
        self._down_since: dict[int, float] = {}
        self._new: set[int] = set()  # of these, those never connected so far
        self._lost: set[int] = set()
        self._answering: set[int] = set()  # those whose endpoints accept connections, as far as known
        self._looked = 0.0  # time of the last look for answers
        self._retry_at: dict[int, float] = {}  # neighbors whose handshake failed, and when to try again

    def __contains__(self, neighbor: object) -> bool:
        return neighbor in self._links

    def __getitem__(self, neighbor: int) -> zmq.Socket[bytes]:
        """Socket that sends to a neighbor."""
        return self._links[neighbor].sender

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        # Credit bounds what waits in a link to one payload, or two after a broken connection.
        self._mark = 2 * wire.chunk_count(vector_bytes) + CONTROL_MESSAGES
        self._endpoints = dict(endpoints)
        now = time.monotonic()
        for neighbor in endpoints:
            self._new.add(neighbor)
            self._down_since[neighbor] = now
            self._open(neighbor)

    def renew(self, neighbor: int) -> None:
        """Replace a link, which throws away its unsent messages."""
        self._down_since.setdefault(neighbor, time.monotonic())
        self._retry_at.pop(neighbor, None)
        self._close(self._links[neighbor])
        self._open(neighbor)

    def readdress(self, neighbor: int, endpoint: str) -> None:
        """Open a link at another endpoint, or at the first one that is known."""
        self._endpoints = {**self._endpoints, neighbor: endpoint}
        self._new.discard(neighbor)  # what was sent before is lost: its connection is news
        self._answering.discard(neighbor)
        self.renew(neighbor)

    def stage(self, neighbor: int) -> LinkStage:
        """Return how far the connection to a neighbor has come."""
        if neighbor not in self._down_since:
            return "admitted"
        return "connected" if neighbor in self._answering else "none"

    def discard(self, neighbor: int) -> None:
        if neighbor in self._links:
            self.renew(neighbor)
            self._lost.add(neighbor)  # known to the caller; only its return is news

    def read_monitor(self, monitor: Any, events: list[TransportEvent]) -> bool:
        """Read a monitor's events; False if it is none of these links' monitors."""
        link = self._monitors.get(monitor)
        if link is None:
            return False
        neighbor = link.neighbor
        while monitor.poll(0):
            event = parse_monitor_message(monitor.recv_multipart())
            kind = event["event"]
            if kind == zmq.EVENT_CONNECTED:
                self._answering.add(neighbor)
                link.close_handle()
                link.since = time.monotonic()
                with contextlib.suppress(OSError):  # gone already
                    link.connection = duplicate_connected(event["value"], event["endpoint"].decode())
                continue
            if kind == zmq.EVENT_DISCONNECTED:
                link.close_handle()
                if neighbor not in self._down_since:
                    self.renew(neighbor)  # the peer will send it all again
                    return True
                self._retry_at.setdefault(neighbor, time.monotonic() + RETRY_SECONDS)
            elif neighbor in self._down_since:
                self._retry_at.pop(neighbor, None)
                del self._down_since[neighbor]
                self._lost.discard(neighbor)
                if neighbor not in self._new:
                    events.append(Reconnected(neighbor))
                self._new.discard(neighbor)
        return True

    def check_answers(self) -> list[TransportEvent]:
        """Renew links whose other ends send more than they may.

        It looks often enough that nothing of theirs fills memory.
        """
        now = time.monotonic()
        if now < self._looked + WATCH_SECONDS / 2:
            return []  # the system is asked about every neighbor
        self._looked = now
        bad = [neighbor for neighbor, link in self._links.items() if link.answered_too_much()]
        for neighbor in bad:
            self.renew(neighbor)
        return [Refused(Refusal.LINK, "data came over a link on which a neighbor only receives")] * len(bad)

    def retry(self) -> None:
        """Renew the links that were refused a while ago."""
        now = time.monotonic()
        for neighbor in [neighbor for neighbor, due in self._retry_at.items() if due <= now]:
            self.renew(neighbor)
            self._new.discard(neighbor)  # what waited in the old link is lost, and must be sent again

    def next_deadline(self) -> float | None:
        """Time at which the next neighbor is lost or link retried; None if there is none."""
        losses = [since + self._grace for neighbor, since in self._down_since.items() if neighbor not in self._lost]
        return min([*losses, *self._retry_at.values()], default=None)

    def losses(self) -> list[TransportEvent]:
        """Events of neighbors whose grace has passed."""
        limit = time.monotonic() - self._grace
        gone = [n for n, since in self._down_since.items() if since <= limit and n not in self._lost]
        self._lost.update(gone)
        self._new.difference_update(gone)  # a connection after all is news
        return [Lost(neighbor) for neighbor in gone]

    def close(self) -> None:
        """Wait until all has been sent, for a second at most, and close.

        ZeroMQ's lingering is not used: a socket that lingers reads nothing, and aborts where its heartbeat is due
        after the other end has sent something and reset the connection.
        """
        for link in list(self._links.values()):
            self.read_monitor(link.monitor, [])
        ended = {neighbor for neighbor in self._down_since if neighbor not in self._new}
        self._wait_until_sent([link for link in self._links.values() if link.neighbor not in ended | self._lost])
        for link in list(self._links.values()):
            self._close(link)

    def _wait_until_sent(self, links: Iterable[_Link]) -> None:
        deadline = time.monotonic() + LINGER_SECONDS
        waiting = {}
        for link in links:
            with contextlib.suppress(zmq.Again):  # full
                waiting[link.monitor] = link.sender.send(MARKER, NOW, copy=False, track=True)
        while waiting and time.monotonic() < deadline:
            gone = [monitor for monitor in waiting if self._has_ended(monitor)]
            waiting = {monitor: one for monitor, one in waiting.items() if not one.done and monitor not in gone}
            for tracker in list(waiting.values())[:1]:
                with contextlib.suppress(zmq.NotDone):
                    tracker.wait(POLL_SECONDS)

    def _has_ended(self, monitor: Any) -> bool:
        """Return whether a link has lost its connection since its monitor was last read."""
        while monitor.poll(0):
            if parse_monitor_message(monitor.recv_multipart())["event"] == zmq.EVENT_DISCONNECTED:
                return True
        return False

    def _open(self, neighbor: int) -> None:
        link = self._context.socket(zmq.DEALER)
        for option, value in _OPTIONS.items():
            link.setsockopt(option, value)
        link.setsockopt(zmq.LINGER, 0)
        link.setsockopt(zmq.SNDHWM, self._mark)
        link.copy_threshold = 0  # a small last chunk that pyzmq copied would count as sent at once
        endpoint = self._endpoints[neighbor]
        if self._credentials is not None and endpoint:
            self._credentials.secure_client(link, neighbor)
        monitor = link.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._links[neighbor] = self._monitors[monitor] = _Link(neighbor, link, monitor)
        self._poller.register(monitor, zmq.POLLIN)
        if not endpoint:  # not known yet: it takes no message
            return
        try:
            link.connect(endpoint)
        except zmq.ZMQError as error:
            raise TransportError(f"peer {neighbor}: {endpoint} is not an endpoint ({error})") from None
        with contextlib.suppress(zmq.Again):  # refused at once, which the monitor tells: the link is made again
            link.send(MARKER, NOW)

    def _close(self, link: _Link) -> None:
        del self._links[link.neighbor], self._monitors[link.monitor]
        self._poller.unregister(link.monitor)
        link.close_handle()
        link.sender.disable_monitor()
        link.sender.close(0)
        link.monitor.close(0)
