"""Table of a socket's accepted connections and admissions, and how they match."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from p2pfl.protocol.events import Refused
from p2pfl.transport.kernel_sockets import has_sent_at_most

MAX_UNMATCHED = 64  # admissions of one neighbor without a known connection, before all count as open
ANSWER_SECONDS = 0.2  # after which the answer to an admission has been sent


@dataclass(eq=False)
class Connection:
    """An accepted connection.

    `end` is a second handle of it, so that its file number cannot come to mean another. The fields after `user` belong
    to the thread that receives the messages.
    """

    end: socket.socket
    order: int  # among accepted and admitted ones
    since: float
    taken: int  # bytes of its whole messages and heartbeats, and those received before it was accepted
    user: str | None = None  # its User-Id, once it has sent a message
    neighbor: int | None = None
    proven: bool = False  # is a neighbor's, or has sent a well-formed message
    ended: bool = False
    mark: int | None = None  # bytes received at the last measurement, until their messages are taken
    frames: int = 0  # taken since then
    settled: float = 0.0  # time of the last message, up to which its heartbeats are accounted for
    finished: bool = False  # has a message been taken since then


@dataclass
class Admitted:
    """Admission of a neighbor, or of an unauthenticated peer (None)."""

    neighbor: int | None
    order: int
    since: float
    connection: Connection | None = None  # known from its first message on


@dataclass
class ConnectionTable:
    """Connections and admissions, shared by two threads under a lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: dict[int, Connection] = field(default_factory=dict)  # by file number
    admitted: dict[str, Admitted] = field(default_factory=dict)  # by User-Id
    barred: dict[int, float] = field(default_factory=dict)  # neighbor -> end of its time
    refused: Counter[Refused] = field(default_factory=Counter)
    count: int = 0
    is_blind: bool = False  # the system does not tell the file numbers of messages

    def count_open(self, neighbor: int, unasked: int) -> int:
        """Count a neighbor's open connections, or an upper bound of them.

        The connection of an admission is unmatched until its first message. It was accepted before it was admitted, and
        was answered then: with more bytes than the `unasked` that every connection gets.
        """
        admitted = [one for one in self.admitted.values() if one.neighbor == neighbor]
        unmatched = [one for one in admitted if one.connection is None]
        if not unmatched or len(unmatched) > MAX_UNMATCHED:
            return len(admitted)
        silent = self._silent(unmatched[-1].order)
        if unmatched[-1].since < time.monotonic() - ANSWER_SECONDS:
            silent = [one for one in silent if not has_sent_at_most(one.end, unasked)]
        return len(admitted) - len(unmatched) + min(len(unmatched), len(silent))

    def unmatched(self) -> list[Admitted]:
        """Admissions whose connection is not known yet."""
        return [one for one in self.admitted.values() if one.connection is None]

    def _silent(self, before: int) -> list[Connection]:
        """Connections that have sent nothing and are older than an order number."""
        open_ = self.connections.values()
        return [connection for connection in open_ if connection.user is None and connection.order < before]

    def forget_ended(self) -> None:
        """Forget admissions whose connection must have ended: all silent ones are younger."""
        first = min((one.order for one in self._silent(self.count + 1)), default=math.inf)
        for user, admitted in list(self.admitted.items()):
            if admitted.connection is None and admitted.order < first:
                del self.admitted[user]
