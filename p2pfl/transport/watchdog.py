"""Bounds on the bytes, frames and messages of an admitted connection.

ZeroMQ takes whatever comes into memory at once (see `ZmqTransport` for why its high-water mark does not stop it).
Credit-based flow control bounds what an honest neighbor sends; here those are cut off that keep to no bound.
"""

from __future__ import annotations

import time

from p2pfl.errors import Refusal
from p2pfl.protocol import wire
from p2pfl.protocol.events import Refused
from p2pfl.transport.admission import Admission
from p2pfl.transport.connections import Connection
from p2pfl.transport.counters import received

# Of a message under way, with its framing. An empty frame takes 2 bytes on the wire and about 64 in memory.
PART_BYTES = wire.CHUNK_BYTES + wire.HEADER_BYTES + (1 << 16)
MESSAGE_FRAMES = 16_384  # of one message, beyond which its connection is closed; a message of ours has two
WATCH_SECONDS = 0.1
# Of heartbeats, which are part of no message: ZeroMQ's take 21 bytes a second with encryption, 5 without.
HEARTBEAT_RATE = 64  # bytes a second
HEARTBEAT_BYTES = PART_BYTES  # at most between two messages: 14 hours without a message
_CONTROL_MESSAGES = 1_024  # of full size, beside chunks, that may wait in a connection
_FRAMES = 1 << 15  # of any messages that may wait in it: some 2 MiB of memory, and a tenth of a second's work
_VECTORS = 4  # of a neighbor that may be outstanding


class Watchdog:
    """Watches the connections of one bound socket, on the thread that takes its messages."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._measured = 0.0
        self._is_due = False
        self.expect(0)

    def expect(self, vector_bytes: int) -> None:
        """Vectors will have at most so many bytes."""
        messages = _VECTORS * wire.chunk_count(vector_bytes) + _CONTROL_MESSAGES
        self._waiting_frames = _FRAMES + 2 * messages
        self._waiting_bytes = _VECTORS * vector_bytes + messages * (wire.HEADER_BYTES + 256) + PART_BYTES

    def took(self, connection: Connection, frames: int, size: int) -> None:
        """A whole message has been taken, of so many bytes on the wire."""
        connection.taken += size
        connection.finished = True
        connection.frames += frames

    def endless(self, connection: Connection) -> None:
        """A message has more frames than any of ours."""
        self._admission.close_connection(connection, Refused(Refusal.FLOOD, "a message of too many frames"))

    def measure(self) -> None:
        """Ask how much has come. What is judged by this must be taken from the socket only afterwards: else a message
        that comes in between would look like one without end."""
        now = time.monotonic()
        if now < self._measured + WATCH_SECONDS / 2:
            return  # it asks the system about every connection
        self._measured, self._is_due = now, True
        for connection in self._admission.connections():
            if connection.mark is None:
                connection.mark, connection.frames = received(connection.end), 0

    def judge(self, drained: bool) -> None:
        """Close what is too much; `drained`: after it was measured, all whole messages were taken."""
        if not self._is_due:
            return
        self._is_due = False
        if drained:
            self._admission.close_silent()
        for connection in self._admission.connections():
            reason = self._verdict(connection, drained)
            if reason:
                self._admission.close_connection(connection, Refused(Refusal.FLOOD, reason))

    def _verdict(self, connection: Connection, drained: bool) -> str:
        if connection.mark is None:
            return ""
        left = connection.mark - connection.taken
        heartbeats = min(int((self._measured - connection.settled) * HEARTBEAT_RATE), HEARTBEAT_BYTES)
        if drained or left <= PART_BYTES:
            if connection.finished:
                self._settle(connection, min(max(0, left), heartbeats))
            connection.mark, connection.finished = None, False
            return "a message without end" if left > PART_BYTES + heartbeats else ""
        too_much = connection.frames > self._waiting_frames
        too_much = too_much or received(connection.end) - connection.taken > self._waiting_bytes
        return "more messages than were asked for" if too_much else ""

    def _settle(self, connection: Connection, heartbeats: int) -> None:
        """Account for the heartbeats of all the time since the last message.

        Part of an unfinished message may be among them. It is taken back when that is counted as a whole: no more can
        have been taken than has come, so no credit is saved up.
        """
        connection.taken += heartbeats
        if connection.mark is not None and connection.taken > connection.mark:
            connection.taken = min(connection.taken, received(connection.end))
        connection.settled = self._measured
