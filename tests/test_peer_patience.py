"""One peer by itself: how long it waits, whom it names when it gives up, and when a neighbor may vanish."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from one_peer import PLAN, chunk, finish_round, greeted, message, only_fail, peer_zero

from p2pfl.exchange import Finish, Lost, Reconnected, Recorded, RoundDone, Started, Tick, Trained
from p2pfl.gossip import DPSGD
from p2pfl.peer import Peer


def test_handshake_deadline_names_who_did_not_greet() -> None:
    peer = peer_zero()
    assert peer.deadline == math.inf  # not started: the start has a deadline of its own
    peer.handle(Started(), 100.0)
    peer.handle(message("hello", 1, 1), 120.0)
    assert peer.deadline == 160.0
    assert peer.handle(Tick(), 159.9) == []
    reason = only_fail(peer.handle(Tick(), 160.0))
    assert reason == "no greeting for 60 s from peer three (--handshake-timeout)"
    assert peer.handle(Tick(), 1e9) == []


def test_first_round_deadline() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 50.0)
    assert peer.deadline == 650.0
    peer.handle(chunk(1, 1), 60.0)  # a link that delivers is waited for anew
    peer.handle(message("grant", 1, 1), 60.0)
    peer.handle(message("ack", 1, 1), 60.0)
    assert peer.deadline == 660.0
    assert peer.handle(Tick(), 659.0) == []
    reason = only_fail(peer.handle(Tick(), 660.0))
    assert reason == "no progress for 600 s in round 1 from peer three (--first-round-timeout)"


def test_later_rounds_have_their_own_deadline() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 1.0)
    finish_round(peer, 1, 2.0)
    peer.handle(Recorded(), 2.5)
    peer.handle(Trained(), 3.0)
    assert peer.deadline == 33.0  # ten times 2.5 s would be less
    peer.handle(chunk(3, 2), 4.0)
    reason = only_fail(peer.handle(Tick(), 34.0))
    assert reason == "no progress for 30 s in round 2 from peer one, three (--round-timeout)"  # 3 gave no leave


def test_a_slow_model_stretches_the_deadlines() -> None:
    peer = peer_zero()
    greeted(peer)
    peer.handle(Trained(), 100.0)
    assert peer.deadline == 1100.0  # more than 600: others may be ten times as slow
    finish_round(peer, 1, 500.0)
    assert peer.deadline == math.inf
    peer.handle(Recorded(), 510.0)
    peer.handle(Trained(), 620.0)
    assert peer.deadline == 620.0 + 10 * 510.0  # the slowest round so far
    assert peer.handle(Tick(), 5719.0) == []


@pytest.mark.parametrize("overlapped", [False, True])
def test_no_deadline_while_the_peer_trains_or_records(overlapped: bool) -> None:
    peer = peer_zero(training=DPSGD(overlapped))
    greeted(peer)
    assert peer.deadline == math.inf
    assert peer.handle(Tick(), 1e12) == []
    peer.handle(Trained(), 1.0)
    finish_round(peer, 1, 2.0)
    assert peer.deadline == math.inf
    assert peer.handle(Tick(), 1e12) == []


def in_the_last_round(peer: Peer) -> None:
    """Both neighbors have delivered; only peer 1 has acknowledged."""
    greeted(peer)
    for sender in (1, 3):
        peer.handle(message("grant", sender, 1), 1.0)
        peer.handle(chunk(sender, 1), 1.0)
    assert peer.handle(message("ack", 1, 1), 1.0) == []
    assert peer.stage == "working"


def test_the_last_round_waits_for_the_last_acknowledgement() -> None:
    peer = peer_zero(replace(PLAN, training_rounds=0, consensus_rounds=1))
    in_the_last_round(peer)
    reason = only_fail(peer.handle(Tick(), 602.0))
    assert reason == "no progress for 601 s in round 1 from peer three (--first-round-timeout)"


def test_goodbye_stands_for_a_lost_acknowledgement() -> None:
    peer = peer_zero(replace(PLAN, training_rounds=0, consensus_rounds=1))
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
    peer = peer_zero(replace(PLAN, training_rounds=0, consensus_rounds=1))
    greeted(peer)
    peer.handle(chunk(3, 1), 1.0)
    peer.handle(message("goodbye", 3, 1), 1.0)
    assert peer.handle(Lost(3), 2.0) == []
    assert peer.handle(Reconnected(3), 2.0) == []
    assert only_fail(peer.handle(Lost(1), 3.0)) == "lost the connection to peer one in round 1"
