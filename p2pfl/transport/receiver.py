"""Receiver of the ZeroMQ transport: turns frames into checked messages.

A message is taken frame by frame, in batches, so that no sender keeps the peer busy. Its User-Id, given at admission,
says which connection it came over, and so whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.protocol import wire
from p2pfl.protocol.events import Received, Refused, TransportEvent
from p2pfl.transport.admission import Admission
from p2pfl.transport.connections import Connection
from p2pfl.transport.links import MARKER, NOW, is_readable
from p2pfl.transport.watchdog import MESSAGE_FRAMES, Watchdog

MAX_ORIGINS = 256  # kept before those whose connections have ended are forgotten
BATCH_MESSAGES = 64  # taken from the socket before the peer looks after its other work
BATCH_FRAMES = 1_000  # and frames


@dataclass
class _Origin:
    """Origin of the messages with one User-Id; `connection` is None once it ended."""

    neighbor: int | None
    connection: Connection | None


@dataclass(slots=True)
class _Arriving:
    """Message that is being received; frames after the third are only counted."""

    origin: _Origin
    frames: list[memoryview] = field(default_factory=list)
    count: int = 0
    size: int = 0
    is_whole: bool = False


class Receiver:
    """Messages of one bound ROUTER socket, on the thread that polls it."""

    def __init__(
        self,
        router: zmq.Socket[bytes],
        admission: Admission,
        watchdog: Watchdog,
        sealing: int | None,
    ) -> None:
        """`sealing`: bytes that encryption adds to a frame; None without credentials."""
        self._router = router
        self._admission = admission
        self._watchdog = watchdog
        self._sealing = sealing or 0
        self._is_authenticated = sealing is not None
        self._origins: dict[str, _Origin] = {}
        self._arriving: _Arriving | None = None

    def has_more(self) -> bool:
        """Whether the socket has a message."""
        return is_readable(self._router)

    def receive(self, events: list[TransportEvent]) -> bool:
        """Take a batch of messages and append their events; True if none are left."""
        frames = BATCH_FRAMES
        for _ in range(BATCH_MESSAGES):
            if self._arriving is None:
                try:
                    identity = self._router.recv(NOW, copy=False)  # of the connection; its User-Id says whose it is
                except zmq.Again:
                    return True
                user = str(identity.get("User-Id"))
                self._arriving = _Arriving(self._origins.get(user) or self._new_origin(user, identity))
            message = self._arriving
            frames -= self._take(message, frames)
            if not message.is_whole:
                if message.count > MESSAGE_FRAMES and message.origin.connection is not None:
                    self._watchdog.close_endless(message.origin.connection)
                return False
            self._arriving = None
            event = self._decode(message)
            if event is not None:
                events.append(event)
            if not frames:
                return False
        return False

    def _take(self, message: _Arriving, most: int) -> int:
        """Take up to `most` frames of a message, and return how many were taken."""
        for taken in range(1, most + 1):
            frame = self._router.recv(copy=False)
            data = frame.buffer
            sealed = data.nbytes + self._sealing
            message.size += sealed + (2 if sealed < 256 else 9)  # ZeroMQ's prefix with the frame's length
            message.count += 1
            if len(message.frames) < 3:
                message.frames.append(data)
            if not frame.more:
                message.is_whole = True
                return taken
        return most

    def _decode(self, message: _Arriving) -> TransportEvent | None:
        """Event of a whole message; None for the markers around a link's messages."""
        origin, frames = message.origin, message.frames
        event: TransportEvent | None = None
        if len(frames) > 1 or frames[0] != MARKER:
            try:
                decoded = wire.decode(frames)
                if self._is_authenticated and origin.neighbor != decoded.header.sender:
                    raise ProtocolError(Refusal.SENDER, "not the owner of the connection")
                event = Received(decoded, frames[0].nbytes + frames[1].nbytes)
            except ProtocolError as error:
                event = Refused(error.code, error.detail)
        if origin.connection is not None:
            origin.connection.proven = origin.connection.proven or isinstance(event, Received)
            self._watchdog.count_message(origin.connection, message.count, message.size)
        return event

    def _new_origin(self, user: str, identity: zmq.Frame) -> _Origin:
        """Origin of a connection's first message, kept for the next ones."""
        if len(self._origins) > MAX_ORIGINS:
            self._origins = {u: one for u, one in self._origins.items() if one.connection and not one.connection.ended}
        try:
            number = int(identity.get(zmq.SRCFD))
        except zmq.ZMQError:  # macOS does not tell it for Unix sockets
            number = None
        connection = self._admission.connection(user, number)
        neighbor = user.partition(".")[0]
        origin = self._origins[user] = _Origin(int(neighbor) if neighbor else None, connection)
        return origin
