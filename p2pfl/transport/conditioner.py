"""Link conditioner: a transport that delays, loses or damages messages.

Two conditions exist: a constant delay, the slow link of benchmarks and tests, and the edges of a fault script.
"""

from __future__ import annotations

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
            message = _corrupted(message)
        return Delivery(message, seconds)


class Conditioner:
    """Transport that hands messages to another one as a condition says.

    Each neighbor's messages keep their order. Delayed ones are sent during `poll`.
    """

    def __init__(self, transport: Transport, condition: Condition) -> None:
        self.endpoint = transport.endpoint
        self._transport = transport
        self._condition = condition
        self._delayed: deque[tuple[float, int, wire.Message]] = deque()  # with the time at which it is due

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._transport.connect(endpoints, vector_bytes)

    def send(self, neighbor: int, message: wire.Message) -> int:
        delivery = self._condition(neighbor, message)
        if delivery is None:
            return 0
        is_queued = any(other == neighbor for _, other, _ in self._delayed)
        if delivery.seconds == 0.0 and not is_queued:  # delayed messages must not be overtaken
            return self._transport.send(neighbor, delivery.message)
        self._delayed.append((time.monotonic() + delivery.seconds, neighbor, delivery.message))
        return len(wire.encode(delivery.message)[0]) + len(delivery.message.body)

    def discard(self, neighbor: int) -> None:
        self._delayed = deque(item for item in self._delayed if item[1] != neighbor)
        self._transport.discard(neighbor)

    def flushed(self) -> bool:
        return not any(message.size for _, _, message in self._delayed) and self._transport.flushed()

    def poll(self, seconds: float) -> list[TransportEvent]:
        deadline = time.monotonic() + max(seconds, 0.0)
        self._send_due(time.monotonic())
        if self._delayed:
            deadline = min(deadline, min(due for due, _, _ in self._delayed))
        events = self._transport.poll(deadline - time.monotonic())
        self._send_due(time.monotonic())
        return events

    def wake(self) -> None:
        self._transport.wake()

    def close(self) -> None:
        self._send_due(float("inf"))
        self._transport.close()

    def _send_due(self, now: float) -> None:
        """Send the messages that are due, each neighbor's in their order."""
        blocked: set[int] = set()  # neighbors of whom an earlier message is not due yet
        waiting: deque[tuple[float, int, wire.Message]] = deque()
        for due, neighbor, message in self._delayed:
            if due <= now and neighbor not in blocked:
                self._transport.send(neighbor, message)
            else:
                blocked.add(neighbor)
                waiting.append((due, neighbor, message))
        self._delayed = waiting


def _corrupted(message: wire.Message) -> wire.Message:
    """Copy of a message with another version and no body, which is refused."""
    header = msgspec.structs.replace(message.header, version=message.header.version ^ 0x55)
    return wire.Message(header, b"", ends=False)
