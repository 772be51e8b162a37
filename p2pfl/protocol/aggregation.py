"""Aggregation of one round: vectors of the in-neighbors and of the peer itself.

Vectors are accumulated in peer order, the peer's own at its place. Of a neighbor that is not expected, or lost while
its vector comes in, the algorithm is told (`Algorithm.missing`) how much is in; it decides on the substitute.

Vectors that lie in neighbors' shared memory wait there for the next in order, and are then accumulated together, block
by block, so that the average goes through memory once for all of them and not once for each. Each of its elements is
still summed in peer order, with the same bits.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from p2pfl.algorithms.base import Algorithm
from p2pfl.payload import Payload
from p2pfl.protocol.arrival import UnusableError, first_block
from p2pfl.protocol.inbox import Inbox


class RoundAggregation:
    """Vectors of one round, from the in-neighbors and from the peer itself."""

    def __init__(
        self, algorithm: Algorithm[Any], state: Any, inbox: Inbox, round: int, me: int, senders: Sequence[int]
    ) -> None:
        self.replaced: list[int] = []  # senders whose vector was missing, at least in part
        self.expected: Collection[int] = ()
        """Senders whose vector is waited for; kept up to date by the exchange."""
        self._algorithm = algorithm
        self._state = state
        self._inbox = inbox
        self._round = round
        self._me = me
        self._order = sorted([*senders, me])
        self._folded = 0
        self._awaited: int | None = None  # the sender for whose vector those in memory wait
        self._done: set[int] = set()
        self._added: set[int] = set()  # those ahead of their turn, together with others
        self._unusable: list[int] = []
        self._filled: defaultdict[int, Counter[str]] = defaultdict(Counter)  # elements of vectors that are in

    @property
    def is_complete(self) -> bool:
        """Whether all are in."""
        return self._folded == len(self._order)

    @property
    def passed(self) -> Collection[int]:
        """Senders whose vectors, or what replaces them, are in."""
        return self._done

    @property
    def following(self) -> int | None:
        """The sender whose vector is next."""
        return None if self.is_complete else self._order[self._folded]

    def has(self, sender: int) -> bool:
        """Whether nothing more is needed of a sender."""
        return sender in self._done or self._inbox.is_whole(self._round, sender)

    def waits_for(self) -> set[int]:
        """Senders whose vector is expected and not whole."""
        return {n for n in self._order if n != self._me and n in self.expected and not self.has(n)}

    def takes_part_of(self, sender: int, round: int) -> bool:
        """Whether a part of this sender's vector can be folded now."""
        return round == self._round and self._algorithm.streaming and sender in (self.following, self._awaited)

    def fold(self) -> int:
        """Add what can be added, in order. Returns how many vectors are in since."""
        before = self._folded
        while (sender := self.following) is not None:
            group = self._group()
            self._awaited = self._awaited_by(group)
            if self._awaited is not None:
                break
            if len(group) > 1:
                self._add_together(group)
            try:
                if sender not in self._added and not self._add(sender):
                    break
            except UnusableError:  # what was added of it stays; for the rest, the algorithm decides
                self._give_up(sender)
                continue
            self._folded += 1
            self._done.add(sender)
        return self._folded - before

    def take_unusable(self) -> list[int]:
        """Senders since the last call whose vector turned out to be of no use."""
        found, self._unusable = self._unusable, []
        return found

    def _give_up(self, sender: int) -> None:
        self._unusable.append(sender)
        self.expected = {n for n in self.expected if n != sender}

    def _add(self, sender: int) -> bool:
        """Add what there is of a sender; whether that was all of it."""
        if sender == self._me:
            self._algorithm.accumulate(self._state, sender, self._own_rest())
            return True
        if sender not in self.expected and not self._inbox.is_whole(self._round, sender):
            self.replaced.append(sender)
            self._algorithm.missing(self._state, sender, self._filled[sender])
            return True
        while True:
            payload, is_end = self._next_of(sender)
            if payload is None:
                return False
            self._accumulate(sender, payload)
            if is_end:
                return True

    def _accumulate(self, sender: int, part: Payload) -> None:
        self._count(sender, part)
        self._algorithm.accumulate(self._state, sender, part)

    def _count(self, sender: int, part: Payload) -> None:
        for name, pieces in part.vectors.items():
            self._filled[sender][name] += sum(piece.numel() for piece in pieces)

    def _next_of(self, sender: int) -> tuple[Payload | None, bool]:
        """Next part of a sender's vector, or all; whether that is its end."""
        if self._algorithm.streaming:
            return self._inbox.take_part(self._round, sender)
        payload = self._inbox.take(self._round, sender, self._algorithm.reads_borrowed)
        return payload, payload is not None

    def _own_rest(self) -> Payload:
        """The peer's own contribution without what of it is in."""
        own = self._algorithm.own(self._state)
        if self._me not in self._filled:
            return own
        return replace(own.rest(self._filled[self._me]), scalars={})  # they came with the first part

    # Together

    def _group(self) -> list[int]:
        """The next in order whose vectors lie in memory, and this peer."""
        if not self._algorithm.streaming or self.following in self._added:
            return []
        following = itertools.islice(self._order, self._folded, None)
        return list(itertools.takewhile(self._is_at_hand, following))

    def _is_at_hand(self, sender: int) -> bool:
        return sender == self._me or self._inbox.lies_whole(self._round, sender)

    def _awaited_by(self, group: list[int]) -> int | None:
        """The sender next to a group for whose vector it waits, which is on its way."""
        after = self._folded + len(group)
        if set(group) <= {self._me} or after == len(self._order):
            return None
        sender = self._order[after]
        is_on_its_way = sender in self.expected and self._inbox.is_awaited(self._round, sender)
        return sender if is_on_its_way else None

    def _add_together(self, group: list[int]) -> None:
        """Add the vectors of a group, block by block; all are cut alike.

        From one that turns out to be unusable on, the rest of the group waits for its turn.
        """
        while group:
            if not self._add_as_they_lie(group):
                group = self._add_copies(group)
            group = [sender for sender in group if sender not in self._added]

    def _add_as_they_lie(self, group: Sequence[int]) -> bool:
        """Add the next blocks of a group without a copy of each, if the result is finite."""
        parts = {sender: self._next_own() if sender == self._me else self._next_block(sender) for sender in group}
        if not self._algorithm.add_borrowed(self._state, parts):
            return False
        for sender, part in parts.items():
            self._count(sender, part)
            if self._own_is_in() if sender == self._me else self._inbox.skip_block(self._round, sender):
                self._added.add(sender)
        return True

    def _add_copies(self, group: list[int]) -> list[int]:
        """Add the next blocks of a group, each copied and checked.

        Returns the group before the first that turns out to be unusable.
        """
        for place, sender in enumerate(group):
            try:
                part, is_end = (self._next_own(), False) if sender == self._me else self._next_of(sender)
            except UnusableError:
                self._give_up(sender)
                return group[:place]
            assert part is not None
            self._accumulate(sender, part)
            if is_end or (sender == self._me and self._own_is_in()):
                self._added.add(sender)
        return group

    def _next_block(self, sender: int) -> Payload:
        return self._inbox.next_block(self._round, sender)

    def _next_own(self) -> Payload:
        return first_block(self._own_rest(), self._algorithm)

    def _own_is_in(self) -> bool:
        return not any(pieces[0].numel() for pieces in self._own_rest().vectors.values())
