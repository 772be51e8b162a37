"""Shared memory around a transport: offers, references, releases, messages."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from p2pfl.payload import VectorMemory
from p2pfl.protocol import wire
from p2pfl.protocol.events import Lost, Received, Reconnected, Refused, TransportEvent
from p2pfl.protocol.wire import CHUNK_BYTES, VERSION, Header, Message
from p2pfl.transport import (
    Conditioner,
    MemoryHub,
    MemoryTransport,
    SharedMemoryTransport,
    Transport,
    constant_delay,
    references,
    segments,
)
from p2pfl.transport.conditioner import Delivery, corrupted
from p2pfl.transport.references import Reference
from p2pfl.transport.segments import MAX_SLOTS, Owner, Segment
from p2pfl.transport.shared_memory import LEAST_BYTES

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd")

SIZE = 2 * CHUNK_BYTES + 64
encode = msgspec.msgpack.encode


@dataclass
class Watched:
    """Transport in memory that counts what is sent, and reports what a test says.

    While `kept` is a list, messages go there.
    """

    inner: MemoryTransport
    kinds: list[str] = field(default_factory=list)
    events: list[TransportEvent] = field(default_factory=list)
    kept: list[Message] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def send(self, neighbor: int, message: Message) -> int:
        self.kinds.append(message.header.kind)
        if self.kept is not None:
            self.kept.append(message)
            return 0
        return self.inner.send(neighbor, message)

    def poll(self, seconds: float) -> list[TransportEvent]:
        events, self.events = self.events, []
        return [*events, *self.inner.poll(0.0)]


@dataclass
class Swarm:
    """Processes of one machine, each with a link to all others."""

    sockets: list[Watched]
    ends: list[SharedMemoryTransport]
    said: list[list[str]]

    def poll(self, turns: int = 3) -> list[list[TransportEvent]]:
        found: list[list[TransportEvent]] = [[] for _ in self.ends]
        for _ in range(turns):
            for events, end in zip(found, self.ends, strict=True):
                events += end.poll(0.0)
        return found

    def greet(self) -> None:
        for me, end in enumerate(self.ends):
            for other in range(len(self.ends)):
                if other != me:
                    end.send(other, Message(Header(VERSION, "run", "hello", me, 1)))
        self.poll()
        for socket in self.sockets:
            socket.kinds.clear()


Make = Callable[..., Swarm]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Swarm] = []

    def build(size: int = 2, shares: Sequence[bool] = (True,) * 3) -> Swarm:
        hub = MemoryHub()
        sockets = [Watched(MemoryTransport(hub, str(me))) for me in range(size)]
        said: list[list[str]] = [[] for _ in range(size)]
        ends = [
            SharedMemoryTransport(socket, "run", me, said[me].append, share=shares[me])  # type: ignore[arg-type]
            for me, socket in enumerate(sockets)
        ]
        for me, end in enumerate(ends):
            end.connect({other: str(other) for other in range(size) if other != me}, SIZE)
        made.append(Swarm(sockets, ends, said))
        return made[-1]

    yield build
    for swarm in made:
        for end in swarm.ends:
            end.close()


@pytest.fixture
def pair(make: Make) -> Swarm:
    swarm = make()
    swarm.greet()
    return swarm


def vector(seed: int = 0, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def messages(data: np.ndarray, round: int = 1, codec: str = "fp32") -> list[Message]:
    return list(wire.chunks(Header(VERSION, "run", "chunk", 0, round, codec=codec), {"x": data.data}))


def send(end: Transport, data: np.ndarray, to: int = 1, round: int = 1) -> int:
    return sum(end.send(to, message) for message in messages(data, round))


def bodies(events: Sequence[TransportEvent]) -> bytes:
    received = [event.message for event in events if isinstance(event, Received)]
    return b"".join(message.body for message in received if message.header.kind == "chunk")


def are_shared(events: Sequence[TransportEvent]) -> list[bool]:
    return [event.message.is_shared for event in events if isinstance(event, Received)]


# Vectors


@pytest.mark.parametrize("size", [LEAST_BYTES, CHUNK_BYTES, CHUNK_BYTES + 4, SIZE])
def test_a_vector_goes_as_one_reference_and_comes_whole(pair: Swarm, size: int) -> None:
    data = vector(size=size)
    sent = send(pair.ends[0], data)
    _, events = pair.poll()
    assert pair.sockets[0].kinds == ["reference"]
    assert bodies(events) == data.tobytes()
    assert are_shared(events) == [True]
    (event,) = events
    assert isinstance(event, Received)
    assert event.size == sent == sum(len(wire.encode(m)[0]) + m.size for m in messages(data))
    assert event.message.header == msgspec.structs.replace(messages(data)[0].header, length=size)


def test_small_vectors_and_other_messages_go_as_messages(pair: Swarm) -> None:
    send(pair.ends[0], vector(size=LEAST_BYTES - 4))
    pair.ends[0].send(1, Message(Header(VERSION, "run", "ack", 0, 1)))
    _, events = pair.poll()
    assert pair.sockets[0].kinds == ["chunk", "ack"]
    assert are_shared(events) == [False, False]


def test_order_is_kept(pair: Swarm) -> None:
    first, *rest = messages(vector())
    ack = Message(Header(VERSION, "run", "ack", 0, 1))
    for message in (first, ack, *rest):
        pair.ends[0].send(1, message)
    _, events = pair.poll()
    assert pair.sockets[0].kinds == ["reference", "ack", "reference"]
    assert bodies(events) == vector().tobytes()


def test_what_was_begun_goes_out_before_a_wait_and_before_a_flush(pair: Swarm) -> None:
    first, second, third = messages(vector())
    pair.ends[0].send(1, first)
    pair.ends[0].poll(0.0)
    assert pair.sockets[0].kinds == ["reference"]
    pair.ends[0].send(1, second)
    assert pair.ends[0].flushed()
    assert pair.sockets[0].kinds == ["reference"] * 2
    pair.ends[0].send(1, third)
    assert bodies(pair.poll()[1]) == vector().tobytes()


def test_the_owner_may_change_its_vector_after_a_flush(pair: Swarm) -> None:
    data = vector()
    send(pair.ends[0], data)
    assert pair.ends[0].flushed()
    kept = data.tobytes()
    data[:] = 0
    (first,) = pair.poll()[1]
    send(pair.ends[0], data)
    (second,) = pair.poll()[1]
    assert bodies([first]) == kept
    assert bodies([second]) == bytes(SIZE)


def test_all_neighbors_read_one_copy(make: Make) -> None:
    swarm = make(3)
    swarm.greet()
    data = vector()
    for other in (1, 2):
        send(swarm.ends[0], data, other)
    _, *found = swarm.poll()
    assert [bodies(events) for events in found] == [data.tobytes()] * 2
    assert swarm.ends[0].segments == 1


def test_memory_is_reused_when_all_views_are_gone(pair: Swarm) -> None:
    kept: list[TransportEvent] = []
    for round in range(1, 20):
        send(pair.ends[0], vector(round), round=round)
        kept = pair.poll()[1]  # one vector is held while the next comes
        assert bodies(kept) == vector(round).tobytes()
        assert pair.ends[0].flushed()
        pair.ends[1].send(0, Message(Header(VERSION, "run", "grant", 1, round + 1)))  # which takes a release along
        pair.poll()
    assert pair.ends[0].segments <= 3
    assert "chunk" not in pair.sockets[0].kinds
    assert pair.sockets[1].kinds.count("release") <= 20


def test_releases_wait_for_another_message_only_a_while(pair: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    send(pair.ends[0], vector())
    pair.poll()
    pair.ends[1].poll(0.0)
    assert pair.sockets[1].kinds == []  # held back for another message to take it along
    monkeypatch.setattr(references, "HOLD_SECONDS", 0.0)
    pair.ends[1].poll(0.0)
    assert pair.sockets[1].kinds == ["release"]


def test_without_room_vectors_go_as_messages(pair: Swarm) -> None:
    held = []
    for round in range(1, 9):
        send(pair.ends[0], vector(round), round=round)
        events = pair.poll()[1]
        assert bodies(events) == vector(round).tobytes()
        held.append(events)  # never released
    assert "chunk" in pair.sockets[0].kinds
    assert [bodies(events) for events in held] == [vector(round).tobytes() for round in range(1, 9)]


# Offers


def test_before_the_offer_is_answered_vectors_go_as_messages(make: Make) -> None:
    swarm = make()
    swarm.ends[0].send(1, Message(Header(VERSION, "run", "hello", 0, 1)))
    send(swarm.ends[0], vector())
    assert swarm.sockets[0].kinds == ["segment", "hello", *["chunk"] * 3]
    assert bodies(swarm.poll()[1]) == vector().tobytes()
    send(swarm.ends[0], vector())
    assert swarm.sockets[0].kinds[5:] == ["reference"]


@pytest.mark.parametrize("shares", [(False, True), (True, False)])
def test_who_wants_sockets_only_gets_and_sends_messages(make: Make, shares: tuple[bool, bool]) -> None:
    swarm = make(2, shares)
    swarm.greet()
    for me in (0, 1):
        for message in messages(vector()):
            message = Message(msgspec.structs.replace(message.header, sender=me), message.body, message.ends)
            swarm.ends[me].send(1 - me, message)
        assert bodies(swarm.poll()[1 - me]) == vector().tobytes()
        assert swarm.sockets[me].kinds == ["chunk"] * 3
    assert swarm.said == [[], []]


def test_elsewhere_it_says_once_why_there_is_none(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = make(3)
    for me, end in enumerate(swarm.ends):
        monkeypatch.setattr(segments, "place", lambda me=me: f"machine {me}")
        end.send((me + 1) % 3, Message(Header(VERSION, "run", "hello", me, 1)))
    monkeypatch.undo()
    swarm.greet()  # everybody offers what was made elsewhere
    for me in range(3):
        send(swarm.ends[me], vector(), (me + 1) % 3)
        assert swarm.sockets[me].kinds == ["chunk"] * 3
    assert [len(lines) for lines in swarm.said] == [1, 1, 1]
    assert "another machine, container or user" in swarm.said[0][0]


def test_a_system_without_memfd_says_so_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = make(3)
    monkeypatch.delattr("os.memfd_create")
    swarm.greet()
    send(swarm.ends[0], vector())
    assert swarm.sockets[0].kinds == ["chunk"] * 3
    assert [len(lines) for lines in swarm.said] == [1, 1, 1]
    assert "no memfd" in swarm.said[0][0]


def test_a_neighbor_that_cannot_open_a_segment_gets_messages(pair: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.sockets[1].events.append(Lost(0))  # it closes what it had mapped
    pair.poll()
    monkeypatch.setattr(segments, "place", lambda: "elsewhere")
    pair.ends[0].send(1, Message(Header(VERSION, "run", "hello", 0, 1)))  # which offers again
    pair.poll()
    send(pair.ends[0], vector())
    assert pair.sockets[0].kinds == ["segment", "hello", *["chunk"] * 3]


# Broken links


@pytest.mark.parametrize("event", [Lost(1), Reconnected(1)])
def test_a_lost_neighbor_keeps_what_it_reads_and_gets_another_offer(pair: Swarm, event: TransportEvent) -> None:
    data = vector(1)
    send(pair.ends[0], data)
    kept = pair.poll()[1]
    pair.sockets[0].events.append(event)
    (told,) = pair.poll(1)[0]
    assert told == event
    send(pair.ends[0], data)
    assert pair.sockets[0].kinds[-3:] == ["chunk"] * 3 or isinstance(event, Reconnected)
    again = pair.poll()[1]
    for round in range(2, 8):
        pair.ends[0].flushed()
        send(pair.ends[0], vector(round), round=round)
        pair.poll()
    assert bodies(kept) == bodies(again) == data.tobytes()
    assert pair.sockets[0].kinds.count("segment") == isinstance(event, Reconnected)


def test_releases_that_a_broken_link_lost_are_told_again(pair: Swarm) -> None:
    """The owner's link to the reader stands, so that it hears of nothing."""
    send(pair.ends[0], vector())
    pair.poll()
    pair.sockets[1].kept = []
    pair.ends[1].send(0, Message(Header(VERSION, "run", "ack", 1, 1)))
    assert pair.sockets[1].kinds == ["release", "ack"]
    pair.sockets[1].kept = None
    pair.sockets[1].events.append(Reconnected(0))
    pair.poll()
    pair.ends[1].send(0, Message(Header(VERSION, "run", "ack", 1, 1)))
    pair.poll()
    pair.ends[0].flushed()
    for round in (2, 3):
        send(pair.ends[0], vector(round), round=round)
    assert pair.ends[0].segments == 2


def mapped() -> int:
    """Mappings of segments in this process, by owners and readers."""
    return Path("/proc/self/maps").read_text().count("/memfd:p2pfl-")


def test_the_memory_of_a_lost_neighbor_is_freed(pair: Swarm) -> None:
    before = mapped()
    send(pair.ends[0], vector())
    kept = pair.poll()[1]
    assert mapped() == before + 2
    pair.sockets[1].events.append(Lost(0))
    pair.poll()
    assert bodies(kept) == vector().tobytes()
    kept.clear()
    assert mapped() == before, "the owner's is left, and what it had shown is gone, too"


def test_a_neighbor_that_is_started_again_does_not_free_what_is_read(make: Make) -> None:
    """Releases of what its earlier process sent come after references of the next."""
    swarm = make()
    swarm.greet()
    send(swarm.ends[0], vector(1))
    held = swarm.poll()[1]
    again = SharedMemoryTransport(swarm.sockets[0], "run", 0, print)  # type: ignore[arg-type]
    again.connect({1: "1"}, SIZE)
    swarm.ends[0].close()
    swarm.sockets[0].inner.connect({1: "1"}, SIZE)
    swarm.ends[0] = again
    swarm.greet()
    data = vector(2)
    send(again, data)
    kept = swarm.poll()[1]
    held.clear()
    swarm.ends[1].send(0, Message(Header(VERSION, "run", "ack", 1, 1)))  # which takes the release along
    assert swarm.sockets[1].kinds == ["release", "ack"]
    swarm.poll()
    for round in (2, 3, 4):
        assert again.flushed()
        send(again, vector(10 + round), round=round)
    assert bodies(kept) == data.tobytes()


def test_nothing_grows_over_many_rounds_and_broken_links(pair: Swarm) -> None:
    files, maps = len(os.listdir("/proc/self/fd")), mapped()
    data = vector(size=LEAST_BYTES)
    for round in range(1, 1001):
        send(pair.ends[0], data, round=round)
        event = pair.sockets[round % 2].events
        event += [Reconnected(1 - round % 2)] * (round % 10 == 0) + [Lost(1 - round % 2)] * (round % 35 == 0)
        pair.poll()
        pair.ends[0].flushed()
        pair.ends[1].send(0, Message(Header(VERSION, "run", "grant", 1, round + 1)))
        pair.poll()
    assert pair.sockets[0].kinds.count("reference") > 900
    assert pair.ends[0].segments <= 4
    assert len(os.listdir("/proc/self/fd")) - files <= 4
    assert mapped() - maps <= 2 * 5


def test_a_discarded_neighbor_gets_nothing_that_was_begun(pair: Swarm) -> None:
    first, *_ = messages(vector())
    pair.ends[0].send(1, first)
    pair.ends[0].discard(1)
    assert pair.poll()[1] == []
    assert "reference" not in pair.sockets[0].kinds
    assert pair.ends[0].flushed()


# Faults of a script


def test_delayed_vectors_come_as_they_were(pair: Swarm) -> None:
    now = 0.0
    slow = Conditioner(pair.ends[0], constant_delay(1.0), lambda: now)
    data = vector()
    send(slow, data)
    assert not slow.flushed()
    assert pair.poll()[1] == []
    now = 2.0
    slow.poll(0.0)
    assert slow.flushed()
    data[:] = 0
    assert bodies(pair.poll()[1]) == vector().tobytes()


def test_lost_and_damaged_chunks_are_missing(pair: Swarm) -> None:
    fates = iter(["whole", "damaged", "whole", "lost", "whole", "whole"])

    def condition(neighbor: int, message: Message) -> Delivery | None:
        fate = next(fates)
        return None if fate == "lost" else Delivery(corrupted(message) if fate == "damaged" else message)

    faulty = Conditioner(pair.ends[0], condition)
    for message in messages(vector()):
        faulty.send(1, message)
    _, (first, refused, last) = pair.poll()
    assert isinstance(refused, Refused)
    assert bodies([first, last]) == vector()[:CHUNK_BYTES].tobytes() + vector()[2 * CHUNK_BYTES :].tobytes()
    for message in messages(vector()):
        faulty.send(1, message)
    assert bodies(pair.poll()[1]) == vector()[CHUNK_BYTES:].tobytes()


# Hostile messages


def hostile(pair: Swarm, kind: str, body: bytes, sender: int = 0, **fields: object) -> list[TransportEvent]:
    """Events of the second end after a message that no transport of ours sends."""
    header = Header(VERSION, "run", kind, sender, 1, length=len(body))  # type: ignore[arg-type]
    pair.sockets[0].inner.send(1, Message(msgspec.structs.replace(header, **fields), body))
    return pair.poll()[1]


def test_a_stranger_cannot_offer_or_refer(pair: Swarm) -> None:
    for kind in ("segment", "mapped", "reference", "release"):
        for fields in ({"sender": 5}, {"run": "another"}):
            (event,) = hostile(pair, kind, encode([]), **fields)  # type: ignore[arg-type]
            assert isinstance(event, Refused)
    assert pair.sockets[1].kinds == []


@pytest.mark.parametrize("kind", ["segment", "mapped", "reference", "release"])
@pytest.mark.parametrize("body", [b"\xc1", encode("text"), encode([1, 2]), encode([-1]), b"\x91" * 900])
def test_nonsense_is_refused(pair: Swarm, kind: str, body: bytes) -> None:
    found = hostile(pair, kind, body)
    assert all(isinstance(event, Refused) for event in found)
    assert len(found) == 1 or kind == "release"
    send(pair.ends[0], vector())
    assert bodies(pair.poll()[1]) == vector().tobytes()


@pytest.mark.parametrize(("offset", "length"), [(0, SIZE * 2 + CHUNK_BYTES), (1 << 30, 4), (0, 0), (4, 3)])
def test_a_reference_beyond_its_segment_or_within_a_number_is_refused(pair: Swarm, offset: int, length: int) -> None:
    segment = Segment(Owner(), 0, SIZE)
    body = encode(Reference(1, segment.announcement, length))
    (event,) = hostile(pair, "reference", body, codec="fp32", vector="x", offset=offset)
    assert isinstance(event, Refused)
    segment.close()


def test_a_reference_that_cannot_be_opened_is_declined(pair: Swarm) -> None:
    segment = Segment(Owner(), 0, SIZE)
    segment.close()
    body = encode(Reference(1, segment.announcement, 64))
    assert hostile(pair, "reference", body, codec="fp32", vector="x") == []
    assert pair.sockets[1].kinds == ["mapped"]
    pair.poll()
    send(pair.ends[0], vector())
    assert pair.sockets[0].kinds == ["reference"], "what was declined was not this process's"


def test_a_process_that_cannot_map_a_vector_gets_messages_and_holds_no_segment(
    pair: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has mapped what was shown; for long segments there may be no memory."""

    def full(fd: int, size: int, is_written: bool = False) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    data = vector()
    send(pair.ends[0], data)
    pair.poll()
    pair.ends[0].flushed()
    send(pair.ends[0], data, round=2)
    with monkeypatch.context() as patch:
        patch.setattr(segments, "map_file", full)
        assert pair.poll()[1] == []
    pair.poll()
    pair.sockets[0].kinds.clear()
    send(pair.ends[0], data, round=2)
    assert pair.sockets[0].kinds == ["chunk"] * 3
    assert bodies(pair.poll()[1]) == data.tobytes()
    assert "Cannot allocate memory" in pair.said[1][-1]
    pair.ends[0].send(1, Message(Header(VERSION, "run", "hello", 0, 1)))  # which offers again
    pair.ends[1].send(0, Message(Header(VERSION, "run", "ack", 1, 1)))  # which takes the first release along
    pair.poll()
    for round in (3, 4):
        assert pair.ends[0].flushed()
        send(pair.ends[0], data, round=round)
    assert pair.sockets[0].kinds.count("reference") == 2
    assert pair.ends[0].segments == 2


def test_what_is_read_late_from_a_broken_link_changes_nothing(pair: Swarm) -> None:
    """A process that stood still reads what its neighbor gave up meanwhile."""
    data = vector()
    late = pair.sockets[0].kept = []
    send(pair.ends[0], data)
    pair.sockets[0].kept = None
    pair.ends[0].discard(1)  # which closes the segment
    assert pair.ends[0].segments == 0
    pair.sockets[0].events.append(Reconnected(1))
    pair.poll()
    (reference,) = late
    pair.sockets[0].inner.send(1, reference)  # after the new link's offer
    assert pair.poll()[1] == []
    pair.sockets[0].kinds.clear()
    send(pair.ends[0], data)
    assert pair.sockets[0].kinds == ["reference"]
    assert bodies(pair.poll()[1]) == data.tobytes()


def test_more_segments_than_a_process_has_are_not_kept(pair: Swarm) -> None:
    owner = Owner()
    segment = Segment(owner, 0, 64)
    announced = msgspec.structs.replace(segment.announcement, slot=MAX_SLOTS)
    (event,) = hostile(pair, "segment", encode(announced))
    assert isinstance(event, Refused)
    segment.close()


def test_a_release_of_anothers_reference_frees_nothing(make: Make) -> None:
    swarm = make(3)
    swarm.greet()
    data = vector()
    send(swarm.ends[0], data, to=1)
    kept = swarm.poll()[1]
    header = Header(VERSION, "run", "release", 2, 1)
    body = encode(list(range(100)))
    swarm.sockets[2].inner.send(0, Message(msgspec.structs.replace(header, length=len(body)), body))
    swarm.poll()
    for round in range(2, 9):
        swarm.ends[0].flushed()
        send(swarm.ends[0], vector(round), to=1, round=round)
        swarm.poll()
    assert bodies(kept) == data.tobytes()


# Vectors that are computed in shared memory


@pytest.mark.parametrize("is_greeted", [False, True])
@pytest.mark.parametrize("count", [LEAST_BYTES // 4 - 1, LEAST_BYTES // 4, SIZE // 4 + CHUNK_BYTES])
def test_vectors_are_lent_where_some_neighbor_maps_them_and_they_fit(make: Make, is_greeted: bool, count: int) -> None:
    swarm, memory = make(), VectorMemory()
    end = SharedMemoryTransport(swarm.sockets[0], "run", 0, memory=memory)  # type: ignore[arg-type]
    end.connect({1: "1"}, SIZE)
    swarm.ends[0] = end
    if is_greeted:
        swarm.greet()
    vector = torch.empty(count)
    is_lent = memory.writable(vector) is not vector
    assert is_lent == (is_greeted and count == LEAST_BYTES // 4)
