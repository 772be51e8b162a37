"""Links of a simulated network: messages under way, broken and restored links.

A link is one direction of a connection. It keeps the order of its messages and loses none as long as it stands. Where
it breaks, the first of those under way may have arrived and are read later, beside what the restored link brings;
others are lost, and what is sent from then on waits for the link. That is how ZeroMQ behaves.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2pfl.errors import ProtocolError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Received, Reconnected, Refused, TransportEvent
from p2pfl.transport.conditioner import corrupted

LinkEvent = Lost | Reconnected


class ContractError(RuntimeError):
    """A simulated process has broken the contract between protocol and driver."""


@dataclass(frozen=True)
class LinkSpeed:
    """Latency (seconds) and bandwidth (bytes a second) of a link, in each direction."""

    latency: float = 0.0
    bandwidth: float = math.inf


class Packet:
    """An encoded message under way.

    Its body is the sender's memory until it has left, and must not change until then.
    """

    def __init__(self, message: wire.Message) -> None:
        header, body = wire.encode(message)
        self.kind, self.round = message.header.kind, message.header.round
        self.size = len(header) + message.size
        self.has_vector = message.size > 0
        self.leaves = self.arrives = math.inf  # infinity: it waits for the link
        self._frames = header, bytes(body)
        self._lent: wire.Buffer | None = body

    def leave(self) -> None:
        """Let go of the sender's memory. Raises ContractError if that has changed."""
        if self._lent is not None and bytes(self._lent) != self._frames[1]:
            raise ContractError(f"the buffer of a {self.kind} of round {self.round} changed while it was being sent")
        self._lent = None

    def damage(self) -> None:
        """Damage the message, so that its receiver refuses it."""
        self.leave()
        header, body = wire.encode(corrupted(wire.decode(self._frames)))
        self._frames = header, bytes(body)

    def event(self) -> TransportEvent:
        """The receiver's event."""
        self.leave()
        try:
            return Received(wire.decode(self._frames), len(self._frames[0]) + len(self._frames[1]))
        except ProtocolError as error:
            return Refused(error.code, error.detail)


class Link:
    """One direction of a connection.

    `under_way` holds messages in their order, `unread` those that a broken connection has brought and that nobody
    has read yet. `sent` counts all by kind; `delivered` keeps those that were read, if the links keep a history.
    """

    def __init__(self, speed: LinkSpeed, keeps_history: bool) -> None:
        self.is_up = True
        self.under_way: deque[Packet] = deque()
        self.unread: deque[Packet] = deque()
        self.sent: Counter[str] = Counter()
        self.delivered: list[Packet] = []
        self._speed = speed
        self._keeps_history = keeps_history
        self._free = 0.0  # time at which all so far has left

    def send(self, message: wire.Message, now: float) -> int:
        """Send a message; returns its bytes."""
        packet = Packet(message)
        self.sent[packet.kind] += 1
        if self.is_up:
            self._dispatch(packet, now)
        self.under_way.append(packet)
        return packet.size

    def take(self, is_unread: bool = False) -> TransportEvent:
        """Take the first message under way, or of those that are unread."""
        packet = (self.unread if is_unread else self.under_way).popleft()
        if self._keeps_history:
            self.delivered.append(packet)
        return packet.event()

    def left_by(self, now: float) -> int:
        """Number of messages under way that have left by a time."""
        return sum(packet.leaves <= now for packet in self.under_way)

    def arrived_by(self, now: float) -> int:
        """Number of messages under way that have arrived by a time."""
        return sum(packet.arrives <= now for packet in self.under_way)

    def cut(self, kept: int = 0, lost: int | None = None) -> None:
        """Break.

        The first `kept` messages under way have arrived, the next `lost` (None: all others) are lost.
        """
        self.is_up = False
        for _ in range(min(kept, len(self.under_way))):
            self.under_way[0].leave()
            self.unread.append(self.under_way.popleft())
        for _ in range(len(self.under_way) if lost is None else min(lost, len(self.under_way))):
            self.under_way.popleft()
        for packet in self.under_way:
            packet.leaves = packet.arrives = math.inf

    def heal(self, now: float) -> None:
        """Stand again; messages that have waited leave now."""
        self.is_up, self._free = True, now
        for packet in self.under_way:
            self._dispatch(packet, now)

    def _dispatch(self, packet: Packet, now: float) -> None:
        self._free = packet.leaves = max(now, self._free) + packet.size / self._speed.bandwidth
        packet.arrives = packet.leaves + self._speed.latency


class Links:
    """All links of a network, and what their senders learn of them."""

    def __init__(self, speed: LinkSpeed | None = None, grace: float | None = None, keeps_history: bool = False) -> None:
        """`grace`: seconds after which the sender of a broken link learns that it is lost.

        None: it never does, unless the receiver is gone, which it may learn at any time.
        """
        self._speed = speed or LinkSpeed()
        self._grace = grace
        self._keeps_history = keeps_history
        self._from: dict[int, dict[int, Link]] = defaultdict(dict)
        self._to: dict[int, dict[int, Link]] = defaultdict(dict)
        self._all: list[tuple[int, int, Link]] = []  # of `all`; empty after a new link
        self._gone: set[int] = set()
        # By sender: what it learns of its links, and when; in this order for each link.
        self.events: dict[int, list[tuple[float, LinkEvent]]] = defaultdict(list)

    def between(self, sender: int, receiver: int) -> Link:
        """The link from one process to another."""
        link = self._from[sender].get(receiver)
        if link is None:
            link = self._from[sender][receiver] = self._to[receiver][sender] = Link(self._speed, self._keeps_history)
            link.is_up = receiver not in self._gone
            self._all = []
        return link

    def all(self) -> Sequence[tuple[int, int, Link]]:
        """Sender, receiver and link of all that have been used, in their order."""
        if not self._all:
            ordered = ((sender, sorted(links.items())) for sender, links in sorted(self._from.items()))
            self._all = [(sender, receiver, link) for sender, links in ordered for receiver, link in links]
        return self._all

    def sent_by(self, sender: int) -> Iterator[Packet]:
        """Messages of a process that have not been read."""
        for link in self._from[sender].values():
            yield from link.unread
            yield from link.under_way

    def into(self, receiver: int) -> Iterable[Link]:
        """Links to a process, in any order."""
        return self._to[receiver].values()

    def to(self, receiver: int) -> list[Link]:
        """Links to a process, in the order of their senders."""
        return [link for _, link in sorted(self._to[receiver].items())]

    def open_to(self, sender: int, receivers: Iterable[int], now: float) -> None:
        """Make a process's links to its neighbors; it learns of those that are gone."""
        for receiver in receivers:
            if not self.between(sender, receiver).is_up and self._grace is not None:
                self._learn(sender, now + self._grace, Lost(receiver))

    def cut(self, sender: int, receiver: int, now: float, kept: int = 0, lost: int | None = None) -> bool:
        """Break a link that stands, as `Link.cut` does; whether it stood."""
        link = self.between(sender, receiver)
        if sender in self._gone or not link.is_up:
            return False
        link.cut(kept, lost)
        if self._grace is not None:
            self._learn(sender, now + self._grace, Lost(receiver))
        return True

    def heal(self, sender: int, receiver: int, now: float) -> bool:
        """Restore a link that is broken; its sender learns it at once."""
        link = self.between(sender, receiver)
        if link.is_up or {sender, receiver} & self._gone:
            return False
        link.heal(now)
        self._learn(sender, now, Reconnected(receiver))
        return True

    def close(self, process: int, now: float, kept: int | None = None) -> None:
        """End a process's links, as with its end.

        `kept`: how many of the messages under way on each of its links still arrive; None: those that have left.
        """
        self._gone.add(process)
        self.events[process].clear()
        for link in self._from[process].values():
            link.cut(kept=(link.left_by(now) if kept is None else kept) * link.is_up)
        for sender, link in sorted(self._to[process].items()):
            link.unread.clear()
            link.cut()
            if sender not in self._gone:
                self._learn(sender, now + (self._grace or 0.0), Lost(process))

    def reopen(self, process: int, now: float) -> None:
        """Restore the links of a process that is started again; the others learn it.

        The last messages of its earlier incarnation may be read before or after those of the new one.
        """
        self._gone.discard(process)
        for receiver, link in self._from[process].items():
            if receiver not in self._gone:
                link.heal(now)
        for sender in sorted(self._to[process]):
            self.heal(sender, process, now)

    def forget(self, sender: int, event: LinkEvent) -> None:
        """Note that a sender has learned the first such event."""
        self.events[sender].remove(next(item for item in self.events[sender] if item[1] == event))

    def is_gone(self, process: int) -> bool:
        """Whether a process's links have ended."""
        return process in self._gone

    def _learn(self, sender: int, when: float, event: LinkEvent) -> None:
        """Note what a sender learns; of a link only the newest loss counts."""
        kept = [item for item in self.events[sender] if item[1] != Lost(event.neighbor)]
        self.events[sender] = [*kept, (when, event)]
