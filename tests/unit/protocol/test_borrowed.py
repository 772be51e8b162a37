"""Vectors in shared memory: copied once, and checked as they were copied."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from tests.support.helpers import matrix, schedules_of
from tests.support.one_peer import CONTEXT, SIZE, X, chunk, greeted, hello, sends

from p2pfl.algorithms import DPSGD, Algorithm, Chebyshev
from p2pfl.algorithms.base import RoundContext
from p2pfl.algorithms.blockwise import side_by_side
from p2pfl.algorithms.robust import Clipped, Median, Robust, TrimmedMean
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import Borrowed, Payload
from p2pfl.protocol.arrival import UnusableError
from p2pfl.protocol.events import Action, Received, RoundDone, Started, Trained
from p2pfl.protocol.inbox import Inbox, Senders
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.wire import CHUNK_BYTES, VERSION, Header, Message

LONG = 2 * CHUNK_BYTES // 4 + 5  # elements: two blocks and some


def shared(memory: np.ndarray, sender: int = 1, round: int = 1) -> Message:
    """A whole vector that lies in memory which its sender can still write."""
    header = Header(VERSION, "run", "chunk", sender, round, "fp32", "layout", "x", 0, memory.nbytes)
    view = memory.view()
    view.flags.writeable = False
    return Message(header, view.view(np.uint8).data, is_shared=True)


def inbox(form: Algorithm, size: int = LONG) -> Inbox:
    made = Inbox(size, lambda round: form, 9)
    assert made.grant(1, Senders([1]), Senders()) == [(1, 1)]
    return made


def parts(box: Inbox) -> list[torch.Tensor]:
    """Copies of what is taken, part by part, until it is whole."""
    found, is_whole = [], False
    while not is_whole:
        part, is_whole = box.take_part(1, 1)
        assert part is not None
        found += [piece.clone() for piece in part.vectors["x"]]
    return found


def drawn(size: int = LONG) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size, np.float32)


# The inbox


def test_parts_are_copies_of_blocks(recwarn: pytest.WarningsRecorder) -> None:
    box, memory = inbox(DPSGD()), drawn()
    assert box.add(shared(memory))
    found = parts(box)
    assert [piece.nbytes for piece in found] == [CHUNK_BYTES, CHUNK_BYTES, 20]
    assert torch.equal(torch.cat(found), torch.from_numpy(memory))
    assert not recwarn.list
    assert box.take_part(1, 1) == (None, False)


def test_a_part_stays_as_it_was_when_it_was_checked() -> None:
    box, memory = inbox(DPSGD()), drawn()
    kept = memory.copy()
    box.add(shared(memory))
    part, _ = box.take_part(1, 1)
    memory[:] = math.nan
    assert part is not None
    assert torch.equal(part.vectors["x"][0], torch.from_numpy(kept)[: CHUNK_BYTES // 4])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, LONG - 1])
def test_what_is_not_finite_when_it_is_taken_is_given_up(value: float, place: int) -> None:
    box, memory = inbox(DPSGD()), drawn()
    assert box.add(shared(memory))
    memory[place] = value
    with pytest.raises(UnusableError) as refused:
        parts(box)
    assert (refused.value.code, refused.value.round, refused.value.sender) == (Refusal.VALUES, 1, 1)
    assert box.is_given_up(1, 1)
    assert not box.is_whole(1, 1)
    assert box.take_part(1, 1) == (None, False)
    assert box.add(shared(memory))  # its sender is told again that nothing more is needed


def test_a_whole_payload_is_copied_and_checked_at_once() -> None:
    box, memory = inbox(DPSGD()), drawn()
    box.add(shared(memory))
    payload = box.take(1, 1)
    kept = memory.copy()
    memory[:] = math.nan
    assert payload is not None
    assert torch.equal(torch.cat(list(payload.vectors["x"])), torch.from_numpy(kept))
    again = inbox(DPSGD())
    again.add(shared(memory))
    with pytest.raises(UnusableError):
        again.take(1, 1)


@pytest.mark.parametrize("form", [DPSGD(), DPSGD(streaming=False), Robust(Median())])
def test_a_vector_that_comes_once_more_is_completed_from_where_it_was_lost(form: Algorithm) -> None:
    """A fault script lost chunks amid it; all come again as one reference."""
    box, memory = inbox(form), drawn()
    whole = shared(memory)
    header = msgspec.structs.replace(whole.header, length=CHUNK_BYTES)
    assert not box.add(Message(header, memoryview(whole.body)[:CHUNK_BYTES], is_shared=True))
    assert not box.add(Message(header, bytearray(memoryview(whole.body)[:CHUNK_BYTES])))
    assert box.add(whole)
    payload = box.take(1, 1)
    assert payload is not None
    assert torch.equal(torch.cat(list(payload.vectors["x"])), torch.from_numpy(memory))


def test_who_takes_whole_vectors_gets_its_own_copies() -> None:
    box, memory = inbox(DPSGD(streaming=False)), drawn()
    kept = memory.copy()
    box.add(shared(memory))
    memory[:] = math.nan
    payload = box.take(1, 1)
    assert payload is not None
    assert not isinstance(payload.vectors["x"], Borrowed)
    assert torch.equal(torch.cat(list(payload.vectors["x"])), torch.from_numpy(kept))


def test_robust_averages_need_no_memory_for_neighbors_vectors() -> None:
    box, memory = inbox(Robust(Median())), drawn()
    box.add(shared(memory))
    payload = box.take(1, 1, borrows=True)
    assert payload is not None
    (piece,) = payload.vectors["x"]
    assert isinstance(payload.vectors["x"], Borrowed)
    assert piece.data_ptr() == memory.ctypes.data
    memory[0] = math.nan
    fresh = inbox(Robust(Median()))
    with pytest.raises(ProtocolError, match="not finite"):
        fresh.add(shared(memory))  # refused like a message


# A peer


def trained(algorithm: Algorithm, size: int = SIZE) -> Peer:
    x = X.clone() if size == SIZE else torch.arange(size, dtype=torch.float32)
    peer = Peer(CONTEXT, schedules_of(matrix("ring", 4))[0], x, algorithm, Chebyshev(1 / 3))
    greeted(peer)
    peer.handle(Trained(), 0.0)
    return peer


def told(peer: Peer, *received: Received) -> tuple[list[Action], torch.Tensor]:
    """Actions after messages, after which the round is done, and x."""
    actions = [action for event in received for action in peer.handle(event, 0.0)]
    (done,) = (action for action in actions if isinstance(action, RoundDone))
    assert done.x is not None
    return actions, done.x.clone()


@pytest.mark.parametrize("algorithm", [DPSGD(), Robust(TrimmedMean(1)), Robust(Median()), Robust(Clipped(1))])
@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1)])
def test_shared_vectors_end_with_the_same_bits(algorithm: Algorithm, first: int, second: int) -> None:
    ends = []
    for is_shared in (True, False):
        peer = trained(algorithm)
        both = [replace(shared(sender * drawn(SIZE), sender), is_shared=is_shared) for sender in (first, second)]
        ends.append(told(peer, *map(Received, both))[1])
        assert not peer.refused
    assert torch.equal(*ends)


def test_an_owner_that_writes_amid_a_fold_is_refused_and_replaced() -> None:
    peer, memory = trained(DPSGD()), drawn(SIZE)
    assert sends(peer.handle(Received(shared(memory, sender=3)), 0.0)) == [("ack", 3, 1)]  # waits for that of 1
    memory[0] = math.nan
    actions, x = told(peer, chunk(1, 1))
    assert ("ack", 3, 1) in sends(actions)  # so that its sender does not wait for anything
    assert peer.refused == {"values": 1}
    assert peer.facts["absent"] == ["three"]
    other = trained(DPSGD())
    spoiled = Message(shared(memory, sender=3).header, bytearray(memory))
    assert torch.equal(x, told(other, Received(spoiled), chunk(1, 1))[1])  # as after a message with such numbers
    assert other.refused == peer.refused


def test_what_was_added_before_the_first_bad_number_stays() -> None:
    peer, memory = trained(DPSGD(), LONG), drawn()
    memory[-1] = math.nan  # after two good blocks
    other = np.ones(LONG, np.float32)
    _, x = told(peer, Received(shared(other, 1)), Received(shared(memory, 3)))
    own = torch.arange(LONG, dtype=torch.float32)
    theirs = torch.cat([torch.from_numpy(memory)[:-5], own[-5:]])
    torch.testing.assert_close(x, (own + 1.0 + theirs) / 3, rtol=1e-5, atol=1e-3)
    assert peer.refused == {"values": 1}


# Rules


def test_blocks_that_are_not_finite_any_longer_count_as_zeros() -> None:
    lent = Borrowed([torch.tensor([1.0, math.inf])])
    ((_, (own, block)),) = side_by_side([[torch.ones(2)], lent])
    assert own.tolist() == [1.0, 1.0]
    assert block.tolist() == [0.0, 0.0]
    assert lent[0].tolist() == [1.0, math.inf]


class Rewritten(Borrowed):
    """A vector that its owner rewrites after its distance was taken."""

    reads = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.reads += 1
        if self.reads > 1:
            self[0].fill_(1e6)
        return super().__iter__()


def test_clipping_bounds_a_vector_that_is_rewritten_after_its_distance_was_taken() -> None:
    algorithm = Robust(Clipped(1, radius=2.0))
    schedule = schedules_of(matrix("ring", 4))[0]
    x = torch.zeros(SIZE)
    state = algorithm.init(x, schedule)
    context = RoundContext(1, schedule(1))
    algorithm.outgoing(state, context)
    algorithm.accumulate(state, 0, algorithm.own(state))
    algorithm.accumulate(state, 1, Payload({"x": Rewritten([torch.full((SIZE,), 0.5)])}))
    algorithm.accumulate(state, 3, Payload({"x": [torch.zeros(SIZE)]}))
    assert float(algorithm.finish(state, context).norm()) <= 2.0 / 3


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_peer_that_takes_weights_does_not_wait_for_another_after_a_bad_vector(is_shared: bool) -> None:
    context = replace(CONTEXT, needs_bootstrap=True, first_round=2)
    peer = Peer(context, schedules_of(matrix("ring", 4))[0], X.clone(), DPSGD(), Chebyshev(1 / 3))
    peer.handle(Started(), 0.0)
    for sender in (1, 3):
        peer.handle(hello(sender, 2), 0.0)
    memory = drawn(SIZE)
    memory[0] = math.nan
    peer.handle(Received(replace(shared(memory, sender=3, round=2), is_shared=is_shared)), 0.0)
    actions = peer.handle(chunk(1, 2), 0.0)
    (done,) = (action for action in actions if isinstance(action, RoundDone))
    assert done.x is not None
    assert torch.equal(done.x, torch.ones(SIZE))
    assert peer.refused == {"values": 1}
