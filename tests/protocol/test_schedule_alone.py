"""One peer on a schedule: whom it waits for, and how far behind it may be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.one_peer import CONTEXT, X, chunk, greeted, hello, message, sends

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.events import Flushed, Lost, Received, Recorded, RoundDone, Started, Train, Trained
from p2pfl.protocol.peer import Peer
from p2pfl.topology import Neighborhood

ROUNDS = 8
SCHEDULED = replace(CONTEXT, training_rounds=ROUNDS, consensus_rounds=0, period=4, max_missing=1)


def neighborhood_in(round: int) -> Neighborhood:
    """Neighbor 3 in every fourth round, else neighbor 1."""
    weights = {3 if round % 4 == 0 else 1: 0.5}
    return Neighborhood(0, 0.5, weights, weights)


def peer_zero(context: PeerContext = SCHEDULED) -> Peer:
    return Peer(context, neighborhood_in, X.clone(), DPSGD(), Chebyshev(0.0))


def do_round(peer: Peer, round: int, sender: int) -> bool:
    """A round with the vector of one neighbor; whether it was done."""
    actions = peer.handle(Trained(), 1.0)
    for event in (message("grant", sender, round), chunk(sender, round), message("ack", sender, round), Flushed()):
        actions += peer.handle(event, 1.0)
    if RoundDone(round) not in [replace(a, x=None) for a in actions if isinstance(a, RoundDone)]:
        return False
    peer.handle(Recorded(), 1.0)
    return True


def test_only_neighbors_of_the_round_are_waited_for_and_served() -> None:
    peer = peer_zero()
    greeted(peer)
    for number in (1, 2, 3):
        assert do_round(peer, number, 1)
    assert peer.round == 4
    assert sends(peer.handle(message("grant", 3, 4), 1.0) + peer.handle(Trained(), 1.0)) == [("chunk", 3, 4)]
    peer.handle(chunk(3, 4), 1.0)
    peer.handle(message("ack", 3, 4), 1.0)
    peer.handle(Recorded(), 1.0)
    assert peer.round == 5


@pytest.mark.parametrize("period", [4, 1])
def test_a_neighbor_whose_end_is_heard_of_after_its_return_is_waited_for(period: int) -> None:
    """Neighbor 3 is to be back in round 2; its end is heard of in round 3."""
    peer = peer_zero(replace(SCHEDULED, period=period, expected_returns={3: frozenset({2})}))
    greeted(peer)
    for number in (1, 2):
        assert do_round(peer, number, 1)
    said = sends(peer.handle(Lost(3), 2.0))
    assert ("edge_down", 3, 0) in said
    assert any(kind == "hello" for kind, *_ in said) == (period > 1)
    assert do_round(peer, 3, 1)
    if period > 1:
        peer.handle(hello(3, 2, epoch=2**20, needs=2, round=2), 3.0)
        assert do_round(peer, 4, 3), "it is back, and was missed in no round"
        assert "hello" not in [kind for kind, *_ in sends(peer.handle(Lost(3), 4.0))], "it is waited for only once"


@pytest.mark.parametrize(
    ("theirs", "is_rejoining", "round"), [(7, False, 1), (8, False, 8), (2, True, 1), (3, True, 3)]
)
def test_a_peer_that_starts_jumps_only_where_it_has_missed_something(
    theirs: int, is_rejoining: bool, round: int
) -> None:
    """A neighbor may be ahead by the rounds without an edge, and two.

    Not for a peer that restarts alone.
    """
    peer = peer_zero(replace(SCHEDULED, is_rejoining=is_rejoining))
    peer.handle(Started(), 0.0)
    greetings = [hello(1, theirs, round=theirs), hello(3, theirs, round=theirs)]
    began = [action for greeting in greetings for action in peer.handle(greeting, 0.0)]
    assert isinstance(greetings[0], Received)
    assert [action.round for action in began if isinstance(action, Train)] == [round]
