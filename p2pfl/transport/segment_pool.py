"""Pool of a process's segments: what is copied into them, and who still reads it.

A process that computes its vectors in segments that are lent to it needs no copies: they are sent as they lie there.
"""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from p2pfl.protocol.wire import Buffer, Message
from p2pfl.transport.segments import MAX_SLOTS, Bytes, Owner, Segment, SegmentError

if TYPE_CHECKING:  # commands that do not train import transports without torch
    from torch import Tensor

# Segments beside two for each vector of a round. A neighbor holds this round's and the next round's at most, since it
# grants no credit further ahead; a release may be on its way meanwhile.
SPARE = 2
# Of a reference's number. A neighbor may release what an earlier process with this one's place has sent, or a stranger
# what it makes up: they start somewhere, so that such numbers mean nothing here.
_NUMBER_BITS = 61
_SHOWN = MAX_SLOTS - 1


@dataclass(eq=False)
class _Held:
    """A segment, and the references to it that have not been released."""

    segment: Segment
    slot: int
    references: set[int] = field(default_factory=set)
    lent: weakref.ref[Bytes] | None = None  # its memory, while the process itself computes there
    is_lost: bool = False  # a neighbor may read it whose release never comes: it is not written again

    @property
    def is_lent(self) -> bool:
        """Whether it was lent, and not given back."""
        return self.lent is not None

    @property
    def is_dropped(self) -> bool:
        """Whether it was lent for a vector that is gone."""
        return self.lent is not None and self.lent() is None


@dataclass(eq=False)
class _Vector:
    """A vector of the round that is being sent, as far as it was copied.

    `source` keeps its memory from being another vector's.
    """

    held: _Held
    source: Buffer
    copied: set[int] = field(default_factory=set)  # offsets of chunks


_Key = tuple[int, str, int]  # round, name, address


class SegmentPool:
    """Segments of one process, each with one vector at a time.

    A vector is copied once, however many neighbors it goes to: it is known by its address as long as its owner may not
    change it (`forget`).
    """

    def __init__(self, owner: Owner, size: int) -> None:
        """Make segments of `size` bytes. Raises SegmentError where none can be made."""
        self.shown = Segment(owner, _SHOWN, 1)
        """A segment that shows others whether they can open any; it has no vectors, and stays until the end."""
        self._owner = owner
        self._size = size
        self._free: list[_Held] = []
        self._used: dict[int, _Held] = {}  # by slot; those that are not free
        self._lent: dict[int, _Held] = {}  # by address
        self._vectors: dict[_Key, _Vector] = {}
        self._references: dict[int, tuple[int, _Held]] = {}  # neighbor and segment
        self._count = secrets.randbits(_NUMBER_BITS)
        self._width = 1  # the most vectors that were sent between two changes of any

    @property
    def owner(self) -> Owner:
        """The process."""
        return self._owner

    @property
    def size(self) -> int:
        """Number of segments with vectors, or for them."""
        return len(self._free) + len(self._used)

    def place(self, message: Message) -> Segment | None:
        """Segment that has a chunk at the chunk's offset; None where there is no room."""
        header, body = message.header, message.body
        key = header.round, header.vector, _address(body) - header.offset
        vector = self._vectors.get(key)
        if vector is None:
            if any(round != header.round for round, _, _ in self._vectors):
                self.forget()
            held = self._lent.get(key[2]) if message.is_stable else None
            held = held or self._take(len(self._vectors) + 1)
            if held is None:
                return None
            vector = self._vectors[key] = _Vector(held, body)
        segment = vector.held.segment
        if header.offset + header.length > segment.size:
            return None
        if not vector.held.is_lent and header.offset not in vector.copied:
            try:
                segment.write(header.offset, body)
            except SegmentError:
                return None
            vector.copied.add(header.offset)
        return segment

    def lend(self, vector: Tensor, is_wanted: bool = True) -> Tensor:
        """Return a vector like this one that nobody reads, or itself.

        It is in a segment if that is wanted and there is one, and then has other numbers; a segment that this one was
        in is given back, and so is that of a vector that the process has dropped.
        """
        import torch

        held = self._lent.get(vector.data_ptr())
        if held is not None:
            if not (held.references or held.is_lost or self._is_sent(held)):
                return vector
            self._give_back(vector.data_ptr())
        fresh = self._take(self._width) if is_wanted else None
        if fresh is not None:
            try:
                address, memory = fresh.segment.reserve(vector.nbytes)
            except SegmentError:
                self._settle(fresh)
            else:
                fresh.lent = weakref.ref(memory)
                self._lent[address] = fresh
                return torch.from_numpy(memory).view(vector.dtype)
        return vector if held is None else torch.empty_like(vector)

    def refer(self, neighbor: int, segment: Segment) -> int:
        """Number of a new reference of a neighbor to a segment."""
        self._count += 1
        held = self._used[segment.announcement.slot]
        held.references.add(self._count)
        self._references[self._count] = neighbor, held
        return self._count

    def release(self, neighbor: int, numbers: Collection[int]) -> None:
        """Note that a neighbor no longer reads the memory of these references.

        Those of others are ignored.
        """
        for number in numbers:
            if self.has(neighbor, number):
                _, held = self._references.pop(number)
                held.references.discard(number)
                self._settle(held)

    def has(self, neighbor: int, number: int) -> bool:
        """Whether a neighbor has this reference, and has not released it."""
        return self._references.get(number, (None,))[0] == neighbor

    def lose(self, neighbor: int) -> None:
        """Give up the segments that a neighbor refers to, whose releases may never come."""
        numbers = [number for number, (other, _) in self._references.items() if other == neighbor]
        for number in numbers:
            _, held = self._references.pop(number)
            held.references.discard(number)
            held.is_lost = True
            self._vectors = {key: one for key, one in self._vectors.items() if one.held is not held}
            self._settle(held)

    def forget(self) -> None:
        """Forget which vectors are copied: their owner may change them."""
        vectors, self._vectors = self._vectors, {}
        for vector in vectors.values():
            self._settle(vector.held)

    def close(self) -> None:
        """Close all segments."""
        self.shown.close()
        for held in [*self._free, *self._used.values()]:
            held.segment.close()
        self._free.clear()
        self._used.clear()
        self._vectors.clear()
        self._references.clear()
        self._lent.clear()

    def _take(self, width: int) -> _Held | None:
        self._width = max(self._width, width)
        for address in [address for address, held in self._lent.items() if held.is_dropped]:
            self._give_back(address)
        if not self._free and self.size < min(2 * self._width + SPARE + len(self._lent), _SHOWN):
            try:
                self._free.append(self._new(min(set(range(_SHOWN)) - self._used.keys())))
            except SegmentError:  # out of memory or of file numbers
                return None
        if not self._free:
            return None
        held = self._free.pop()
        self._used[held.slot] = held
        return held

    def _give_back(self, address: int) -> None:
        held = self._lent.pop(address)
        held.lent = None
        self._settle(held)

    def _new(self, slot: int) -> _Held:
        return _Held(Segment(self._owner, slot, self._size), slot)

    def _settle(self, held: _Held) -> None:
        """Free a segment that is neither read nor sent from.

        It is closed where a neighbor was lost.
        """
        if held.references or held.is_lent or self._is_sent(held):
            return
        if self._used.pop(held.slot, None) is None:
            return
        if held.is_lost:
            held.segment.close()
        else:
            self._free.append(held)

    def _is_sent(self, held: _Held) -> bool:
        return any(vector.held is held for vector in self._vectors.values())


def _address(body: Buffer) -> int:
    address: int = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    return address
