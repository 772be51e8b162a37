"""Check of reachability in memory: what each peer knows of the two directions."""

from __future__ import annotations

from collections.abc import Collection

from p2pfl.protocol import events as ev
from p2pfl.protocol.reachability import REPEAT_SECONDS, Reachability
from p2pfl.protocol.wire import Message, decode, encode

RUN = "check-1"


def arrived(message: Message) -> ev.Received:
    return ev.Received(decode(encode(message)), 0)


def exchanged(peers: dict[int, Reachability], cut: Collection[tuple[int, int]] = (), since: int = 0) -> None:
    """Three ticks, in which all messages arrive but those along `cut`."""
    for tick in range(since, since + 3):
        waiting = [(me, send) for me, peer in peers.items() for send in peer.tick(REPEAT_SECONDS * tick)]
        while waiting:
            sender, send = waiting.pop(0)
            if send.neighbor in peers and (sender, send.neighbor) not in cut:
                answers = peers[send.neighbor].handle(arrived(send.message))
                waiting += [(send.neighbor, answer) for answer in answers]


def pair() -> dict[int, Reachability]:
    return {0: Reachability(0, {1}, RUN), 1: Reachability(1, {0}, RUN)}


def test_both_ways() -> None:
    peers = pair()
    exchanged(peers)
    assert [peers[me].heard for me in (0, 1)] == [{1}, {0}]
    assert peers[0].is_reached(1, is_admitted=False)
    assert peers[1].is_reached(0, is_admitted=False), "no open connection is needed to know it"


def test_one_way_is_noticed_at_both_ends() -> None:
    peers = pair()
    exchanged(peers, cut={(0, 1)})
    assert (peers[0].heard, peers[1].heard) == ({1}, set())
    assert not peers[0].is_reached(1, is_admitted=True), "it says that it does not hear"
    assert not peers[1].is_reached(0, is_admitted=True)
    exchanged(peers, since=3)
    assert peers[0].is_reached(1, is_admitted=True)


def test_messages_are_repeated_in_time_and_not_more_often() -> None:
    peer = Reachability(0, {1, 2}, RUN)
    assert [send.neighbor for send in peer.tick(5.0)] == [1, 2]
    assert peer.tick(5.0 + REPEAT_SECONDS / 2) == []
    assert len(peer.tick(5.0 + REPEAT_SECONDS)) == 2


def test_a_neighbor_at_work_is_reached_where_it_admits() -> None:
    peer, other = Reachability(0, {1}, RUN), Reachability(1, {0}, "the run itself")
    [send] = other.tick(0.0)
    assert len(peer.handle(arrived(send.message))) == 1
    assert peer.working == {1}
    assert peer.is_reached(1, is_admitted=True)
    assert not peer.is_reached(1, is_admitted=False)


def test_strangers_and_other_events_change_nothing() -> None:
    peer, stranger = Reachability(0, {1}, RUN), Reachability(7, {0}, RUN)
    [send] = stranger.tick(0.0)
    assert peer.handle(arrived(send.message)) == []
    assert peer.handle(ev.Lost(1)) == []
    assert peer.heard == set()
