"""State of the directory service: neighbors only, news only, last process only."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.entries import RUN, entry

from p2pfl.rendezvous.entry import Entry, Identity
from p2pfl.rendezvous.state import DirectoryState
from p2pfl.rendezvous.wire import (
    REQUEST_BYTES,
    Announce,
    Neighbors,
    Refused,
    Withdraw,
    answer_bytes,
    decode_answer,
    decode_request,
    encode,
)

PATH = {0: frozenset({1}), 1: frozenset({0, 2}), 2: frozenset({1})}


class Peer:
    """A peer that asks as the client does."""

    def __init__(self, state: DirectoryState, own: Entry) -> None:
        self.state, self.own, self.number = state, own, 0
        self.service, self.revision = "", 0

    def ask(self) -> Neighbors:
        self.number += 1
        answer = self.state.handle(self.own.peer, Announce(self.number, self.own, self.service, self.revision))
        assert isinstance(answer, Neighbors), answer
        assert answer.number == self.number
        self.service, self.revision = answer.service, answer.revision
        return answer

    def entries(self) -> tuple[Entry, ...]:
        return self.ask().entries


def directory() -> DirectoryState:
    return DirectoryState(RUN.topology, PATH)


def test_a_peer_learns_its_neighbors_entries_once_each() -> None:
    state = directory()
    zero, one, two = (Peer(state, entry(peer)) for peer in range(3))
    assert zero.entries() == ()
    assert two.entries() == ()
    assert one.entries() == (entry(0), entry(2))
    assert one.entries() == ()
    assert zero.entries() == (entry(1),), "not that of peer 2, which is no neighbor"
    assert zero.entries() == ()
    moved = entry(1, "tcp://10.0.0.9:7001")
    one.own = moved
    one.ask()
    assert zero.entries() == (moved,)
    assert [state.entry(peer) for peer in PATH] == [entry(0), moved, entry(2)]
    assert state.announced == 3


def test_a_restarted_peer_replaces_its_entry_and_a_forgotten_process_does_not_undo_it() -> None:
    state = directory()
    zero, old = Peer(state, entry(0)), Peer(state, entry(1))
    old.ask()
    new = Peer(state, entry(1, "tcp://10.0.0.7:7000", process="the new one"))
    assert not new.ask().is_superseded
    assert old.ask().is_superseded
    assert zero.entries() == (new.own,)
    state.handle(1, Withdraw(1, old.own.process))
    assert state.entry(1) == new.own, "it withdraws only what is its own"
    state.handle(1, Withdraw(1, new.own.process))
    assert state.entry(1) is None
    assert state.announced == 1
    assert Peer(state, entry(0, process="process-0")).entries() == ()


def test_a_service_that_was_restarted_is_told_all_again_and_tells_all() -> None:
    state = directory()
    zero, one = Peer(state, entry(0)), Peer(state, entry(1))
    one.ask()
    assert zero.entries() == (entry(1),)
    zero.state = one.state = directory()
    assert zero.entries() == ()
    one.ask()
    assert zero.entries() == (entry(1),)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": 2}, "format 2 instead of 1; install the same p2pfl everywhere"),
        ({"identity": Identity("another", RUN.settings)}, "it serves another topology; start it and all peers with"),
        ({"peer": 2}, "the entry is of another peer than the connection"),
    ],
)
def test_what_will_never_be_taken_is_refused(changed: dict[str, object], reason: str) -> None:
    state = directory()
    answer = state.handle(1, Announce(7, msgspec.structs.replace(entry(1), **changed)))
    assert isinstance(answer, Refused)
    assert (answer.number, answer.reason[: len(reason)]) == (7, reason)
    assert state.announced == 0


def test_messages_are_typed_and_bounded() -> None:
    longest = entry(1, f"tcp://{'h' * 280}:7000", public_key="k" * 40, identity=Identity("t" * 64, "s" * 64, "é" * 200))
    request = Announce(1, longest, "s" * 64, 2**53 - 1)
    assert decode_request(encode(request)) == request
    assert len(encode(request)) <= REQUEST_BYTES
    answer = Neighbors(1, "s" * 64, 2**53 - 1, (longest,) * 9, True)
    assert decode_answer(encode(answer)) == answer
    assert len(encode(answer)) <= answer_bytes(9)
    for bad in (b"", b"\xc1", b"\x80" * 4000, encode(request)[:-1], encode(answer), b"\x91" * 3000, encode(longest)):
        assert decode_request(bad) is None
    for bad in (b"", encode(request), encode(answer) + b"\0"):
        assert decode_answer(bad) is None
