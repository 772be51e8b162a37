"""A transport whose messages are under way for a while: the slow link of benchmarks and tests."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from p2pfl.protocol import wire
from p2pfl.protocol.events import TransportEvent
from p2pfl.transport.interface import Transport


class Delayed:
    """Hands every message to another transport `seconds` after it was sent, in the same order.

    Latency only: a link carries as much as before. Messages go out while `poll` waits, as they do in a worker.
    """

    def __init__(self, transport: Transport, seconds: float) -> None:
        self.endpoint = transport.endpoint
        self._transport = transport
        self._seconds = seconds
        self._under_way: deque[tuple[float, int, wire.Message]] = deque()

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._transport.connect(endpoints, vector_bytes)

    def send(self, neighbor: int, message: wire.Message) -> int:
        self._under_way.append((time.monotonic() + self._seconds, neighbor, message))
        return len(wire.encode(message)[0]) + message.size

    def discard(self, neighbor: int) -> None:
        self._under_way = deque(item for item in self._under_way if item[1] != neighbor)
        self._transport.discard(neighbor)

    def flushed(self) -> bool:
        return not any(message.size for _, _, message in self._under_way) and self._transport.flushed()

    def poll(self, seconds: float) -> list[TransportEvent]:
        deadline = time.monotonic() + max(seconds, 0.0)
        self._deliver(time.monotonic())
        if self._under_way:
            deadline = min(deadline, self._under_way[0][0])
        events = self._transport.poll(deadline - time.monotonic())
        self._deliver(time.monotonic())
        return events

    def wake(self) -> None:
        self._transport.wake()

    def close(self) -> None:
        self._deliver(float("inf"))
        self._transport.close()

    def _deliver(self, now: float) -> None:
        while self._under_way and self._under_way[0][0] <= now:
            _, neighbor, message = self._under_way.popleft()
            self._transport.send(neighbor, message)
