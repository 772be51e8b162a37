"""One peer by itself: what it does when, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.helpers import matrix, schedules_of
from tests.support.one_peer import (
    CONTEXT,
    SIZE,
    X,
    chunk,
    edge_down,
    finish_round,
    greeted,
    hello,
    message,
    news,
    peer_zero,
    sends,
)

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.errors import Refusal
from p2pfl.protocol.events import (
    Action,
    Finish,
    Flushed,
    Note,
    Reconnected,
    Recorded,
    Refused,
    RoundDone,
    Send,
    Started,
    Train,
    Trained,
)
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.wire import MAX_ROUND

W = [float(weight) for weight in matrix("ring", 4)[0]]
AFTER_ONE_ROUND = W[0] * X + W[1] + W[3]  # the neighbors' vectors are ones


def test_a_whole_run_action_by_action() -> None:
    peer = peer_zero()
    assert sends(peer.handle(Started(), 0.0)) == [("hello", 1, 1), ("hello", 3, 1)]
    assert peer.handle(message("hello", 3, 1), 0.0) == []
    began = peer.handle(message("hello", 1, 1), 0.0)
    assert [action for action in began if isinstance(action, Train)] == [Train(1)]
    assert sends(began) == [("grant", 1, 1), ("grant", 3, 1), ("grant", 1, 2), ("grant", 3, 2)]
    assert peer.handle(message("grant", 3, 1), 1.0) == []  # nothing to send yet
    assert sends(peer.handle(Trained(), 2.0)) == [("chunk", 3, 1)]
    assert sends(peer.handle(message("grant", 1, 1), 2.0)) == [("chunk", 1, 1)]
    assert peer.handle(message("grant", 1, 2), 2.0) == []  # leave for later sends nothing again
    assert sends(peer.handle(chunk(3, 1), 2.0)) == [("ack", 3, 1)]
    assert peer.handle(message("ack", 1, 1), 2.0) == []
    done = peer.handle(chunk(1, 1), 2.0)
    assert sends(done)[0] == ("ack", 1, 1)
    assert done[-1] == RoundDone(1)
    assert set(peer.payloads) == {1, 3}
    assert Train(2) in peer.handle(Recorded(), 3.0)
    assert sends(peer.handle(Trained(), 4.0)) == []  # 3 has not acknowledged, so the buffer must not change
    peer.handle(message("ack", 3, 1), 4.0)
    assert peer.wants_flush
    peer.handle(Flushed(), 4.0)
    finish_round(peer, 2, 5.0)
    peer.handle(Recorded(), 5.0)
    assert peer.round == 3  # mixing only: no Train
    finish_round(peer, 3, 6.0)
    end = peer.handle(Recorded(), 6.0)
    assert sends(end) == [("goodbye", 1, 3), ("goodbye", 3, 3)]
    assert end[-1] == Finish()
    assert not peer.refused


def test_overlapped_sends_before_it_trains() -> None:
    peer = peer_zero(training=DPSGD(overlapped=True))
    peer.handle(Started(), 0.0)
    peer.handle(message("grant", 3, 1), 0.0)
    peer.handle(message("hello", 1, 1), 0.0)
    actions = peer.handle(message("hello", 3, 1), 0.0)
    assert ("chunk", 3, 1) in sends(actions)
    assert actions.index(Train(1)) > [isinstance(action, Send) for action in actions].index(True)
    for sender in (1, 3):
        peer.handle(chunk(sender, 1), 0.0)
    assert peer.stage == "working"
    assert peer.handle(Trained(), 1.0)[-1] == RoundDone(1)


# What is refused

WRONG = {
    "other run": (chunk(1, 1, run="another"), "run: another run, or a swarm with other settings, from 1"),
    "other run's hello": (
        message("hello", 1, 1, run="another"),
        "run: another run, or a swarm with other settings, from 1",
    ),
    "stranger": (chunk(2, 1), "sender: no neighbor, from 2"),
    "itself": (chunk(0, 1), "sender: no neighbor, from 0"),
    "stranger's goodbye": (message("goodbye", 999_999, 1), "sender: no neighbor, from 999999"),
    "other layout": (chunk(1, 1, layout="wider"), "layout: another model, from 1"),
    "other codec": (chunk(1, 1, codec="bf16"), "codec: bf16 instead of fp32, from 1"),
    "other vector": (chunk(1, 1, vector="y"), "vector: there is no 'y' here, from 1"),
    "beyond the end": (chunk(1, 1, offset=4), "length: the vector is longer than the model, from 1"),
    "too long": (chunk(1, 1, stop=SIZE + 1), "length: the vector is longer than the model, from 1"),
    "gap": (chunk(1, 1, start=4), "offset: 16 is not the next chunk, from 1"),
    "no leave yet": (chunk(1, 3), "round: a chunk of round 3 without credit, from 1"),
    "stale round": (chunk(1, 0), "round: a chunk of round 0 without credit, from 1"),
    "far future": (chunk(1, MAX_ROUND), "round: a chunk of round 1000000000 without credit, from 1"),
    "leave for the far future": (message("grant", 1, MAX_ROUND), "round: credit for round 1000000000, from 1"),
    "leave after the end": (message("grant", 1, 4), "round: credit for round 4, from 1"),
    "no message": (Refused(Refusal.HEADER, "broken"), "header: broken"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_counted_and_changes_nothing(name: str) -> None:
    event, reason = WRONG[name]
    results = []
    for wrong in ([], [event]):
        peer = peer_zero()
        greeted(peer)
        for time in ("before", "after"):
            for number, unwanted in enumerate(wrong * 2):
                actions = peer.handle(unwanted, 1.0)
                first = time == "before" and number == 0
                if name == "gap" and first:
                    assert sends([actions.pop()]) == [("grant", 1, 1)]  # what was lost is asked for again, once
                loud = reason.startswith(("run:", "layout:"))  # a neighbor with other settings will not change them
                news = [Note(f"refused a message: {reason}", matters=loud)]
                assert actions == (news if first else [])  # said once, counted always
            if time == "before":
                peer.handle(Trained(), 1.0)
        assert peer.refused == ({reason.split(":")[0]: 4} if wrong else {})
        results.append(finish_round(peer, 1, 2.0))
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], AFTER_ONE_ROUND)


def test_a_hello_that_is_refused_greets_nobody() -> None:
    peer = peer_zero()
    peer.handle(Started(), 0.0)
    peer.handle(message("hello", 1, 1), 0.0)
    peer.handle(message("hello", 3, 1, layout="another"), 0.0)
    assert peer.stage == "greeting"
    assert peer.refused == {"layout": 1}


def test_chunks_before_the_greeting_are_refused_and_nothing_is_lost() -> None:
    peer = peer_zero()
    peer.handle(Started(), 0.0)
    assert peer.handle(chunk(1, 1), 0.0) != []
    assert peer.refused == {"round": 1}
    for sender in (1, 3):
        peer.handle(message("hello", sender, 1), 0.0)
    peer.handle(Trained(), 0.0)
    finish_round(peer, 1, 1.0)


def test_a_repeated_vector_is_acknowledged_again_and_folded_once() -> None:
    results = []
    for times in (1, 3):
        peer = peer_zero()
        greeted(peer)
        peer.handle(Trained(), 0.0)
        acknowledged = [sends(peer.handle(chunk(1, 1), 0.0))[:1] for _ in range(times)]
        assert acknowledged == [[("ack", 1, 1)]] * times
        results.append(finish_round(peer, 1, 1.0))
        acknowledged = [sends(peer.handle(chunk(1, 1), 0.0)) for _ in range(times)]
        assert acknowledged == [[("ack", 1, 1)]] * times  # its acknowledgement may have been lost
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], AFTER_ONE_ROUND)


def test_a_vector_that_waits_for_its_turn_is_safe_from_repetitions() -> None:
    peer = peer_zero()
    greeted(peer)
    for _ in range(2):
        assert sends(peer.handle(chunk(3, 1), 0.0)) == [("ack", 3, 1)]  # not folded yet: the peer trains
    assert peer.handle(chunk(3, 1, 0, 4), 0.0) == []  # the repetition breaks off
    peer.handle(Trained(), 0.0)
    assert peer.handle(chunk(1, 1), 0.0)[-1] == RoundDone(1)
    assert not peer.refused


def test_leave_is_kept_for_some_rounds_ahead_and_no_further() -> None:
    peer = peer_zero(replace(CONTEXT, training_rounds=99))
    greeted(peer)
    for round in range(
        1, 10
    ):  # after a partition a neighbor may be far ahead, and grants credit for the round where it waits
        assert peer.handle(message("grant", 1, round), 0.0) == []
    for round in (5, 9):
        assert peer.handle(message("grant", 1, round), 0.0) == []
    refused = "refused a message: round: credit for round 10 beside too many others, from 1"
    assert peer.handle(message("grant", 1, 10), 0.0) == [Note(refused)]
    assert peer.handle(message("grant", 3, 10), 0.0) == []


def test_a_vector_that_starts_again_in_the_middle_is_put_together_from_the_second_start() -> None:
    peer = peer_zero()
    greeted(peer)
    assert peer.handle(chunk(1, 1, 0, 4), 0.0) == []
    assert peer.handle(chunk(1, 1, 0, 4), 0.0) == []
    assert sends(peer.handle(chunk(1, 1, 4, 8), 0.0)) == [("ack", 1, 1)]
    peer.handle(Trained(), 0.0)
    torch.testing.assert_close(finish_round(peer, 1, 1.0), AFTER_ONE_ROUND)


def test_what_is_next_in_order_is_added_as_it_comes_and_repetitions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    results, states, init = [], [], DPSGD.init

    def kept(*args: Any) -> Any:
        states.append(init(*args))
        return states[-1]

    monkeypatch.setattr(DPSGD, "init", kept)
    for repeated in (False, True):
        peer = peer_zero()
        greeted(peer)
        peer.handle(Trained(), 0.0)
        mixed = states[-1].buffers.mixed.zero_()
        assert peer.handle(chunk(3, 1, 0, 4), 0.0) == []
        assert torch.equal(mixed, torch.zeros(SIZE))  # it is peer 1's turn
        assert peer.handle(chunk(1, 1, 0, 4), 0.0) == []
        torch.testing.assert_close(mixed[:4], W[0] * X[:4] + W[1])
        assert torch.equal(mixed[4:], torch.zeros(SIZE - 4))
        if repeated:
            before = mixed.clone()
            assert ("grant", 1, 1) in sends(peer.handle(Reconnected(1), 0.0))
            assert peer.handle(chunk(1, 1, 0, 4), 0.0) == []
            assert torch.equal(mixed, before)
        assert ("ack", 1, 1) in sends(peer.handle(chunk(1, 1, 4, 8), 0.0))
        assert ("ack", 3, 1) in sends(peer.handle(chunk(3, 1, 4, 8), 0.0))
        assert sends(peer.handle(chunk(1, 1, 4, 8), 0.0)) == [("ack", 1, 1)]
        results.append(mixed.clone())
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], AFTER_ONE_ROUND)


def test_a_broken_link_is_told_everything_again() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 0.0)
    peer.handle(message("grant", 1, 1), 0.0)
    peer.handle(chunk(1, 2), 0.0)  # 1 has been told that its next vector is here, but did it hear?
    again = sends(peer.handle(Reconnected(1), 0.0))
    assert again == [("hello", 1, 1), ("grant", 1, 1), ("ack", 1, 2), ("chunk", 1, 1)]
    peer.handle(message("ack", 1, 1), 0.0)
    assert ("chunk", 1, 1) not in sends(peer.handle(Reconnected(1), 0.0))


# Resuming


def test_a_neighbor_one_round_behind_gets_what_it_missed() -> None:
    donor = peer_zero()
    greeted(donor)
    donor.handle(Trained(), 0.0)
    finish_round(donor, 1, 1.0)
    peer = peer_zero(replace(CONTEXT, first_round=2, pending_payloads={1: donor.payloads}))
    assert sends(peer.handle(Started(), 0.0)) == [("hello", 1, 1), ("hello", 3, 1)]  # from round 1 on, if need be
    peer.handle(hello(1, 1, needs=1), 0.0)
    peer.handle(message("grant", 1, 1), 0.0)
    again = sends(peer.handle(hello(3, 1, needs=2), 0.0))
    assert ("chunk", 1, 1) in again
    assert ("chunk", 3, 1) not in again


def test_a_neighbor_one_round_ahead_is_not_waited_for() -> None:
    peer = peer_zero()
    peer.handle(Started(), 0.0)
    peer.handle(hello(1, 1, needs=2), 0.0)
    peer.handle(hello(3, 1), 0.0)
    peer.handle(message("grant", 3, 1), 0.0)
    assert sends(peer.handle(Trained(), 0.0)) == [("chunk", 3, 1)]
    for sender in (1, 3):
        peer.handle(chunk(sender, 1), 0.0)
    peer.handle(message("ack", 3, 1), 0.0)
    assert set(peer.payloads) == {1, 3}  # its checkpoint has both all the same
    peer.handle(Recorded(), 1.0)
    peer.handle(Flushed(), 1.0)
    peer.handle(message("grant", 1, 2), 1.0)
    assert ("chunk", 1, 2) in sends(peer.handle(Trained(), 1.0))


BEHIND = replace(CONTEXT, training_rounds=30, max_missing=1)


def training(actions: list[Action]) -> list[int]:
    return [action.round for action in actions if isinstance(action, Train)]


def continue_without(peer: Peer, round: int) -> list[Action]:
    """Neighbor 1 has continued without the peer, and is in a later round."""
    actions = peer.handle(edge_down(1), 1.0)
    return actions + peer.handle(hello(1, round, epoch=2, heard=2, needs=round, round=round), 1.0)


def test_a_peer_that_was_left_behind_jumps_when_what_it_has_sent_is_acknowledged() -> None:
    """Neighbor 3 slept with it; a jump would lose that it has this round's vector."""
    peer = peer_zero(BEHIND)
    greeted(peer)
    peer.handle(chunk(3, 1), 1.0)
    actions = [*continue_without(peer, 20), *peer.handle(Trained(), 1.0), *peer.handle(message("grant", 3, 1), 1.0)]
    assert ("chunk", 3, 1) in sends(actions)
    assert not any(isinstance(action, RoundDone) for action in actions)
    last = peer.handle(message("ack", 3, 1), 1.0)
    assert [action.round for action in last if isinstance(action, RoundDone)] == [1]
    assert training(peer.handle(Recorded(), 1.0)) == [20]


def test_a_peer_that_hears_while_it_records_that_it_was_left_behind_jumps_a_round_later() -> None:
    peer = peer_zero(BEHIND)
    greeted(peer)
    for event in (chunk(1, 1), chunk(3, 1), Trained(), message("grant", 3, 1)):
        peer.handle(event, 1.0)
    continue_without(peer, 6)
    assert training(peer.handle(Recorded(), 1.0)) == [2]
    ack = message("ack", 3, 1)
    for event in (ack, Flushed(), chunk(3, 2), Trained(), message("grant", 3, 2), message("ack", 3, 2)):
        peer.handle(event, 1.0)
    assert training(peer.handle(Recorded(), 1.0)) == [6]


@pytest.mark.parametrize("neighbors", [2, 4, 5, 7])
def test_a_peer_without_weights_takes_over_its_neighbors_however_many_they_are(neighbors: int) -> None:
    """Only four vectors may be outstanding: each that has come makes room for another."""
    n = neighbors + 1
    context = replace(
        CONTEXT,
        names=[str(k) for k in range(n)],
        links=frozenset(range(1, n)),
        first_round=2,
        needs_bootstrap=True,
        is_rejoining=True,
    )
    x = torch.zeros(SIZE)
    peer = Peer(context, schedules_of(matrix("complete", n))[0], x, DPSGD(), Chebyshev(1 / 3))
    waiting, granted, done = peer.handle(Started(), 0.0), Counter[int](), []
    while waiting:
        action, *waiting = waiting
        if isinstance(action, Send) and action.message.header.kind == "hello":
            heard = action.message.header.scalars["epoch"]
            waiting += peer.handle(hello(action.neighbor, 2, epoch=1, heard=heard, needs=3, round=2), 0.0)
        elif isinstance(action, Send) and (action.message.header.kind, action.message.header.round) == ("grant", 2):
            granted[action.neighbor] += 1
            waiting += peer.handle(chunk(action.neighbor, 2), 0.0)
        elif isinstance(action, RoundDone):
            done.append(action.round)
    assert done == [2]
    assert set(granted) == set(range(1, n))
    assert torch.equal(x, torch.ones(SIZE))


def test_a_restarted_peer_does_not_take_a_greeting_to_its_earlier_start_for_an_answer() -> None:
    """Neighbors that connect to its new address confirm the edges that they know."""
    first = 2 << 18
    context = replace(CONTEXT, training_rounds=9, needs_bootstrap=True, is_rejoining=True, incarnation=first)
    peer = peer_zero(context)
    peer.handle(Started(), 0.0)
    for neighbor in (1, 3):
        assert peer.handle(hello(neighbor, 1, epoch=5, heard=(1 << 18) + 1, needs=1, round=3), 0.0) == []
    answers = [peer.handle(hello(neighbor, 3, epoch=6, heard=first, needs=3, round=3), 0.0) for neighbor in (1, 3)]
    assert news(answers[0] + answers[1]) == ["goes straight to round 3, where its neighbors are"]
