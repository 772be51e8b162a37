"""References to shared memory: bodies of their messages, and their release."""

from __future__ import annotations

import time
import weakref
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from p2pfl.protocol.wire import CHUNK_BYTES, MAX_VECTOR_BYTES, Buffer, Header
from p2pfl.transport.segments import Announcement, Bytes, Segment

HOLD_SECONDS = 0.1  # until releases are sent that no other message has taken along
MAX_RELEASES = 2048  # in one message
MAX_REPEATED = 256  # releases of a neighbor's memory that are told again after its link broke

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """Body of a `reference`: which bytes of a segment are chunks of a vector.

    They are those from the header's offset on, at the same offset.
    """

    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
    """Number of the reference, by which it is released."""
    segment: Announcement
    """The segment, which may be new."""
    length: Annotated[int, msgspec.Meta(ge=0, le=MAX_VECTOR_BYTES)]
    """Bytes of all chunks together."""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """Body of a `mapped`: whether an announced segment is mapped."""

    token: Annotated[str, msgspec.Meta(max_length=64)]
    """Token of the process that announced it, which may have been restarted since."""
    is_mapped: bool
    """Whether it is."""
    number: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] | None = None
    """Number of the reference that announced it; None: it was an offer."""


def decode(kind: type[T], body: Buffer) -> T:
    """Body of a message between transports. Raises msgspec.MsgspecError."""
    decoder: msgspec.msgpack.Decoder[T] = _DECODERS[kind]
    return decoder.decode(body)


_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (Announcement, Answer, Reference, list[int])
}


@dataclass
class Pending:
    """Consecutive chunks for one neighbor, which one reference will name."""

    header: Header
    segment: Segment
    number: int
    end: int

    def is_continued_by(self, header: Header, segment: Segment) -> bool:
        """Whether a chunk follows in the same vector."""
        first = self.header
        same = segment is self.segment and header.offset == self.end and header.vector == first.vector
        return same and header.round == first.round and header.scalars == first.scalars and header.codec == first.codec


def size_of_chunks(header: Header) -> int:
    """Bytes of all chunks that a long one stands for, as they would be on the wire."""
    size = header.length
    for start in range(0, header.length, CHUNK_BYTES):
        length = min(CHUNK_BYTES, header.length - start)
        size += len(encode(msgspec.structs.replace(header, offset=header.offset + start, length=length)))
    return size


class Releases:
    """References whose memory is not read any longer, until their owners are told."""

    def __init__(self) -> None:
        self._gone: deque[tuple[int, int]] = deque()  # neighbor and reference; any thread may add to it
        self._told: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=MAX_REPEATED))
        self._since = 0.0

    def watch(self, memory: Bytes, neighbor: int, number: int) -> None:
        """Release a reference when the last view of its memory is gone."""
        weakref.finalize(memory, self._gone.append, (neighbor, number)).atexit = False

    def hold_left(self) -> float | None:
        """Seconds until releases are to be sent; None if there are none.

        Until then another message may take them along.
        """
        if not self._gone:
            return None
        now = time.monotonic()
        self._since = self._since or now
        return self._since + HOLD_SECONDS - now

    def repeat(self, neighbor: int) -> None:
        """Release once more what the link to a neighbor may have lost when it broke."""
        self._gone.extend((neighbor, number) for number in self._told.pop(neighbor, ()))

    def take(self, only: int | None) -> dict[int, list[int]]:
        """Take the released references, or those of one neighbor, by neighbor."""
        numbers: defaultdict[int, list[int]] = defaultdict(list)
        for _ in range(len(self._gone)):
            neighbor, number = self._gone.popleft()
            if only not in (None, neighbor) or len(numbers[neighbor]) >= MAX_RELEASES:
                self._gone.append((neighbor, number))
            else:
                numbers[neighbor].append(number)
        if not self._gone:
            self._since = 0.0
        for neighbor, those in numbers.items():
            self._told[neighbor].extend(those)
        return {neighbor: those for neighbor, those in numbers.items() if those}
