"""Virtual network: links with latency and bandwidth that can be cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from p2pfl.protocol import wire
from p2pfl.protocol.events import TransportEvent
from p2pfl.sim.clock import VirtualClock
from p2pfl.sim.link import Links, LinkSpeed


class VirtualNetwork:
    """All links of a swarm.

    Deterministic: a peer receives arrived messages in the order of its senders' numbers.
    """

    def __init__(self, clock: VirtualClock, speed: LinkSpeed | None = None, grace: float = 10.0) -> None:
        """`grace`: seconds after which both ends of a cut link learn that it is lost."""
        self._clock = clock
        self._links = Links(speed, grace)
        self._transports: dict[int, VirtualTransport] = {}

    def transport(self, peer: int, is_paused: Callable[[], bool] = lambda: False) -> VirtualTransport:
        """Transport of one peer, which may have been there before.

        `is_paused`: whether it cannot send now; messages wait for `release`.
        """
        if self._links.is_gone(peer):
            self._links.reopen(peer, self._clock.now())
        self._transports[peer] = VirtualTransport(self._clock, self._links, peer, is_paused)
        return self._transports[peer]

    def release(self, peer: int) -> None:
        """Send what a peer was about to send when it was paused."""
        self._transports[peer].release()

    def next_event(self, peer: int) -> float:
        """Time of a peer's next message or event; infinity if there is none."""
        now, links = self._clock.now(), self._links
        times = [when for when, _ in links.events[peer]]
        for link in links.into(peer):
            if link.unread:
                times.append(link.unread[0].arrives)
            if link.under_way:
                times.append(link.under_way[0].arrives)
        for packet in links.sent_by(peer):
            if packet.leaves > now:
                times.append(packet.leaves)
        return min(times, default=math.inf)

    def cut(self, a: int, b: int) -> None:
        """Break the link of two peers, in both directions; messages under way are lost."""
        now = self._clock.now()
        for sender, receiver in ((a, b), (b, a)):
            self._links.cut(sender, receiver, now, kept=self._links.between(sender, receiver).arrived_by(now))

    def heal(self, a: int, b: int) -> None:
        """Restore a link that was cut; both ends learn it at once."""
        for sender, receiver in ((a, b), (b, a)):
            self._links.heal(sender, receiver, self._clock.now())

    def remove(self, peer: int) -> None:
        """End a peer's links, because its process has ended; what has left still arrives."""
        self._links.close(peer, self._clock.now())


class VirtualTransport:
    """Transport of one peer on a virtual network, which never waits."""

    def __init__(self, clock: VirtualClock, links: Links, peer: int, is_paused: Callable[[], bool]) -> None:
        self.endpoint = f"sim://{peer}"
        self._is_paused = is_paused
        self._held: list[tuple[int, wire.Message]] = []  # until the peer is woken
        self._clock = clock
        self._links = links
        self._peer = peer

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._links.open_to(self._peer, endpoints, self._clock.now())

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        """Do nothing: a simulated peer keeps its place."""

    def send(self, neighbor: int, message: wire.Message) -> int:
        if self._is_paused():
            self._held.append((neighbor, message))
            return len(wire.encode(message)[0]) + message.size
        return self._links.between(self._peer, neighbor).send(message, self._clock.now())

    def release(self) -> None:
        """Send what was held back while the peer was paused."""
        held, self._held = self._held, []
        for neighbor, message in held:
            self.send(neighbor, message)

    def discard(self, neighbor: int) -> None:
        self._links.between(self._peer, neighbor).under_way.clear()

    def flushed(self) -> bool:
        """Whether all vectors have left; a buffer must not change before."""
        now, is_flushed = self._clock.now(), True
        for packet in self._links.sent_by(self._peer):
            if packet.leaves <= now:
                packet.leave()
            elif packet.has_vector:
                is_flushed = False
        return is_flushed

    def poll(self, seconds: float) -> list[TransportEvent]:
        """Take the messages and events that have arrived."""
        now, events = self._clock.now(), self._links.events[self._peer]
        due: list[TransportEvent] = [what for when, what in events if when <= now]
        self._links.events[self._peer] = [(when, what) for when, what in events if when > now]
        for link in self._links.to(self._peer):
            while link.unread and link.unread[0].arrives <= now:
                due.append(link.take(is_unread=True))
            while link.under_way and link.under_way[0].arrives <= now:
                due.append(link.take())
        return due

    def wake(self) -> None:
        """Do nothing: `poll` never waits."""

    def close(self) -> None:
        """Do nothing: sent messages are under way."""
