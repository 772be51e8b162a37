"""Pool of segments: one copy a vector, reuse after release only, a bound."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from p2pfl.protocol.wire import CHUNK_BYTES, VERSION, Header, Message, chunks
from p2pfl.transport.segment_pool import SPARE, SegmentPool
from p2pfl.transport.segments import MAX_SLOTS, Mapping, Owner, Segment

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd")

SIZE = 2 * CHUNK_BYTES
LIMIT = 2 + SPARE  # segments, where one vector is sent at a time


@pytest.fixture
def pool() -> Iterator[SegmentPool]:
    made = SegmentPool(Owner(), SIZE)
    yield made
    made.close()


def vector(value: int = 1, size: int = SIZE) -> np.ndarray:
    return np.full(size, value, np.uint8)


def messages(data: np.ndarray, round: int = 1, name: str = "x", is_stable: bool = False) -> list[Message]:
    return list(chunks(Header(VERSION, "run", "chunk", 0, round, codec="fp32"), {name: data.data}, is_stable))


def placed(pool: SegmentPool, data: np.ndarray, round: int = 1, name: str = "x", is_stable: bool = False) -> Segment:
    sent = messages(data, round, name, is_stable)
    found = {segment for message in sent if (segment := pool.place(message)) is not None}
    (segment,) = found
    return segment


def content(segment: Segment, size: int = SIZE) -> np.ndarray:
    return Mapping(segment.announcement, 1 << 30).view(0, size)


def test_a_vector_is_copied_once_for_all_neighbors(pool: SegmentPool) -> None:
    data = vector(1)
    segment = placed(pool, data)
    assert (content(segment) == 1).all()
    data[:] = 2  # which its owner may not do: so it is seen whether the bytes are copied again
    assert placed(pool, data) is segment
    assert (content(segment) == 1).all()


def test_a_vector_that_may_have_changed_is_copied_again(pool: SegmentPool) -> None:
    data = vector(1)
    first = placed(pool, data)
    pool.refer(7, first)
    pool.forget()
    data[:] = 2
    second = placed(pool, data)
    assert second is not first  # the neighbor may still read that
    assert (content(first) == 1).all()
    assert (content(second) == 2).all()


def test_another_round_vector_or_memory_is_another_vector(pool: SegmentPool) -> None:
    data, other = vector(1), vector(2)
    first = placed(pool, data)
    assert placed(pool, data, name="m") is not first
    assert placed(pool, other) is not first
    pool.refer(7, first)
    assert placed(pool, data, round=2) is not first


def test_a_segment_is_reused_only_when_all_have_released_it(pool: SegmentPool) -> None:
    data = vector()
    segment = placed(pool, data)
    numbers = [pool.refer(neighbor, segment) for neighbor in (5, 6)]
    pool.forget()
    pool.release(5, [numbers[0]])
    pool.release(5, [numbers[1], 99])  # not its own, and of none
    assert placed(pool, data, round=2) is not segment
    pool.forget()
    pool.release(6, [numbers[1]])
    pool.release(6, [numbers[1]])  # said twice
    assert pool.size == 2
    assert {placed(pool, vector(), 3), placed(pool, vector(), 3, "m")} >= {segment}
    assert pool.size == 2


def test_what_a_lost_neighbor_may_read_is_never_written_again(pool: SegmentPool) -> None:
    data = vector(1)
    segment = placed(pool, data)
    kept = content(segment)
    number = pool.refer(6, segment)
    pool.refer(5, segment)
    pool.lose(5)
    data[:] = 2
    assert placed(pool, data) is not segment  # also within its round
    pool.forget()
    again = Mapping(segment.announcement, 1 << 30)  # the other neighbor may still open it
    pool.release(6, [number])
    for round in range(2, 6):
        placed(pool, vector(3), round)
        pool.forget()
    assert (kept == 1).all()
    assert (again.view(0, SIZE) == 1).all()


def test_vectors_that_nobody_releases_soon_find_no_room(pool: SegmentPool) -> None:
    for round in range(1, LIMIT + 1):
        pool.refer(5, placed(pool, vector(), round))
    held = vector()
    assert all(pool.place(message) is None for message in messages(held, LIMIT + 1))
    assert pool.size == LIMIT
    pool.lose(5)
    assert placed(pool, held, LIMIT + 1)


def test_more_vectors_at_once_have_more_segments_up_to_a_bound(pool: SegmentPool) -> None:
    kept = [vector() for _ in range(MAX_SLOTS)]
    found = [pool.place(messages(data)[0]) for data in kept]
    assert None not in found[:-1]
    assert found[-1] is None
    assert len({pool.shown, *found}) == MAX_SLOTS + 1
    assert len({segment.announcement.slot for segment in [pool.shown, *found[:-1]] if segment}) == MAX_SLOTS


def test_a_vector_longer_than_a_segment_has_no_place(pool: SegmentPool) -> None:
    *fitting, beyond = messages(vector(size=3 * CHUNK_BYTES))
    assert all(pool.place(message) is not None for message in fitting)
    assert pool.place(beyond) is None


def test_the_segment_that_is_shown_stays_whatever_is_lost(pool: SegmentPool) -> None:
    segment = placed(pool, vector())
    assert pool.shown is not segment
    pool.refer(5, segment)
    pool.lose(5)
    assert pool.size == 0
    Mapping(pool.shown.announcement, 1 << 30)


def test_a_released_number_of_another_process_means_nothing(pool: SegmentPool) -> None:
    """A process that was started again counts elsewhere."""
    earlier = SegmentPool(Owner(), SIZE)
    data = vector()
    old = [earlier.refer(5, placed(earlier, data)) for _ in range(100)]
    earlier.close()
    new = [pool.refer(5, placed(pool, data)) for _ in range(100)]
    assert not set(old) & set(new)
    pool.forget()
    pool.release(5, old)
    assert all(pool.has(5, number) for number in new)


def test_a_vector_for_which_there_is_no_memory_has_no_place(pool: SegmentPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = vector()
    first, second = messages(data)
    assert pool.place(first) is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert pool.place(second) is None
    assert pool.place(second) is not None


def test_a_segment_costs_one_open_file(pool: SegmentPool) -> None:
    before, kept = len(os.listdir("/proc/self/fd")), [vector() for _ in range(5)]
    assert all(placed(pool, data) for data in kept)
    assert len(os.listdir("/proc/self/fd")) == before + 5


# Vectors that are computed in segments


def lent(pool: SegmentPool, value: int = 1) -> torch.Tensor:
    """A vector in a segment, with some numbers."""
    found = pool.lend(torch.empty(SIZE // 4))
    assert pool.lend(found) is found, "nobody reads it"
    return found.fill_(value)


def read(segment: Segment) -> torch.Tensor:
    return torch.from_numpy(content(segment).copy()).view(torch.float32)


def in_bytes(vector: torch.Tensor) -> np.ndarray:
    return vector.view(torch.uint8).numpy()


def test_a_vector_that_was_computed_in_a_segment_is_sent_from_there(pool: SegmentPool) -> None:
    vector = lent(pool)
    segment = placed(pool, in_bytes(vector), is_stable=True)
    assert pool.size == 1
    vector[0] = 5.0
    assert read(segment)[0] == 5.0, "no copy"


def test_a_vector_whose_owner_asks_nobody_before_it_writes_is_copied(pool: SegmentPool) -> None:
    vector = lent(pool)
    segment = placed(pool, in_bytes(vector))
    assert pool.size == 2
    vector[0] = 5.0
    assert read(segment)[0] == 1.0


def test_a_vector_that_is_read_is_replaced_until_it_is_released(pool: SegmentPool) -> None:
    vector = lent(pool)
    segment = placed(pool, in_bytes(vector), is_stable=True)
    number = pool.refer(5, segment)
    pool.forget()
    other = pool.lend(vector)
    assert other.shape == vector.shape
    other.fill_(2.0)
    assert (read(segment) == 1.0).all()
    pool.release(5, [number])
    assert pool.lend(other) is other
    again = pool.lend(torch.empty(SIZE // 4))
    assert again.data_ptr() == vector.data_ptr(), "free again"
    assert pool.size == 2


def test_a_vector_that_is_being_sent_is_replaced(pool: SegmentPool) -> None:
    vector = lent(pool)
    placed(pool, in_bytes(vector), is_stable=True)
    assert pool.lend(vector).data_ptr() != vector.data_ptr()


def test_a_vector_that_a_lost_neighbor_may_read_is_never_written_again(pool: SegmentPool) -> None:
    vector = lent(pool)
    segment = placed(pool, in_bytes(vector), is_stable=True)
    pool.refer(5, segment)
    mapped = content(segment)
    pool.lose(5)
    assert placed(pool, in_bytes(vector), is_stable=True) is segment, "the others still get it"
    pool.forget()
    fresh = pool.lend(vector)
    fresh.fill_(2.0)
    assert (torch.from_numpy(mapped.copy()).view(torch.float32) == 1.0).all()
    assert pool.size == 1, "the other segment was closed"


def test_vectors_are_in_the_process_where_no_segment_is_wanted_or_to_be_had(
    pool: SegmentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.empty(SIZE // 4)
    assert pool.lend(plain, is_wanted=False) is plain
    vector = lent(pool)
    pool.refer(5, placed(pool, in_bytes(vector), is_stable=True))
    back = pool.lend(vector, is_wanted=False)
    assert back.shape == vector.shape
    assert pool.lend(back, is_wanted=False) is back
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert pool.lend(plain) is plain
    assert pool.lend(plain) is plain
    assert pool.size == 2, "a segment without memory waits for the next"


def test_the_segment_of_a_vector_that_the_process_has_dropped_is_free(pool: SegmentPool) -> None:
    """As when the consensus phase begins, whose algorithm has its own vectors."""
    for value in range(5):
        vector = lent(pool, value)
        del vector
    assert pool.size == 1
    vector = lent(pool)
    segment = placed(pool, in_bytes(vector), is_stable=True)
    number = pool.refer(5, segment)
    pool.forget()
    del vector
    other = lent(pool, 2)
    assert (read(segment) == 1.0).all(), "a neighbor still reads it"
    pool.release(5, [number])
    del other
    assert lent(pool) is not None
    assert pool.size == 2


def test_lent_segments_leave_room_for_those_that_neighbors_read(pool: SegmentPool) -> None:
    vectors = [pool.lend(torch.empty(SIZE // 4)) for _ in range(3)]
    assert len({vector.data_ptr() for vector in vectors}) == 3
    for round in range(LIMIT):
        pool.refer(5, placed(pool, np.ones(SIZE, np.uint8), round))
        pool.forget()
