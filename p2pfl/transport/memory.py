"""In-process transport for tests: messages are encoded, copied and decoded."""

from __future__ import annotations

import queue
from collections.abc import Mapping

from p2pfl.errors import ProtocolError
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Refused, TransportEvent

_Queue = queue.SimpleQueue[tuple[bytes, bytes] | None]


class MemoryHub:
    """Message queues of all memory transports of one process, by endpoint."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def queue(self, endpoint: str) -> _Queue:
        """Queue of an endpoint; it exists before its receiver does, as in ZeroMQ."""
        return self._queues.setdefault(endpoint, queue.SimpleQueue())


class MemoryTransport:
    """Transport of one peer; its endpoint is a name in the hub."""

    def __init__(self, hub: MemoryHub, endpoint: str) -> None:
        self.endpoint = endpoint
        self._hub = hub
        self._inbox = hub.queue(endpoint)
        self._links: dict[int, str] = {}

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._links = dict(endpoints)

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        self._links = {**self._links, **endpoints}

    def send(self, neighbor: int, message: wire.Message) -> int:
        header, body = wire.encode(message)
        self._hub.queue(self._links[neighbor]).put((header, bytes(body)))
        return len(header) + message.size

    def discard(self, neighbor: int) -> None:
        """Do nothing: messages are sent at once."""

    def flushed(self) -> bool:
        return True

    def poll(self, seconds: float) -> list[TransportEvent]:
        events: list[TransportEvent] = []
        try:
            frames = self._inbox.get(timeout=max(seconds, 0.0)) if seconds > 0 else self._inbox.get_nowait()
            while frames is not None:
                events.append(_decode(frames))
                frames = self._inbox.get_nowait()
        except queue.Empty:
            pass
        return events

    def wake(self) -> None:
        self._inbox.put(None)

    def close(self) -> None:
        self._links.clear()


def _decode(frames: tuple[bytes, bytes]) -> TransportEvent:
    try:
        return Received(wire.decode(frames), len(frames[0]) + len(frames[1]))
    except ProtocolError as error:
        return Refused(error.code, error.detail)
