"""Shared memory for neighbors on the same machine, around a transport of messages.

A vector is copied once into a segment (`segments`), unless it was computed in one that was lent for it, and each
neighbor that has mapped it gets a reference to the whole in one message, in the place of its chunks. At the neighbor,
this transport hands the protocol one long chunk, whose body is a view of the mapping; the last view that is gone
releases the reference. All other messages, and the vectors for other neighbors, go through the transport inside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import VectorMemory
from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Received, Reconnected, Refused, TransportEvent
from p2pfl.protocol.wire import CHUNK_BYTES, VERSION, Header, Kind, Message
from p2pfl.transport.interface import Transport
from p2pfl.transport.references import Answer, Pending, Reference, Releases, decode, encode, size_of_chunks
from p2pfl.transport.segment_pool import SegmentPool
from p2pfl.transport.segments import Announcement, Mappings, Owner, SegmentError

if TYPE_CHECKING:
    from torch import Tensor

LEAST_BYTES = 1 << 15  # of a vector that is shared: a reference costs as much as a message of this size
USED = "vectors go through shared memory to neighbors on this machine"

Say = Callable[[str], None]


class SharedMemoryTransport:
    """Transport that shares vectors with neighbors on this machine, around another."""

    def __init__(
        self,
        transport: Transport,
        run: str,
        me: int,
        say: Say = print,
        *,
        memory: VectorMemory | None = None,
        least: int = LEAST_BYTES,
        share: bool = True,
    ) -> None:
        """Wrap an open transport of process `me` in a run.

        `memory`: of the vectors that it will send, which gets segments where there are neighbors to read them.

        `say` gets a line where there is shared memory, and one for each reason why there is none with some neighbor.
        `least`: bytes of the smallest vector that is shared. `share`: False declines neighbors' offers and makes none.
        """
        self.endpoint = transport.endpoint
        self._transport = transport
        self._run, self._me = run, me
        self._say, self._said = say, set[str]()
        self._least, self._shares = least, share
        if memory is not None:
            memory.lend = self._lend
        self._segment_bytes = 0
        self._pool: SegmentPool | None = None
        self._neighbors: frozenset[int] = frozenset()
        self._offered: set[int] = set()
        self._accepted: set[int] = set()
        self._pending: dict[int, Pending] = {}
        self._mappings: defaultdict[int, Mappings] = defaultdict(Mappings)
        self._releases = Releases()

    def connect(self, endpoints: Mapping[int, str], vector_bytes: int) -> None:
        self._neighbors = frozenset(endpoints)
        self._segment_bytes = vector_bytes + CHUNK_BYTES  # a compressed vector may be a little longer
        self._transport.connect(endpoints, vector_bytes)

    def redirect(self, endpoints: Mapping[int, str]) -> None:
        self._transport.redirect(endpoints)

    def send(self, neighbor: int, message: Message) -> int:
        self._send_releases(neighbor)
        if neighbor in self._accepted and self._is_shareable(message) and self._share(neighbor, message):
            return len(wire.encode(message)[0]) + message.size
        self._send_pending(neighbor)
        if message.header.kind == "hello":
            self._offer(neighbor)
        return self._transport.send(neighbor, message)

    def discard(self, neighbor: int) -> None:
        self._pending.pop(neighbor, None)
        self._lose(neighbor)
        self._mappings.pop(neighbor, None)
        self._transport.discard(neighbor)

    def flushed(self) -> bool:
        self._send_all_pending()
        if not self._transport.flushed():
            return False
        if self._pool is not None:
            self._pool.forget()  # bodies may change from now on
        return True

    def poll(self, seconds: float) -> list[TransportEvent]:
        self._send_all_pending()
        if (left := self._releases.hold_left()) is not None:
            seconds = min(seconds, left)
            if left <= 0.0:
                self._send_releases()
        events: list[TransportEvent] = []
        for event in self._transport.poll(seconds):
            if isinstance(event, Received) and event.message.header.kind in wire.SHARED_MEMORY_KINDS:
                events += self._take(event.message)
                continue
            if isinstance(event, Lost | Reconnected):
                self._lose(event.neighbor)
            if isinstance(event, Lost):  # its memory would stay as long as it is mapped; what is in use stays
                self._mappings.pop(event.neighbor, None)
            if isinstance(event, Reconnected):
                self._releases.repeat(event.neighbor)
                if event.neighbor in self._offered:
                    self._offer(event.neighbor)
            events.append(event)
        return events

    def wake(self) -> None:
        self._transport.wake()

    def close(self) -> None:
        self._send_all_pending()
        self._transport.close()
        if self._pool is not None:
            self._pool.close()
        self._mappings.clear()

    @property
    def segments(self) -> int:
        """Number of segments that this process has."""
        return 0 if self._pool is None else self._pool.size

    # Vectors out

    def _is_shareable(self, message: Message) -> bool:
        """Whether a message is a chunk of a vector that is worth it.

        A fault script may have cut it.
        """
        header = message.header
        if header.kind != "chunk" or header.version != VERSION or len(message.body) != header.length:
            return False
        return header.offset > 0 or header.length >= min(self._least, CHUNK_BYTES)

    def _share(self, neighbor: int, message: Message) -> bool:
        """Copy a chunk into a segment, unless it is there; False where none has room."""
        assert self._pool is not None
        header, pending = message.header, self._pending.get(neighbor)
        segment = self._pool.place(message)
        if segment is None:
            return False
        if pending is None or not pending.is_continued_by(header, segment):
            self._send_pending(neighbor)
            number = self._pool.refer(neighbor, segment)
            pending = self._pending[neighbor] = Pending(header, segment, number, header.offset)
        pending.end = header.offset + header.length
        if message.ends:
            self._send_pending(neighbor)
        return True

    def _lend(self, vector: Tensor) -> Tensor:
        """As of `VectorMemory.lend`: in a segment, if some neighbor maps it."""
        is_plain = vector.device.type == "cpu" and not vector.is_pinned()
        if self._pool is None or not is_plain or not self._least <= vector.nbytes <= self._segment_bytes:
            return vector
        return self._pool.lend(vector, is_wanted=bool(self._accepted))

    def _send_pending(self, neighbor: int) -> None:
        pending = self._pending.pop(neighbor, None)
        if pending is None:
            return
        length = pending.end - pending.header.offset
        body = encode(Reference(pending.number, pending.segment.announcement, length))
        header = msgspec.structs.replace(pending.header, kind="reference", length=len(body))
        self._transport.send(neighbor, Message(header, body))

    def _send_all_pending(self) -> None:
        for neighbor in list(self._pending):
            self._send_pending(neighbor)

    def _offer(self, neighbor: int) -> None:
        """Show a neighbor a segment.

        Until it says that it has mapped it, vectors go as messages.
        """
        if not self._shares:
            return
        self._offered.add(neighbor)
        try:
            if self._pool is None:
                self._pool = SegmentPool(Owner(), self._segment_bytes)
            self._tell(neighbor, "segment", encode(self._pool.shown.announcement))
        except SegmentError as error:
            self._shares = False
            self._explain(str(error))

    def _lose(self, neighbor: int) -> None:
        self._accepted.discard(neighbor)
        if self._pool is not None:
            self._pool.lose(neighbor)

    # Vectors in

    def _take(self, message: Message) -> list[TransportEvent]:
        """Take a message between transports; returns the chunks that it stands for."""
        header = message.header
        try:
            if header.run != self._run or header.sender not in self._neighbors:
                raise ProtocolError(Refusal.SENDER, f"a {header.kind} of no neighbor")
            if header.kind == "segment":
                self._answer(header.sender, decode(Announcement, message.body))
            elif header.kind == "mapped":
                self._take_answer(header.sender, decode(Answer, message.body))
            elif header.kind == "release" and self._pool is not None:
                self._pool.release(header.sender, decode(list[int], message.body))
            elif header.kind == "reference":
                return self._chunks(header, decode(Reference, message.body))
        except msgspec.MsgspecError:
            return [Refused(Refusal.HEADER, f"a {header.kind} that cannot be decoded")]
        except ProtocolError as error:
            return [Refused(error.code, error.detail)]
        return []

    def _answer(self, neighbor: int, announced: Announcement) -> None:
        """Say whether an offer can be used here."""
        try:
            if not self._shares:
                raise SegmentError("")
            self._mappings[neighbor].find(announced, self._most)
        except SegmentError as error:
            self._decline(neighbor, Answer(announced.token, is_mapped=False), str(error))
            return
        self._tell(neighbor, "mapped", encode(Answer(announced.token, is_mapped=True)))

    def _decline(self, neighbor: int, answer: Answer, reason: str) -> None:
        if reason:
            self._explain(reason)
        self._tell(neighbor, "mapped", encode(answer))

    def _take_answer(self, neighbor: int, answer: Answer) -> None:
        """Share with a neighbor that can map segments, and not with one that cannot.

        It may answer what was sent before its link was lost, or before this process was restarted.
        """
        if self._pool is None or neighbor not in self._offered or answer.token != self._pool.owner.token:
            return
        if answer.is_mapped:
            self._accepted.add(neighbor)
            self._say_once(USED)
        elif answer.number is None or self._pool.has(neighbor, answer.number):
            self._accepted.discard(neighbor)
            self._pool.release(neighbor, [] if answer.number is None else [answer.number])

    @property
    def _most(self) -> int:
        """Size of the largest segment that a neighbor of this run has."""
        return self._segment_bytes + CHUNK_BYTES

    def _chunks(self, header: Header, reference: Reference) -> list[TransportEvent]:
        """Chunks that lie in a neighbor's segment. Raises ProtocolError."""
        sender, length = header.sender, reference.length
        if not 0 < length <= reference.segment.size - header.offset:
            raise ProtocolError(Refusal.LENGTH, f"a reference to {length} bytes at {header.offset}")
        try:
            if not self._shares:
                raise SegmentError("a reference that was not asked for")
            memory = self._mappings[sender].find(reference.segment, self._most).view(header.offset, length)
        except SegmentError as error:
            self._decline(sender, Answer(reference.segment.token, is_mapped=False, number=reference.number), str(error))
            return []  # missed like a lost message, and asked for again
        self._releases.watch(memory, sender, reference.number)
        whole = msgspec.structs.replace(header, kind="chunk", length=length)
        wire.check_numbers(whole)
        return [Received(Message(whole, memory.data, is_shared=True), size_of_chunks(whole))]

    def _send_releases(self, only: int | None = None) -> None:
        """Tell neighbors, or one, which references are not read any longer."""
        for neighbor, numbers in self._releases.take(only).items():
            self._tell(neighbor, "release", encode(numbers))

    def _tell(self, neighbor: int, kind: Kind, body: bytes) -> None:
        header = Header(VERSION, self._run, kind, self._me, 0, length=len(body))
        self._transport.send(neighbor, Message(header, body))

    def _explain(self, reason: str) -> None:
        """Say once why vectors go through sockets."""
        self._say_once(f"vectors of some neighbors go through sockets: {reason}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)
