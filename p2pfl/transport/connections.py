"""Accepted connections of a socket, admissions, and which connection each of these may be of."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from p2pfl.protocol.events import Refused
from p2pfl.transport.counters import sent_nothing_after

MOST_UNKNOWN = 64  # admissions of one neighbor whose connections have sent nothing, before all count as alive
ANSWER_SECONDS = 0.2  # within which the answer to an admission is on its way


@dataclass(eq=False)
class Connection:
    """An accepted connection; `end` is a second handle of it, so that its number cannot come to mean another.

    What follows `user` belongs to the thread that takes the messages.
    """

    end: socket.socket
    order: int  # among those accepted and admitted
    since: float
    taken: int  # bytes of its finished messages and heartbeats, and those that had come when it was accepted
    user: str | None = None  # its User-Id, once it has sent a message
    neighbor: int | None = None
    proven: bool = False  # a neighbor's, or one that has sent a well-formed message
    ended: bool = False
    mark: int | None = None  # bytes that had come when they were measured, until their messages are taken
    frames: int = 0  # taken since then
    settled: float = 0.0  # when its heartbeats were accounted for, which is when a message has come
    finished: bool = False  # a message has come since


@dataclass
class Admitted:
    """An admission, and whose it is."""

    neighbor: int | None
    order: int
    since: float
    connection: Connection | None = None  # once it has sent a message: only this says which it is


@dataclass
class State:
    """What both threads know, under a lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: dict[int, Connection] = field(default_factory=dict)  # by file number
    admitted: dict[str, Admitted] = field(default_factory=dict)  # by User-Id
    barred: dict[int, float] = field(default_factory=dict)  # neighbors, and until when
    refused: Counter[Refused] = field(default_factory=Counter)
    count: int = 0
    is_blind: bool = False

    def live(self, neighbor: int, unasked: int) -> int:
        """How many connections a neighbor has at most.

        Of one that has sent nothing nobody says which it is, but only that it was accepted before it was admitted, and
        was answered then: with more bytes than the `unasked` that everybody gets.
        """
        admitted = [one for one in self.admitted.values() if one.neighbor == neighbor]
        unknown = [one for one in admitted if one.connection is None]
        if not unknown or len(unknown) > MOST_UNKNOWN:
            return len(admitted)
        silent = self._silent(unknown[-1].order)
        if unknown[-1].since < time.monotonic() - ANSWER_SECONDS:
            silent = [one for one in silent if not sent_nothing_after(one.end, unasked)]
        return len(admitted) - len(unknown) + min(len(unknown), len(silent))

    def unknown(self) -> list[Admitted]:
        """Admissions of which nobody knows the connection yet."""
        return [one for one in self.admitted.values() if one.connection is None]

    def _silent(self, before: int) -> list[Connection]:
        """Connections that have sent nothing and were accepted before something else was, or was admitted."""
        open_ = self.connections.values()
        return [connection for connection in open_ if connection.user is None and connection.order < before]

    def forget_unknown(self) -> None:
        """Let go of admissions whose connection has certainly ended: none that has sent nothing is as old."""
        first = min((one.order for one in self._silent(self.count + 1)), default=math.inf)
        for user, admitted in list(self.admitted.items()):
            if admitted.connection is None and admitted.order < first:
                del self.admitted[user]
