"""Credit of one peer: at most four vectors are outstanding.

Also when neighbors fail and rejoin meanwhile.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.support.helpers import matrix, schedules_of
from tests.support.one_peer import CONTEXT, SIZE, chunk, hello, message, sends

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol.events import Action, Flushed, Lost, Reconnected, Started, Trained
from p2pfl.protocol.inbox import WINDOW
from p2pfl.protocol.peer import Peer

NEIGHBORS = (1, 2, 3, 4, 5, 6)


class Watched:
    """Peer 0 of a complete graph of seven, in its first round.

    It is in training; watched is the credit that it has granted.
    """

    def __init__(self) -> None:
        context = replace(
            CONTEXT, names=[str(peer) for peer in range(7)], links=frozenset(NEIGHBORS), max_missing=len(NEIGHBORS)
        )
        self.peer = Peer(context, schedules_of(matrix("complete", 7))[0], torch.zeros(SIZE), DPSGD(), Chebyshev(0.0))
        self.granted: list[tuple[int, int]] = []  # (round, sender), in order
        self.epochs = dict.fromkeys(NEIGHBORS, 1)
        self.tell(Started())
        for neighbor in NEIGHBORS:
            self.tell(hello(neighbor, 1, epoch=1, heard=1, needs=1))

    def tell(self, event: object) -> list[Action]:
        actions = self.peer.handle(event, 1.0)  # type: ignore[arg-type]
        for kind, neighbor, round in sends(actions):
            if kind == "grant" and (round, neighbor) not in self.granted:
                self.granted.append((round, neighbor))
        assert self.peer.channel.inbox.outstanding <= WINDOW
        return actions

    def deliver(self, sender: int) -> None:
        """A sender's whole vector of the first round."""
        self.tell(chunk(sender, 1))

    def lose(self, neighbor: int) -> None:
        self.tell(Lost(neighbor))
        self.granted = [key for key in self.granted if key[1] != neighbor]

    def come_back(self, neighbor: int) -> None:
        """Reconnect a neighbor, which answers the greeting that this brings."""
        greeting = [send for send in self.tell(Reconnected(neighbor)) if ("hello", neighbor) == sends([send])[0][:2]]
        (heard,) = (send.message.header.scalars["epoch"] for send in greeting)  # type: ignore[union-attr]
        self.epochs[neighbor] += 1
        self.tell(hello(neighbor, 1, epoch=self.epochs[neighbor], heard=heard, needs=1))

    def finish(self) -> None:
        """Finish training; every neighbor acknowledges, and sends what it has credit for."""
        self.tell(Trained())
        for neighbor in NEIGHBORS:
            self.tell(message("grant", neighbor, 1))
            self.tell(message("ack", neighbor, 1))
        self.tell(Flushed())
        while self.peer.stage == "working":
            due = [sender for round, sender in self.granted if round == 1]
            assert due, "nobody has credit, and the round is not complete"
            for sender in due:
                self.deliver(sender)
            self.granted = [key for key in self.granted if key not in {(1, sender) for sender in due}]
        assert self.peer.stage == "recording"


def test_a_sender_that_comes_back_finds_a_place_in_the_window() -> None:
    watched = Watched()
    assert watched.granted == [(1, 1), (1, 2), (1, 3), (1, 4)]
    watched.lose(1)
    watched.deliver(3)
    watched.deliver(4)  # which take their places until the vectors before theirs are folded
    watched.come_back(1)
    assert (1, 1) in watched.granted
    watched.finish()


def test_two_senders_that_come_back_find_places_one_after_the_other() -> None:
    watched = Watched()
    watched.lose(2)
    watched.lose(1)
    for sender in (3, 4):
        watched.deliver(sender)
    watched.come_back(2)
    watched.come_back(1)
    assert (1, 1) in watched.granted
    assert (1, 2) not in watched.granted, "its place comes when that of the first is folded"
    watched.finish()
    assert watched.peer.facts["absent"] is None


def test_a_sender_that_stays_away_holds_up_nobody() -> None:
    watched = Watched()
    watched.lose(1)
    watched.finish()
    assert watched.peer.facts["absent"] == ["1"]


@pytest.mark.parametrize(("away", "places"), [(6, WINDOW), (1, WINDOW - 1)])
def test_a_place_is_kept_in_the_next_round_for_a_sender_that_comes_before_the_others(away: int, places: int) -> None:
    watched = Watched()
    watched.tell(Trained())
    watched.lose(away)
    for sender in sorted({*NEIGHBORS} - {away}):
        watched.deliver(sender)
    assert len([round for round, _ in watched.granted if round == 2]) == places
