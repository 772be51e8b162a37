"""Link conditioner: a transport that delays, loses or damages messages.

Two conditions exist: a constant delay, the slow link of benchmarks and tests, and the edges of a fault script.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from p2pfl.faults import Corrupt, Delay, Drop, FaultScript
from p2pfl.protocol import wire
from p2pfl.protocol.events import TransportEvent
from p2pfl.transport.interface import Transport

# Kinds that say that a neighbor is there, gone or done: only a broken connection can swallow one, after which it is
# sent again.
SPARED = frozenset({"hello", "edge_down", "goodbye"})


@dataclass(frozen=True)
class Delivery:
    """A message as its receiver gets it, after `seconds` of delay."""

    message: wire.Message
    seconds: float = 0.0


Condition = Callable[[int, wire.Message], Delivery | None]
"""Function from neighbor and message to the delivery; None if the message is lost."""


def constant_delay(seconds: float) -> Condition:
    """Latency of every message; bandwidth is not limited."""
    return lambda neighbor, message: Delivery(message, seconds)


class ScriptedFaults:
    """Condition of a process's outgoing edges: a script's delay, drop and corrupt.

    The affected messages are drawn from the script's seed, the edge, the round and the message's number in it. A
    corrupt message has its header changed and its body cut, so that the receiver refuses it: the body's bytes are
    protected by TCP's checksums and, with keys, by encryption, which would break the connection. Greetings and goodbyes
    are only ever delayed: a connection that stands loses nothing, so they are not sent again as long as it does.
    """

    def __init__(self, script: FaultScript, me: int, round: Callable[[], int]) -> None:
        """`me`: the sending process's number; `round`: returns its current round."""
        self._script = script
        self._me = me
        self._round = round
        self._count: Counter[tuple[int, int]] = Counter()  # messages so far, by neighbor and round

    def __call__(self, neighbor: int, message: wire.Message) -> Delivery | None:
        round = self._round()
        number = self._count[neighbor, round]
        self._count[neighbor, round] += 1
        seconds = 0.0
        # One generator for all faults: with one each, of the same seed, all that is damaged would be lost already.
        draw = self._script.draw(self._me, neighbor, round, number)
        for fault in self._script.on_edge(self._me, neighbor):
            if not fault.rounds[0] <= round <= fault.rounds[1]:
                continue
            if isinstance(fault, Delay):
                seconds += fault.seconds
                continue
            if message.header.kind in SPARED or draw.random() >= fault.probability:
                continue
            if isinstance(fault, Drop):
                return None
            assert isinstance(fault, Corrupt)
            message = corrupted(message)
        return Delivery(message, seconds)


class Conditioner:
    """Transport that hands messages to another one as a condition says.

    Each neighbor's messages keep their order. Delayed ones are sent during `poll`.
    """

    def __init__(self, transport: Transport, condition: Condition, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: the clock by which messages are delayed, in seconds."""
        self.endpoint = transport.endpoint
        self._transport = transport
        self._condition = condition
        self._now = now
        self._delayed: deque[tuple[float, int, wire.Message]] = deque()  # with the time at which it is due

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._transport.connect(endpoints, vector_bytes)

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        self._transport.redirect(endpoints)

    def send(self, neighbor: int, message: wire.Message) -> int:
        delivery = self._condition(neighbor, message)
        if delivery is None:
            return 0
        queued = [due for due, other, _ in self._delayed if other == neighbor]
        if delivery.seconds == 0.0 and not queued:
            return self._transport.send(neighbor, delivery.message)
        due = max([self._now() + delivery.seconds, *queued])  # delayed messages must not be overtaken
        self._delayed.append((due, neighbor, delivery.message))
        return len(wire.encode(delivery.message)[0]) + len(delivery.message.body)

    def discard(self, neighbor: int) -> None:
        self._delayed = deque(item for item in self._delayed if item[1] != neighbor)
        self._transport.discard(neighbor)

    def flushed(self) -> bool:
        return not any(message.size for _, _, message in self._delayed) and self._transport.flushed()

    def poll(self, seconds: float) -> list[TransportEvent]:
        deadline = self._now() + max(seconds, 0.0)
        self._send_due(self._now())
        deadline = min(deadline, self.next_due)
        events = self._transport.poll(deadline - self._now())
        self._send_due(self._now())
        return events

    @property
    def next_due(self) -> float:
        """Time at which the next delayed message is sent; infinity if there is none."""
        return min((due for due, _, _ in self._delayed), default=math.inf)

    def wake(self) -> None:
        self._transport.wake()

    def close(self) -> None:
        self._send_due(float("inf"))
        self._transport.close()

    def _send_due(self, now: float) -> None:
        """Send the messages that are due, each neighbor's in their order."""
        due = [item for item in self._delayed if item[0] <= now]
        self._delayed = deque(item for item in self._delayed if item[0] > now)
        for _, neighbor, message in due:
            self._transport.send(neighbor, message)


def corrupted(message: wire.Message) -> wire.Message:
    """Copy of a message with another version and no body, which is refused."""
    header = msgspec.structs.replace(message.header, version=message.header.version ^ 0x55)
    return wire.Message(header, b"", ends=False)
