"""Watchdog over connections: bounds on their unread bytes, frames and messages.

ZeroMQ reads all that it receives into memory at once (`zeromq.py` says why no high-water mark stops it). Credit-based
flow control bounds what an honest neighbor sends; here the connections of others are closed.
"""

from __future__ import annotations

import time

from p2pfl.errors import Refusal
from p2pfl.protocol import wire
from p2pfl.protocol.events import Refused
from p2pfl.transport.admission import Admission
from p2pfl.transport.connections import Connection
from p2pfl.transport.kernel_sockets import bytes_received

# Bytes of an unfinished message, with its framing. An empty frame takes 2 on the wire and about 64 in memory.
PART_BYTES = wire.CHUNK_BYTES + wire.HEADER_BYTES + (1 << 16)
MESSAGE_FRAMES = 16_384  # of one message, beyond which its connection is closed; regular ones have two
WATCH_SECONDS = 0.1
# Heartbeats, which are part of no message: ZeroMQ's take 21 bytes a second with encryption, 5 without.
HEARTBEAT_RATE = 64  # bytes a second
HEARTBEAT_BYTES = PART_BYTES  # at most between two messages: 14 hours
_CONTROL_MESSAGES = 1_024  # of full size, beside chunks, that may wait
_FRAMES = 1 << 15  # of any messages that may wait: some 2 MiB of memory, and a tenth of a second's work
_VECTORS = 4  # of a neighbor that may be outstanding


class Watchdog:
    """Watchdog over one bound socket's connections, on the thread that receives."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._measured = 0.0
        self._is_due = False
        self.set_limits(0)

    def set_limits(self, vector_bytes: int) -> None:
        """Set the limits for vectors of at most so many bytes."""
        messages = _VECTORS * wire.chunk_count(vector_bytes) + _CONTROL_MESSAGES
        self._waiting_frames = _FRAMES + 2 * messages
        self._waiting_bytes = _VECTORS * vector_bytes + messages * (wire.HEADER_BYTES + 256) + PART_BYTES

    def count_message(self, connection: Connection, frames: int, size: int) -> None:
        """Account for a whole message: its frames, and its bytes on the wire."""
        connection.taken += size
        connection.finished = True
        connection.frames += frames

    def close_endless(self, connection: Connection) -> None:
        """Close a connection whose message has more frames than any regular one."""
        self._admission.close_connection(connection, Refused(Refusal.FLOOD, "a message of too many frames"))

    def measure(self) -> None:
        """Measure how much each connection has received.

        Messages that are judged by this must be taken from the socket only afterwards: else one that comes in between
        would look endless.
        """
        now = time.monotonic()
        if now < self._measured + WATCH_SECONDS / 2:
            return  # the system is asked about every connection
        self._measured, self._is_due = now, True
        for connection in self._admission.connections():
            if connection.mark is None:
                connection.mark, connection.frames = bytes_received(connection.end), 0

    def enforce(self, drained: bool) -> None:
        """Close connections beyond their limits.

        `drained`: since the measurement all whole messages have been taken.
        """
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
        too_much = too_much or bytes_received(connection.end) - connection.taken > self._waiting_bytes
        return "more messages than were asked for" if too_much else ""

    def _settle(self, connection: Connection, heartbeats: int) -> None:
        """Account for the heartbeats since the last message.

        Part of an unfinished message may be counted among them. That is corrected once the whole message is counted:
        no more can have been taken than was received, so no allowance is saved up.
        """
        connection.taken += heartbeats
        if connection.mark is not None and connection.taken > connection.mark:
            connection.taken = min(connection.taken, bytes_received(connection.end))
        connection.settled = self._measured
