"""Timeouts of one peer: how long it waits, whom it names, who may vanish."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.support.one_peer import CONTEXT, chunk, finish_round, greeted, message, only_fail, peer_zero, sends

from p2pfl.algorithms import DPSGD
from p2pfl.protocol.events import (
    Action,
    Fail,
    Finish,
    Flushed,
    Lost,
    Note,
    Reconnected,
    Recorded,
    RoundDone,
    Started,
    Tick,
    Trained,
)
from p2pfl.protocol.peer import Peer


def fails(actions: list[Action]) -> bool:
    return any(isinstance(action, Fail) for action in actions)


def failure(actions: list[Action]) -> str:
    (reason,) = [action.reason for action in actions if isinstance(action, Fail)]
    return reason


def test_handshake_deadline_names_who_did_not_greet() -> None:
    peer = peer_zero()
    assert peer.deadline == math.inf  # not started: the start has its own deadline
    peer.handle(Started(), 100.0)
    peer.handle(message("hello", 1, 1), 120.0)
    assert peer.deadline == 101.0
    said = sends(peer.handle(Tick(), 121.0))
    assert said == [("heartbeat", 1, 0), ("hello", 3, 1)]  # the first may have got lost
    assert peer.deadline == 122.0
    assert not fails(peer.handle(Tick(), 159.9))
    reason = only_fail(peer.handle(Tick(), 160.0))
    assert reason == "no greeting for 60 s from peer three (--handshake-timeout)"
    assert peer.handle(Tick(), 1e9) == []


def test_first_round_deadline_counts_from_a_neighbors_last_message() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 50.0)
    peer.handle(chunk(1, 1), 60.0)
    peer.handle(message("grant", 1, 1), 60.0)
    peer.handle(message("ack", 1, 1), 60.0)
    peer.handle(message("heartbeat", 3, 0), 70.0)  # it is alive
    assert not fails(peer.handle(Tick(), 669.0))
    reason = failure(peer.handle(Tick(), 670.0))
    assert reason == "no progress for 600 s in round 1 from peer three (--first-round-timeout)"


def test_heartbeats_do_not_keep_a_peer_waiting_indefinitely() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 50.0)
    for second in range(100, 2450, 100):
        for sender in (1, 3):
            assert peer.handle(message("heartbeat", sender, 0), float(second)) == []
        assert not fails(peer.handle(Tick(), float(second)))
    assert failure(peer.handle(Tick(), 2450.0)).endswith("in round 1 from peer one, three (--first-round-timeout)")


def test_later_rounds_have_their_own_deadline() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 1.0)
    finish_round(peer, 1, 2.0)
    peer.handle(Recorded(), 2.5)
    peer.handle(Trained(), 3.0)  # ten times 2.5 s would be less than the 30 s
    peer.handle(chunk(3, 2), 4.0)
    assert not fails(peer.handle(Tick(), 32.9))
    reason = failure(peer.handle(Tick(), 34.0))
    assert reason == "no progress for 31 s in round 2 from peer one, three (--round-timeout)"  # 3 gave no leave


def test_a_slow_model_stretches_the_deadlines() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 100.0)
    assert not fails(peer.handle(Tick(), 1099.0))  # more than 600: others may be ten times as slow
    finish_round(peer, 1, 1100.0)
    peer.handle(Recorded(), 1110.0)
    peer.handle(Trained(), 1220.0)
    assert not fails(peer.handle(Tick(), 1220.0 + 10 * 1110.0 - 1))  # the slowest round so far
    assert fails(peer.handle(Tick(), 1220.0 + 10 * 1110.0))


def test_while_it_is_alive_it_says_so_about_once_a_second() -> None:
    peer = peer_zero()
    greeted(peer, 10.0)
    assert peer.deadline == 11.0
    assert peer.handle(Tick(), 10.9) == []
    assert sends(peer.handle(Tick(), 11.0)) == [("heartbeat", 1, 0), ("heartbeat", 3, 0)]
    assert peer.handle(Tick(), 11.5) == []
    assert peer.deadline == 12.0


def test_what_may_have_got_lost_is_asked_for_again() -> None:
    peer = peer_zero(replace(CONTEXT, timeouts=replace(CONTEXT.timeouts, first_round=100.0)))
    greeted(peer)
    peer.handle(message("grant", 1, 1), 0.0)
    peer.handle(Trained(), 0.0)
    peer.handle(message("ack", 1, 1), 0.0)
    peer.handle(chunk(1, 1), 2.0)
    said = [said for said in sends(peer.handle(Tick(), 7.0)) if said[0] != "heartbeat"]
    assert said == [("grant", 3, 1), ("grant", 3, 2)]
    assert [said for said in sends(peer.handle(Tick(), 8.0)) if said[0] != "heartbeat"] == []


def test_a_vector_goes_out_again_only_when_the_last_copy_is_gone() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 0.0)
    assert sends(peer.handle(message("grant", 3, 1), 1.0)) == [("chunk", 3, 1)]
    assert not peer.wants_flush
    assert peer.handle(message("grant", 3, 1), 7.0) == []  # a slow link has enough to do
    assert peer.wants_flush
    assert peer.handle(Flushed(), 8.0) == []  # it may have arrived by now
    assert not peer.wants_flush
    assert sends(peer.handle(message("grant", 3, 1), 12.0)) == [("chunk", 3, 1)]
    assert peer.handle(message("grant", 3, 1), 17.0) == []


def test_slow_chunks_are_given_their_time() -> None:
    peer = peer_zero(replace(CONTEXT, timeouts=replace(CONTEXT.timeouts, first_round=100.0)))
    greeted(peer)
    peer.handle(Trained(), 0.0)
    peer.handle(chunk(1, 1, 0, 2), 1.0)
    peer.handle(chunk(1, 1, 2, 4), 10.0)  # took nine seconds
    for now, asks in ((15.5, False), (36.9, False), (37.1, True)):
        assert (("grant", 1, 1) in sends(peer.handle(Tick(), now))) == asks


@pytest.mark.parametrize("overlapped", [False, True])
def test_no_neighbor_is_given_up_while_the_peer_trains_or_records(overlapped: bool) -> None:
    peer = peer_zero(training=DPSGD(overlapped))
    greeted(peer)
    assert {kind for kind, _, _ in sends(peer.handle(Tick(), 1e6))} == {"heartbeat"}
    peer.handle(Trained(), 1e6 + 1)
    finish_round(peer, 1, 1e6 + 2)
    assert {kind for kind, _, _ in sends(peer.handle(Tick(), 1e9))} == {"heartbeat"}


def in_the_last_round(peer: Peer) -> None:
    """Both neighbors have delivered; only peer 1 has acknowledged."""
    greeted(peer)
    for sender in (1, 3):
        peer.handle(message("grant", sender, 1), 1.0)
        peer.handle(chunk(sender, 1), 1.0)
    assert peer.handle(message("ack", 1, 1), 1.0) == []
    assert peer.stage == "working"


def test_the_last_round_waits_for_the_last_acknowledgement() -> None:
    peer = peer_zero(replace(CONTEXT, training_rounds=0, consensus_rounds=1))
    in_the_last_round(peer)
    assert RoundDone(1) not in peer.handle(Tick(), 600.0)
    actions = peer.handle(Tick(), 602.0)
    said = next(action.text for action in actions if isinstance(action, Note))
    assert "no progress for 601 s in round 1 from peer three (--first-round-timeout)" in said
    assert said.endswith("and only its last acknowledgement is missing; if it has failed, resume both)")
    assert actions[-1] == RoundDone(1), "its own work is done"


def test_goodbye_stands_for_a_lost_acknowledgement() -> None:
    peer = peer_zero(replace(CONTEXT, training_rounds=0, consensus_rounds=1))
    in_the_last_round(peer)
    assert peer.handle(message("goodbye", 3, 1), 2.0)[-1] == RoundDone(1)
    assert peer.handle(Recorded(), 2.0)[-1] == Finish()


# Lost neighbors


def test_a_lost_neighbor_ends_the_run_and_is_named() -> None:
    peer = peer_zero()
    greeted(peer)
    assert only_fail(peer.handle(Lost(3), 1.0)) == "lost the connection to peer three in round 1"
    assert peer.handle(chunk(1, 1), 2.0) == []


def test_a_neighbor_that_said_goodbye_may_vanish() -> None:
    peer = peer_zero(replace(CONTEXT, training_rounds=0, consensus_rounds=1))
    greeted(peer)
    peer.handle(chunk(3, 1), 1.0)
    peer.handle(message("goodbye", 3, 1), 1.0)
    assert peer.handle(Lost(3), 2.0) == []
    assert peer.handle(Reconnected(3), 2.0) == []
    assert only_fail(peer.handle(Lost(1), 3.0)) == "lost the connection to peer one in round 1"


def test_a_failure_says_by_a_code_and_by_numbers_which_neighbors_are_missed() -> None:
    def failing(peer: Peer, event: Tick | Lost, now: float) -> tuple[str | None, tuple[int, ...]]:
        (fail,) = (action for action in peer.handle(event, now) if isinstance(action, Fail))
        return fail.code, fail.peers

    alone = peer_zero()
    alone.handle(Started(), 0.0)
    alone.handle(message("hello", 1, 1), 0.0)
    assert failing(alone, Tick(), 60.0) == ("no-greeting", (3,))
    for event, now, code, peers in [(Tick(), 700.0, "no-progress", (1, 3)), (Lost(3), 1.0, "lost-connection", (3,))]:
        peer = peer_zero()
        greeted(peer)
        peer.handle(Trained(), 1.0)
        assert failing(peer, event, now) == (code, peers)
