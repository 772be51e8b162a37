"""Receiving side of credit-based flow control, where vectors are assembled.

At most WINDOW vectors are outstanding (granted and not yet folded), so that memory does not grow with the degree, and
rings and tori never wait for credit. Vectors are folded in peer order, so the last place is not given to a vector
before which another would be folded whose sender is away and may come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from p2pfl.algorithms.blockwise import Scratch
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import COMPRESSED, WIRE_ENCODINGS, Borrowed, Encoding, Payload
from p2pfl.protocol.arrival import Arrival, Form, UnusableError
from p2pfl.protocol.wire import Header, Message, chunk_count

WINDOW = 4
MORE_CHUNKS = 64  # of a vector, beyond those of full size, that may wait: each costs memory besides its numbers


@dataclass(frozen=True)
class Senders:
    """Senders of one round: the expected, and those that may come back for it."""

    expected: Sequence[int] = ()
    away: Collection[int] = ()


class Inbox:
    """Grants and arrivals, keyed by (round, sender)."""

    def __init__(self, size: int, form_of: Callable[[int], Form], last_round: int) -> None:
        """Vectors have `size` elements; `form_of` says what is sent in a round."""
        self._size = size
        self._form_of = form_of
        self._last_round = last_round
        self._outstanding: dict[tuple[int, int], Arrival] = {}
        self._taken: set[tuple[int, int]] = set()
        self._given_up: set[tuple[int, int]] = set()
        self._remembered = 0  # the earliest round that may still be in `_taken`
        self._listed = 0  # the last round whose senders have been put into `_waiting`
        self._waiting: deque[tuple[int, int]] = deque()  # those that get credit next
        self._scratch = Scratch()

    # Credit

    def may_grant(self, round: int) -> bool:
        """Whether a place is free, and senders are not listed yet or wait for one.

        So that these need not be looked up with every message.
        """
        self.forget_before(round - 1)
        is_listed = self._listed >= min(round + 1, self._last_round)
        return len(self._outstanding) < WINDOW and (bool(self._waiting) or not is_listed)

    def grant(self, round: int, current: Senders, following: Senders) -> list[tuple[int, int]]:
        """Grant credit in peer order, to this round's senders and then to the next's."""
        new: list[tuple[int, int]] = []
        self.forget_before(round - 1)
        while len(self._outstanding) < WINDOW:
            if not self._waiting:
                listed = max(self._listed + 1, round)
                if listed > min(round + 1, self._last_round):
                    break
                self._listed = listed
                senders = current if listed == round else following
                self._waiting.extend((listed, sender) for sender in sorted(senders.expected))
                continue
            key = self._waiting[0]
            if not self.has(*key):
                if self.outstanding == WINDOW - 1 and self._is_preceded(key, round, current, following):
                    break
                self.open(*key)
                new.append(key)
            self._waiting.popleft()
        return new

    @staticmethod
    def _is_preceded(key: tuple[int, int], round: int, current: Senders, following: Senders) -> bool:
        """Whether a sender that is away would be folded before this one if it came back."""
        if key[0] > round and current.away:
            return True
        away = following.away if key[0] > round else current.away
        return any(sender < key[1] for sender in away)

    @property
    def outstanding(self) -> int:
        """Number of payloads that have credit and have not been taken."""
        return len(self._outstanding)

    def open(self, round: int, sender: int) -> None:
        """Take what this sender has for a round from now on."""
        self._outstanding[round, sender] = Arrival()

    def reorder(self, sender: int, first: int | None = None) -> None:
        """Revoke a sender's credit before round `first`, or all, but for what is whole."""
        for round, other in list(self._outstanding):
            if other == sender and (first is None or round < first) and not self.is_whole(round, sender):
                del self._outstanding[round, sender]
        if first is not None:
            self._given_up = {(r, s) for r, s in self._given_up if s != sender or r < first}
        self._waiting.clear()
        self._listed = 0

    def skip_to(self, round: int) -> None:
        """Throw away what is here of earlier rounds, and list senders again.

        A payload that was whole is acknowledged again if it comes again.
        """
        self._given_up = {key for key in self._given_up if key[0] < round}
        self._waiting.clear()
        self._listed = 0
        for key in [key for key in self._outstanding if key[0] < round]:
            if self._outstanding.pop(key).complete:
                self._taken.add(key)

    def drop(self, round: int, sender: int) -> None:
        """Give a payload up; what still comes of it is taken and thrown away."""
        self._outstanding.pop((round, sender), None)
        self._given_up.add((round, sender))

    def forget_before(self, round: int) -> None:
        """Forget earlier rounds: late duplicates of these need no answer."""
        if round > self._remembered:
            self._remembered = round
            self._taken = {key for key in self._taken if key[0] >= round}
            self._given_up = {key for key in self._given_up if key[0] >= round}
            for key in [key for key in self._outstanding if key[0] < round]:
                del self._outstanding[key]

    # Questions

    def has(self, round: int, sender: int) -> bool:
        """Whether this sender may send, or has sent, what it has for a round."""
        key = (round, sender)
        return key in self._outstanding or key in self._taken or key in self._given_up

    def is_granted(self, round: int, sender: int) -> bool:
        """Whether this sender has credit for a round, or has delivered what it had."""
        return (round, sender) in self._outstanding or (round, sender) in self._taken

    def is_whole(self, round: int, sender: int) -> bool:
        """Whether a sender's payload of a round is complete here, or has been taken."""
        arrival = self._outstanding.get((round, sender))
        return (round, sender) in self._taken or (arrival is not None and arrival.complete)

    def first_missing(self, round: int, sender: int, sends: Callable[[int], bool]) -> int:
        """First round from `round` on whose payload of a sender is not whole.

        The sender may be a round ahead. `sends`: whether it has a payload in a round.
        """
        while self.is_whole(round, sender) or (self.is_whole(round + 1, sender) and not sends(round)):
            round += 1
        return round

    def last_whole(self, sender: int) -> int:
        """The last round of which a payload is complete here and has not been taken; or 0."""
        return max((r for (r, s), arrival in self._outstanding.items() if s == sender and arrival.complete), default=0)

    def lies_whole(self, round: int, sender: int) -> bool:
        """Whether a sender's payload, untouched, lies in its shared memory."""
        arrival = self._outstanding.get((round, sender))
        return arrival is not None and arrival.lies_whole(self._form_of(round))

    def is_awaited(self, round: int, sender: int) -> bool:
        """Whether a sender has credit for a round, and nothing of its payload has come."""
        arrival = self._outstanding.get((round, sender))
        return arrival is not None and not arrival.bytes

    def is_given_up(self, round: int, sender: int) -> bool:
        """Whether a sender's payload of a round has been given up."""
        return (round, sender) in self._given_up

    def granted_to(self, sender: int) -> list[int]:
        """Rounds for which a sender has credit and has not delivered everything."""
        return [r for (r, s), arrival in self._outstanding.items() if s == sender and not arrival.complete]

    def taken_from(self, sender: int) -> list[int]:
        """Rounds of which a sender has delivered everything, recent ones only."""
        whole = {r for (r, s), arrival in self._outstanding.items() if s == sender and arrival.complete}
        return sorted(whole | {r for r, s in self._taken | self._given_up if s == sender})

    def missing(self, round: int, senders: Collection[int]) -> set[int]:
        """Those of a round's senders whose payload is neither complete nor given up."""
        return {s for s in senders if not self.is_whole(round, s) and not self.is_given_up(round, s)}

    # Vectors

    def add(self, message: Message) -> bool:
        """Take a chunk; True when its payload is to be acknowledged, perhaps again.

        Raises ProtocolError for a chunk without credit, of another size, too small, out of order, or with a number not
        finite, which would spoil every average that it went into.
        """
        header = message.header
        key = (header.round, header.sender)
        if key in self._taken or key in self._given_up:
            return self._is_last(header)
        arrival = self._outstanding.get(key)
        if arrival is None:
            raise ProtocolError(Refusal.ROUND, f"a chunk of round {header.round} without credit")
        if arrival.complete:
            return self._is_last(header)
        wanted, total = self._form_of(header.round).encodings, self._total(header)
        self._check(header, wanted.get(header.vector), arrival.totals.get(header.vector, total), total)
        have = arrival.bytes.get(header.vector, 0)
        if header.offset + header.length <= have:
            return False  # sent again after a broken connection; a payload does not change, so what is here stays
        if header.offset < have:  # chunks of shared memory, of which the first are here
            message = message.after(have)
            header = message.header
        if header.offset > have:
            raise ProtocolError(Refusal.OFFSET, f"{header.offset} is not the next chunk")
        piece = arrival.piece(message, self._form_of(header.round))
        pieces = arrival.pieces.setdefault(header.vector, [])
        if len(pieces) >= chunk_count(total) + MORE_CHUNKS:
            raise ProtocolError(Refusal.LENGTH, f"a vector in more than {len(pieces)} chunks")
        pieces.append(piece)
        arrival.bytes[header.vector] = have + header.length
        arrival.totals[header.vector] = total
        arrival.scalars = dict(header.scalars)
        if (verify := wanted[header.vector].verify) is not None and arrival.bytes[header.vector] == total:
            verify(pieces, self._size)
        arrival.complete = all(arrival.bytes.get(name, 0) == arrival.totals.get(name, -1) for name in wanted)
        return arrival.complete

    def take(self, round: int, sender: int, borrows: bool = False) -> Payload | None:
        """Take a complete payload, once; None as long as it is not.

        Its pieces are the caller's own memory, or `Borrowed` where it `borrows`. Raises UnusableError.
        """
        arrival = self._outstanding.get((round, sender))
        if arrival is None or not arrival.complete:
            return None
        try:
            vectors = arrival.whole(borrows)
        except ProtocolError:
            raise self._unusable(round, sender) from None
        del self._outstanding[round, sender]
        self._taken.add((round, sender))
        return Payload(vectors, arrival.scalars)

    def take_part(self, round: int, sender: int) -> tuple[Payload | None, bool]:
        """Take something of what has come of a payload; whether that is the end.

        To be called until there is nothing; a part of shared memory is valid until the next call. Scalars come with the
        first part. Raises UnusableError.
        """
        arrival = self._outstanding.get((round, sender))
        if arrival is None or not arrival.pieces:
            return None, False
        try:
            vectors = arrival.part(self._scratch)
        except ProtocolError:
            raise self._unusable(round, sender) from None
        part = Payload(vectors, {} if arrival.begun else arrival.scalars)
        return part, self._took_part(round, sender, arrival)

    def next_block(self, round: int, sender: int) -> Payload:
        """Next part of a payload that lies whole in shared memory, unchecked.

        It is not taken: `take_part` or `skip_block` comes next.
        """
        arrival = self._outstanding[round, sender]
        name, block = arrival.next_block()
        return Payload({name: Borrowed([block])}, {} if arrival.begun else arrival.scalars)

    def skip_block(self, round: int, sender: int) -> bool:
        """Count that part as taken; whether it is the end."""
        arrival = self._outstanding[round, sender]
        arrival.skip_block()
        return self._took_part(round, sender, arrival)

    def _took_part(self, round: int, sender: int, arrival: Arrival) -> bool:
        """Note that a part was taken; whether it is the end."""
        arrival.begun = True
        is_end = arrival.complete and not arrival.pieces
        if is_end:
            del self._outstanding[round, sender]
            self._taken.add((round, sender))
        return is_end

    def _unusable(self, round: int, sender: int) -> UnusableError:
        self.drop(round, sender)
        return UnusableError(round, sender)

    def _check(self, header: Header, encoding: Encoding | None, known: int, total: int) -> None:
        """Raise ProtocolError for a chunk of an unknown vector, or of another length.

        `known`, `total`: bytes of the whole vector, as the chunks before said and as this one says.
        """
        if encoding is None:
            raise ProtocolError(Refusal.VECTOR, f"there is no {header.vector!r} here")
        if header.codec != encoding.name:
            raise ProtocolError(Refusal.CODEC, f"{header.codec} instead of {encoding.name}")
        if encoding.lengths is not None and header.total not in encoding.lengths(self._size):
            raise ProtocolError(Refusal.LENGTH, f"a vector of {header.total} bytes")
        if known != total:
            raise ProtocolError(Refusal.LENGTH, "another length than the chunk before")
        if header.offset + header.length > total:
            raise ProtocolError(Refusal.LENGTH, "the vector is longer than the model")

    def _is_last(self, header: Header) -> bool:
        last = list(self._form_of(header.round).encodings)[-1]
        return header.vector == last and header.offset + header.length == self._total(header)

    def _total(self, header: Header) -> int:
        """Bytes of a chunk's whole vector."""
        is_variable = header.codec == COMPRESSED.name
        return header.total if is_variable else self._size * WIRE_ENCODINGS[header.codec].item_bytes
