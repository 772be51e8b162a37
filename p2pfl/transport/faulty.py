"""A transport on whose edges messages are late, lost or damaged, as a fault script says.

Which messages that are is drawn from the script's seed, the edge, the round and the message's number in it. A damaged
message has bytes of its header changed, or its body cut, so that its receiver refuses it: the bodies' own bytes are
protected by TCP's checksums, and with keys by encryption, which would break the connection. Greetings and goodbyes are
only ever late: a connection that stands loses nothing, and nobody says them again as long as it does.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

import msgspec

from p2pfl.faults import Corrupt, Delay, Drop, FaultScript
from p2pfl.protocol import wire
from p2pfl.protocol.events import TransportEvent
from p2pfl.transport.interface import Transport

# What says that a neighbor is there, gone or done: only a broken connection can swallow it, and then it is said again.
SPARED = frozenset({"hello", "edge_down", "goodbye"})


class Faulty:
    """Plays the script's edges for what one process sends; `round` says in which round it is."""

    def __init__(self, transport: Transport, script: FaultScript, me: int, round: Callable[[], int]) -> None:
        self.endpoint = transport.endpoint
        self._transport = transport
        self._script = script
        self._me = me
        self._round = round
        self._count: Counter[tuple[int, int]] = Counter()  # messages so far, by neighbor and round
        self._under_way: deque[tuple[float, int, wire.Message]] = deque()

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._transport.connect(endpoints, vector_bytes)

    def send(self, neighbor: int, message: wire.Message) -> int:
        round = self._round()
        number = self._count[neighbor, round]
        self._count[neighbor, round] += 1
        seconds = 0.0
        # One generator for all: with one each, of the same seed, whatever is damaged would be what is lost already.
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
                return 0
            assert isinstance(fault, Corrupt)
            message = _damaged(message)
        held = any(other == neighbor for _, other, _ in self._under_way)
        if seconds == 0.0 and not held:  # what is under way must not be overtaken
            return self._transport.send(neighbor, message)
        self._under_way.append((time.monotonic() + seconds, neighbor, message))
        return len(wire.encode(message)[0]) + len(message.body)

    def discard(self, neighbor: int) -> None:
        self._under_way = deque(item for item in self._under_way if item[1] != neighbor)
        self._transport.discard(neighbor)

    def flushed(self) -> bool:
        return not any(message.size for _, _, message in self._under_way) and self._transport.flushed()

    def poll(self, seconds: float) -> list[TransportEvent]:
        deadline = time.monotonic() + max(seconds, 0.0)
        self._deliver(time.monotonic())
        if self._under_way:
            deadline = min(deadline, min(due for due, _, _ in self._under_way))
        events = self._transport.poll(deadline - time.monotonic())
        self._deliver(time.monotonic())
        return events

    def wake(self) -> None:
        self._transport.wake()

    def close(self) -> None:
        self._deliver(float("inf"))
        self._transport.close()

    def _deliver(self, now: float) -> None:
        """What has arrived by now; each neighbor's messages in their order."""
        held: set[int] = set()
        waiting: deque[tuple[float, int, wire.Message]] = deque()
        for due, neighbor, message in self._under_way:
            if due <= now and neighbor not in held:
                self._transport.send(neighbor, message)
            else:
                held.add(neighbor)
                waiting.append((due, neighbor, message))
        self._under_way = waiting


def _damaged(message: wire.Message) -> wire.Message:
    """The message as its receiver will refuse it: of another protocol version, and without its body."""
    header = msgspec.structs.replace(message.header, version=message.header.version ^ 0x55)
    return wire.Message(header, b"", ends=False)
