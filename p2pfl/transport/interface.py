"""Transport interface: messages to and from neighbors, and events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from p2pfl.protocol.events import TransportEvent
from p2pfl.protocol.wire import Message


class Transport(Protocol):
    """Exchange of messages with neighbors, which are known by peer number.

    All methods but `redirect` and `wake` belong to one thread.
    """

    endpoint: str
    """Address at which neighbors reach this peer."""

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        """Open a link to each neighbor, for payload vectors of at most `vector_bytes`."""

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        """Take new endpoints of neighbors, from any thread."""

    def send(self, neighbor: int, message: Message) -> int:
        """Hand over a message and return its size in bytes.

        Its body must not change until `flushed`. A full link, whose neighbor no longer takes anything, counts as
        broken: 0 bytes are sent.
        """

    def discard(self, neighbor: int) -> None:
        """Throw away a neighbor's unsent messages, and replace the link."""

    def flushed(self) -> bool:
        """Return whether all bodies that were handed over have been sent."""

    def poll(self, seconds: float) -> list[TransportEvent]:
        """Wait up to `seconds` for events, or for `wake`, and return them."""

    def wake(self) -> None:
        """End the `poll` in which another thread waits."""

    def close(self) -> None:
        """Send what was handed over, for a second at most, and close."""
