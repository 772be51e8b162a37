"""One round's average as it grows: whose vector is next, and how much of it is in.

Vectors are accumulated in peer order, the peer's own at its place. Of a neighbor that is not expected, or lost while
its vector comes in, the algorithm is told (`Algorithm.missing`) how much is in; it decides on the substitute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from p2pfl.algorithms import Algorithm
from p2pfl.payload import Payload
from p2pfl.protocol.inbox import Inbox


class RoundAggregation:
    """The vectors of one round. `senders` are the in-neighbors by its mixing matrix; `expects` is asked anew."""

    def __init__(
        self,
        algorithm: Algorithm[Any],
        state: Any,
        inbox: Inbox,
        round: int,
        me: int,
        senders: Sequence[int],
        expects: Callable[[int], bool],
    ) -> None:
        self.replaced: list[int] = []  # senders whose vector was missing, at least in part
        self._algorithm = algorithm
        self._state = state
        self._inbox = inbox
        self._round = round
        self._me = me
        self._order = sorted([*senders, me])
        self._expects = expects
        self._folded = 0
        self._done: set[int] = set()
        self._filled: Counter[str] = Counter()  # elements of the next sender's vectors that are in

    @property
    def complete(self) -> bool:
        """Whether all are in."""
        return self._folded == len(self._order)

    @property
    def passed(self) -> Collection[int]:
        """Senders whose vectors, or what replaces them, are in."""
        return self._done

    @property
    def following(self) -> int | None:
        """Whose vector is next."""
        return None if self.complete else self._order[self._folded]

    def has(self, sender: int) -> bool:
        """Whether nothing is needed of a sender any more."""
        return sender in self._done or self._inbox.is_whole(self._round, sender)

    def missing(self) -> set[int]:
        """Senders that are waited for."""
        return {
            sender for sender in self._order if sender != self._me and self._expects(sender) and not self.has(sender)
        }

    def fold(self) -> int:
        """Add everything that can be added, without the missing. Returns how many became whole."""
        before = self._folded
        while (sender := self.following) is not None:
            if not self._add(sender):
                break
            self._folded += 1
            self._done.add(sender)
            self._filled.clear()
        return self._folded - before

    def _add(self, sender: int) -> bool:
        """Add what there is of a sender; whether that was all of it."""
        if sender == self._me:
            self._algorithm.accumulate(self._state, sender, self._algorithm.own(self._state))
            return True
        if not self._expects(sender) and not self._inbox.is_whole(self._round, sender):
            self.replaced.append(sender)
            self._algorithm.missing(self._state, sender, self._filled)
            return True
        payload, whole = self._next_of(sender)
        if payload is not None:
            for name, pieces in payload.vectors.items():
                self._filled[name] += sum(piece.numel() for piece in pieces)
            self._algorithm.accumulate(self._state, sender, payload)
        return whole

    def _next_of(self, sender: int) -> tuple[Payload | None, bool]:
        if self._algorithm.streaming:
            return self._inbox.take_part(self._round, sender)
        payload = self._inbox.take(self._round, sender)
        return payload, payload is not None
