"""Inbox of one process: order of credit, chunks in place, payloads by chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.payload import COMPRESSED, FP32, Encoding, Payload
from p2pfl.protocol.inbox import MORE_CHUNKS, WINDOW, Inbox, Senders
from p2pfl.protocol.wire import VERSION, Header, Message

SIZE = 8  # elements
VECTOR = torch.arange(SIZE, dtype=torch.float32)
SENDER = 3
Key = tuple[int, int]


@dataclass(frozen=True)
class Form:
    encodings: Mapping[str, Encoding]


def inbox(form: Form | None = None, last_round: int = 9) -> Inbox:
    return Inbox(SIZE, lambda round: form or Form({"x": FP32}), last_round)


def grant(box: Inbox, round: int, senders: Callable[[int], Sequence[int]] = lambda round: [SENDER]) -> list[Key]:
    """Senders that get credit where all of this round and the next are expected."""
    may, found = box.may_grant(round), box.grant(round, Senders(senders(round)), Senders(senders(round + 1)))
    assert may or not found, "who asks first loses no credit"
    assert not box.may_grant(round) or box.outstanding < WINDOW
    return found


def granted(form: Form | None = None) -> Inbox:
    made = inbox(form=form)
    assert grant(made, 1) == [(1, SENDER), (2, SENDER)]
    return made


def chunk(start: int, stop: int, round: int = 1, sender: int = SENDER, vector: str = "x", **scalars: float) -> Message:
    """Elements start..stop of VECTOR; of "y", of its negative."""
    body = (VECTOR[start:stop] if vector == "x" else -VECTOR[start:stop]).numpy().tobytes()
    header = Header(VERSION, "run", "chunk", sender, round, "fp32", "layout", vector, 4 * start, len(body), scalars)
    return Message(header, body)


def values(payload: Payload | None, vector: str = "x") -> list[float]:
    assert payload is not None
    return torch.cat(list(payload.vectors[vector])).tolist()


def holds_nothing(box: Inbox, round: int = 1) -> None:
    assert box.take_part(round, SENDER) == (None, False)
    assert box.take(round, SENDER) is None
    assert round not in box.granted_to(SENDER)
    assert round in box.taken_from(SENDER)


# Parts


def test_parts_follow_each_other_and_end_once() -> None:
    box = granted()
    assert box.take_part(1, SENDER) == (None, False)
    assert not box.add(chunk(0, 3))
    part, whole = box.take_part(1, SENDER)
    assert (values(part), whole) == ([0, 1, 2], False)
    assert box.take_part(1, SENDER) == (None, False)  # nothing new
    assert not box.add(chunk(3, 4))
    assert not box.add(chunk(4, 6))
    part, whole = box.take_part(1, SENDER)  # two chunks at once
    assert (values(part), whole) == ([3, 4, 5], False)
    assert box.missing(1, [SENDER]) == {SENDER}
    assert box.granted_to(SENDER) == [1, 2]
    assert box.add(chunk(6, 8))
    part, whole = box.take_part(1, SENDER)
    assert (values(part), whole) == ([6, 7], True)
    holds_nothing(box)
    assert box.missing(1, [SENDER]) == set()


def test_a_payload_that_was_complete_before_is_one_part() -> None:
    box = granted()
    assert [box.add(chunk(start, start + 4)) for start in (0, 4)] == [False, True]
    part, whole = box.take_part(1, SENDER)
    assert (values(part), whole) == (VECTOR.tolist(), True)
    holds_nothing(box)


def test_scalars_come_with_the_first_part_only() -> None:
    box = granted()
    taken = []
    for start in (0, 3, 6):
        box.add(chunk(start, min(start + 3, SIZE), weight=0.5))  # every chunk repeats them
        part, _ = box.take_part(1, SENDER)
        assert part is not None
        taken.append(dict(part.scalars))
    assert taken == [{"weight": 0.5}, {}, {}]


def test_parts_of_several_vectors() -> None:
    box = granted(Form({"x": FP32, "y": FP32}))
    assert not box.add(chunk(0, 8, weight=2.0))  # all of x, but not all of the payload
    part, whole = box.take_part(1, SENDER)
    assert part is not None
    assert (set(part.vectors), values(part), whole) == ({"x"}, VECTOR.tolist(), False)
    assert not box.add(chunk(0, 4, vector="y", weight=2.0))
    assert box.add(chunk(4, 8, vector="y", weight=2.0))
    part, whole = box.take_part(1, SENDER)
    assert part is not None
    assert (set(part.vectors), values(part, "y"), whole) == ({"y"}, (-VECTOR).tolist(), True)
    assert part.scalars == {}
    assert not box.add(chunk(0, 8))  # the end of x is not that of the payload
    assert box.add(chunk(4, 8, vector="y"))
    holds_nothing(box)


def test_rounds_do_not_mix() -> None:
    box = granted()
    box.add(chunk(0, 4))
    box.take_part(1, SENDER)
    assert box.take_part(2, SENDER) == (None, False)
    assert box.add(chunk(0, 8, round=2))
    assert box.take_part(1, SENDER) == (None, False)
    assert box.add(chunk(4, 8))
    assert values(box.take_part(1, SENDER)[0]) == [4, 5, 6, 7]
    assert values(box.take_part(2, SENDER)[0]) == VECTOR.tolist()


# Duplicates: after a broken connection everything is sent again


def test_what_comes_again_after_a_part_was_taken_is_ignored() -> None:
    box = granted()
    box.add(chunk(0, 3))
    box.take_part(1, SENDER)
    box.add(chunk(3, 6))
    for start in (0, 3):
        assert not box.add(chunk(start, start + 3))
    part, whole = box.take_part(1, SENDER)
    assert (values(part), whole) == ([3, 4, 5], False)
    assert not box.add(chunk(0, 3))
    assert box.take_part(1, SENDER) == (None, False)
    assert box.add(chunk(6, 8))
    assert values(box.take_part(1, SENDER)[0]) == [6, 7]


def test_the_end_is_acknowledged_again_and_nothing_is_stored() -> None:
    box = granted()
    again = [chunk(0, 4), chunk(4, 8)]
    answers = [[box.add(message) for message in again] for _ in range(3)]
    assert answers == [[False, True]] * 3  # complete and not taken
    part, whole = box.take_part(1, SENDER)
    assert (values(part), whole) == (VECTOR.tolist(), True)
    for _ in range(3):
        assert [box.add(message) for message in again] == [False, True]
        holds_nothing(box)


def test_a_round_is_remembered_while_its_neighbors_may_be_in_it() -> None:
    box = granted()
    take_whole(box, 1, SENDER)
    assert grant(box, 2) == [(3, SENDER)]
    assert box.add(chunk(0, SIZE))  # the sender may not have heard that it is here
    holds_nothing(box)
    take_whole(box, 2, SENDER)
    assert grant(box, 3) == [(4, SENDER)]
    assert box.taken_from(SENDER) == [2]
    with pytest.raises(ProtocolError, match="without credit"):
        box.add(chunk(0, SIZE))


def test_a_gap_after_a_part_was_taken_is_refused_and_harmless() -> None:
    box = granted()
    box.add(chunk(0, 3))
    box.take_part(1, SENDER)
    with pytest.raises(ProtocolError, match="offset: 24 is not the next chunk"):
        box.add(chunk(6, 8))
    assert box.take_part(1, SENDER) == (None, False)
    assert [box.add(chunk(start, stop)) for start, stop in ((0, 3), (3, 6), (6, 8))] == [False, False, True]
    assert values(box.take_part(1, SENDER)[0]) == [3, 4, 5, 6, 7]


# Whole


def test_a_payload_taken_whole() -> None:
    box = granted()
    assert not box.add(chunk(0, 5, weight=0.5))
    assert box.take(1, SENDER) is None
    assert box.add(chunk(5, 8, weight=0.5))
    payload = box.take(1, SENDER)
    assert payload is not None
    assert values(payload) == VECTOR.tolist()
    assert payload.scalars == {"weight": 0.5}
    holds_nothing(box)
    assert box.add(chunk(5, 8))
    holds_nothing(box)


# Leave


@pytest.mark.parametrize("round", [0, 3])
def test_a_chunk_without_credit_is_refused(round: int) -> None:
    box = granted()
    with pytest.raises(ProtocolError, match=f"round: a chunk of round {round} without credit"):
        box.add(chunk(0, 8, round=round))
    assert box.take_part(round, SENDER) == (None, False)
    assert not box.has(round, SENDER)


def take_whole(box: Inbox, round: int, sender: int) -> None:
    assert box.add(chunk(0, SIZE, round, sender))
    assert box.take_part(round, sender)[1]


def test_credit_is_granted_in_peer_order_to_as_many_as_the_window_has_places() -> None:
    box = inbox(last_round=2)

    def senders(round: int) -> Sequence[int]:
        return [11, 2, 7, 5, 3, 13]

    order = [(round, sender) for round in (1, 2) for sender in (2, 3, 5, 7, 11, 13)]
    assert grant(box, 1, senders) == order[:WINDOW]
    assert grant(box, 1, senders) == []
    for count, key in enumerate(order):
        assert grant(box, key[0], senders) == []
        box.add(chunk(0, 4, *key))
        box.take_part(*key)  # a part frees no place
        assert grant(box, key[0], senders) == []
        box.add(chunk(4, 8, *key))
        assert grant(box, key[0], senders) == []  # nor does one that nobody has taken
        assert box.take_part(*key)[1]
        assert grant(box, key[0], senders) == order[WINDOW + count : WINDOW + count + 1]
    assert grant(box, 2, senders) == []


def test_credit_goes_one_round_ahead_and_not_past_the_last() -> None:
    box = inbox(last_round=3)
    assert grant(box, 1) == [(1, SENDER), (2, SENDER)]  # two places stay free
    take_whole(box, 1, SENDER)
    assert grant(box, 1) == []
    assert grant(box, 2) == [(3, SENDER)]
    take_whole(box, 2, SENDER)
    assert grant(box, 2) == grant(box, 3) == []
    take_whole(box, 3, SENDER)
    assert grant(box, 3) == []


def test_credit_begins_at_the_first_round() -> None:
    box = inbox(last_round=9)

    def senders(round: int) -> Sequence[int]:
        return [4, 1, 8]

    assert grant(box, 5, senders) == [(5, 1), (5, 4), (5, 8), (6, 1)]
    assert not box.has(4, 1)
    for sender in (1, 4, 8):
        take_whole(box, 5, sender)
    assert grant(box, 5, senders) == [(6, 4), (6, 8)]
    assert grant(box, 6, senders) == [(7, 1)]


def test_nobody_sends() -> None:
    box = inbox(last_round=3)

    def senders(round: int) -> Sequence[int]:
        return []

    assert [grant(box, round, senders) for round in (1, 2, 3)] == [[], [], []]


def test_senders_differ_from_round_to_round() -> None:
    box = inbox(last_round=4)

    def senders(round: int) -> Sequence[int]:
        return {1: [2], 3: [9, 1], 4: [5]}.get(round, [])

    assert grant(box, 1, senders) == [(1, 2)]
    take_whole(box, 1, 2)
    assert grant(box, 2, senders) == [(3, 1), (3, 9)]
    assert grant(box, 3, senders) == [(4, 5)]


def test_who_has_credit_or_was_dropped_gets_none() -> None:
    box = inbox(last_round=1)

    def senders(round: int) -> Sequence[int]:
        return [1, 2, 3]

    box.open(1, 2)
    box.drop(1, 3)
    assert grant(box, 1, senders) == [(1, 1)]
    box.drop(1, 2)
    assert box.missing(1, senders(1)) == {1}


def refuse_zero(pieces: Sequence[torch.Tensor], size: int) -> None:
    if any(bool((piece == 0).any()) for piece in pieces):
        raise ProtocolError(Refusal.INDICES, "a zero")


VARIABLE = Form({"x": replace(COMPRESSED, lengths=lambda size: (4 * size, 5), verify=refuse_zero)})


def compressed(offset: int, body: bytes, total: int) -> Message:
    header = Header(VERSION, "run", "chunk", SENDER, 1, "compressed", "layout", "x", offset, len(body), total=total)
    return Message(header, body)


@pytest.mark.parametrize("total", [5, 4 * SIZE])
def test_a_vector_of_variable_length_is_whole_at_the_end_that_its_chunks_say(total: int) -> None:
    box = granted(VARIABLE)
    assert not box.add(compressed(0, b"abc", total))
    assert box.take(1, SENDER) is None
    assert box.add(compressed(3, b"x" * (total - 3), total))
    assert bytes(int(value) for value in values(box.take(1, SENDER))) == b"abc" + b"x" * (total - 3)
    assert box.add(compressed(3, b"x" * (total - 3), total)), "its last chunk, again, is acknowledged again"


@pytest.mark.parametrize("total", [4, 6, 33, 1 << 40])
def test_another_length_than_the_algorithms_is_refused_before_anything_is_kept(total: int) -> None:
    box = granted(VARIABLE)
    with pytest.raises(ProtocolError, match=f"length: a vector of {total} bytes"):
        box.add(compressed(0, b"abc", total))


def test_the_length_of_a_vector_does_not_change_from_chunk_to_chunk() -> None:
    box = granted(VARIABLE)
    box.add(compressed(0, b"abc", 5))
    with pytest.raises(ProtocolError, match="length: another length than the chunk before"):
        box.add(compressed(3, b"x", 4 * SIZE))


def test_a_vector_that_cannot_be_decoded_is_refused_when_it_is_whole() -> None:
    box = granted(VARIABLE)
    box.add(compressed(0, b"ab\0", 5))
    with pytest.raises(ProtocolError, match="indices: a zero"):
        box.add(compressed(3, b"de", 5))
    box.drop(1, SENDER)
    holds_nothing(box)


def test_a_vector_in_tiny_chunks_is_refused_before_they_cost_memory() -> None:
    box = granted(Form({"x": replace(COMPRESSED, lengths=lambda size: (200,))}))
    for offset in range(MORE_CHUNKS + 1):
        assert not box.add(compressed(offset, b"x", 200))
    with pytest.raises(ProtocolError, match="length: a vector in more than 65 chunks"):
        box.add(compressed(MORE_CHUNKS + 1, b"x", 200))
