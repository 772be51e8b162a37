"""Virtual network: links with latency and bandwidth that can be cut.

Messages are encoded, copied and decoded as on real sockets. A link keeps the order of messages and loses none until it
is cut; those under way are then lost, as with a broken connection.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

from p2pfl.errors import ProtocolError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Received, Reconnected, Refused, TransportEvent
from p2pfl.sim.clock import VirtualClock


@dataclass(frozen=True)
class LinkSpeed:
    """Latency (seconds) and bandwidth (bytes a second) of a link, in each direction."""

    latency: float = 0.0
    bandwidth: float = math.inf


@dataclass(frozen=True)
class _Message:
    """Frames of a message under way."""

    header: bytes
    body: bytes


class VirtualNetwork:
    """All links of a swarm.

    Deterministic: a peer receives arrived messages in the order of its senders' numbers.
    """

    def __init__(self, clock: VirtualClock, speed: LinkSpeed | None = None, grace: float = 10.0) -> None:
        """`grace`: seconds after which both ends of a cut link learn that it is lost."""
        self._clock = clock
        self._speed = speed or LinkSpeed()
        self._grace = grace
        # By receiver and sender: messages under way, with the times of their arrival.
        self._under_way: dict[int, dict[int, deque[tuple[float, _Message]]]] = defaultdict(lambda: defaultdict(deque))
        self._link_events: dict[int, list[tuple[float, Lost | Reconnected]]] = defaultdict(list)
        self._free: dict[tuple[int, int], float] = {}  # time at which a link has sent all so far
        self._cut: set[frozenset[int]] = set()

    def transport(self, peer: int) -> VirtualTransport:
        """Transport of one peer."""
        return VirtualTransport(self, peer)

    def next_arrival(self, peer: int) -> float:
        """Time of a peer's next message or event; infinity if there is none."""
        heads = [waiting[0][0] for waiting in self._under_way[peer].values() if waiting]
        return min([*heads, *(when for when, _ in self._link_events[peer])], default=math.inf)

    def cut(self, a: int, b: int) -> None:
        """Break the link of two peers; messages under way on it are lost."""
        if frozenset({a, b}) in self._cut:
            return
        self._cut.add(frozenset({a, b}))
        for peer, other in ((a, b), (b, a)):
            self.discard(other, peer)
            self._link_events[peer].append((self._clock.now() + self._grace, Lost(other)))

    def heal(self, a: int, b: int) -> None:
        """Restore a link that was cut; both ends learn it at once."""
        if frozenset({a, b}) not in self._cut:
            return
        self._cut.remove(frozenset({a, b}))
        for peer, other in ((a, b), (b, a)):
            self._link_events[peer] = [(when, what) for when, what in self._link_events[peer] if what != Lost(other)]
            self._link_events[peer].append((self._clock.now(), Reconnected(other)))

    def send(self, sender: int, receiver: int, message: wire.Message) -> int:
        """Send a message and return its bytes, 0 if the link is cut."""
        if frozenset({sender, receiver}) in self._cut:
            return 0
        header, body = wire.encode(message)
        size = len(header) + message.size
        left = max(self._clock.now(), self._free.get((sender, receiver), 0.0)) + size / self._speed.bandwidth
        self._free[sender, receiver] = left
        self._under_way[receiver][sender].append((left + self._speed.latency, _Message(header, bytes(body))))
        return size

    def discard(self, sender: int, receiver: int) -> None:
        """Throw away messages under way from one peer to another."""
        self._under_way[receiver][sender].clear()

    def receive(self, peer: int) -> list[TransportEvent]:
        """Take the messages and events that have arrived at a peer."""
        now = self._clock.now()
        due: list[TransportEvent] = [what for when, what in self._link_events[peer] if when <= now]
        self._link_events[peer] = [(when, what) for when, what in self._link_events[peer] if when > now]
        for _, waiting in sorted(self._under_way[peer].items()):
            while waiting and waiting[0][0] <= now:
                due.append(_decoded(waiting.popleft()[1]))
        return due


class VirtualTransport:
    """Transport of one peer on a virtual network, which never waits."""

    def __init__(self, network: VirtualNetwork, peer: int) -> None:
        self.endpoint = f"sim://{peer}"
        self._network = network
        self._peer = peer

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        """Do nothing: all links exist from the beginning."""

    def send(self, neighbor: int, message: wire.Message) -> int:
        return self._network.send(self._peer, neighbor, message)

    def discard(self, neighbor: int) -> None:
        self._network.discard(self._peer, neighbor)

    def flushed(self) -> bool:
        return True  # bodies are copied when they are sent

    def poll(self, seconds: float) -> list[TransportEvent]:
        return self._network.receive(self._peer)

    def wake(self) -> None:
        """Do nothing: `poll` never waits."""

    def close(self) -> None:
        """Do nothing: sent messages are under way."""


def _decoded(message: _Message) -> TransportEvent:
    try:
        return Received(wire.decode((message.header, message.body)), len(message.header) + len(message.body))
    except ProtocolError as error:
        return Refused(error.code, error.detail)
