"""Interface of a transport: messages to and from neighbors, and the events that it reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from p2pfl.protocol.events import TransportEvent
from p2pfl.protocol.wire import Message


class Transport(Protocol):
    """Messages to neighbors by peer number. All methods but `wake` belong to one thread."""

    endpoint: str
    """Where neighbors reach this peer."""

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        """Open a link to each neighbor; payload vectors will have at most `vector_bytes`."""

    def send(self, neighbor: int, message: Message) -> int:
        """Hand over a message and return its bytes; its body must not change until `flushed`.

        A link that is full, since the neighbor takes nothing any more, counts as broken: 0 bytes were sent.
        """

    def discard(self, neighbor: int) -> None:
        """Throw away what was handed over for a neighbor and has not left; the link is then made anew."""

    def flushed(self) -> bool:
        """Whether no body handed over is still being sent."""

    def poll(self, seconds: float) -> list[TransportEvent]:
        """What has come in; waits up to `seconds` for the first event or for `wake`."""

    def wake(self) -> None:
        """End a `poll` that another thread is waiting in."""

    def close(self) -> None:
        """Deliver what was handed over (for a second at most) and close."""
