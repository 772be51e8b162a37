"""Introduction: peers with own data learn the classes and sizes of all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.errors import ProtocolError
from p2pfl.protocol.events import Received, Reconnected, Send
from p2pfl.protocol.introduction import (
    AT_ONCE,
    REPEAT_SECONDS,
    Introducer,
    Introduction,
    Introductions,
    decode,
    digest_of,
    encode,
    is_too_long,
    united_classes,
)
from p2pfl.protocol.wire import VERSION, Header, Message
from p2pfl.protocol.wire import decode as decode_frames
from p2pfl.protocol.wire import encode as encode_frames
from p2pfl.topology import KINDS, Topology, make_topology


def about(peer: int) -> Introduction:
    return Introduction([f"class {peer % 3}", "every"], 10 + peer, [0.1 * peer, 0.0, 1.0], [1.0, 0.5, 0.25])


class Swarm:
    """All peers of a topology, with the messages that are on their way."""

    def __init__(self, topology: Topology, seed: int = 0, loss: float = 0.0) -> None:
        self.links = [frozenset(topology.graph.neighbors(peer)) for peer in range(topology.n)]
        self.peers = [Introductions(p, topology.n, self.links[p], "run", about(p)) for p in range(topology.n)]
        self.random, self.loss, self.now = random.Random(seed), loss, 0.0
        self.under_way: list[tuple[int, Message]] = []
        for peer in self.peers:
            self.send(peer.start(0.0))

    def send(self, sends: list[Send]) -> None:
        for one in sends:
            if self.random.random() >= self.loss:
                frames = encode_frames(one.message)
                self.under_way.append((one.neighbor, decode_frames([bytes(frame) for frame in frames])))

    def run(self) -> None:
        for _ in range(10_000):
            if all(peer.is_done for peer in self.peers):
                return
            if not self.under_way:
                self.now += REPEAT_SECONDS
                for peer in self.peers:
                    self.send(peer.tick(self.now))
                continue
            receiver, message = self.under_way.pop(self.random.randrange(len(self.under_way)))
            self.send(self.peers[receiver].handle(Received(message), self.now))
        raise AssertionError("the introduction does not end")


undirected = st.sampled_from([kind for kind in sorted(KINDS) if kind in ("ring", "path", "star", "complete")])


@settings(deadline=None, max_examples=40)
@given(undirected, st.integers(3, 9), st.integers(0, 99), st.sampled_from([0.0, 0.3]))
def test_all_learn_the_same_of_all(kind: str, n: int, seed: int, loss: float) -> None:
    swarm = Swarm(make_topology(kind, n), seed, loss)
    swarm.run()
    expected = {peer: about(peer) for peer in range(n)}
    for peer in swarm.peers:
        assert peer.known == expected
        assert peer.missing == []
    assert united_classes(expected) == (*(f"class {number}" for number in range(3)), "every")
    assert len({digest_of(peer.known) for peer in swarm.peers}) == 1


def test_a_peer_waits_for_the_farthest_one() -> None:
    swarm = Swarm(make_topology("path", 4))
    swarm.under_way = [(to, message) for to, message in swarm.under_way if message.header.sender != 3]
    while swarm.under_way:
        receiver, message = swarm.under_way.pop(0)
        if receiver != 3:  # which has not started
            swarm.send(swarm.peers[receiver].handle(Received(message), 0.0))
    assert not any(peer.is_done for peer in swarm.peers)
    assert swarm.peers[0].missing == [3]


def test_a_neighbor_that_greets_already_knows_all() -> None:
    two = Introductions(0, 2, [1], "run", about(0))
    body = encode(about(1))
    two.handle(Received(Message(Header(VERSION, "run", "introduction", 1, 1, length=len(body)), body)), 0.0)
    assert two.missing == [1], "whether it has heard of this peer is not known"
    two.handle(Received(Message(Header(VERSION, "run", "hello", 1, 1))), 0.0)
    assert two.is_done


def test_messages_that_do_not_belong_here_change_nothing() -> None:
    two = Introductions(0, 2, [1], "run", about(0))
    body, bad = encode(about(1)), b"\x93\x90\x01\x02"
    for run, sender, subject, content in [
        ("other", 1, 1, body),
        ("run", 5, 1, body),
        ("run", 1, 7, body),
        ("run", 1, 1, bad),
        ("run", 1, 0, body),  # about this peer itself, by another
    ]:
        message = Message(Header(VERSION, run, "introduction", sender, subject, length=len(content)), content)
        answers = two.handle(Received(message), 0.0)
        assert bool(answers) == (subject == 7), "a neighbor is heard for the first time"
    assert two.known == {0: about(0)}
    assert [one.neighbor for one in two.handle(Reconnected(1), 0.0)] == [1], "lost messages are said again"


def introduced(by: int, subject: int, what: Introduction, known: float = 1.0) -> Received:
    body = encode(what)
    header = Header(VERSION, "run", "introduction", by, subject, length=len(body), scalars={"known": known})
    return Received(Message(header, body))


def test_of_a_neighbor_only_its_own_word_counts() -> None:
    three = Introductions(0, 3, [1, 2], "run", about(0))
    three.handle(introduced(1, 2, Introduction(["forged"], 1, [0.0] * 3, [1.0] * 3)), 0.0)
    assert 2 not in three.known
    three.handle(introduced(2, 2, about(2)), 0.0)
    assert three.known[2] == about(2)


@pytest.mark.parametrize("n", [3, 200])
def test_a_peer_that_starts_when_all_are_at_work_learns_all(n: int) -> None:
    """Such as one that has lost its folder: a peer at work passes on what it knows."""
    known = {peer: about(peer) for peer in range(n)}
    late, answering = Introductions(0, n, [1], "run", about(0)), Introducer(1, {0, 2}, "run", known)
    now, sends = 0.0, late.start(0.0)
    for _ in range(10):
        own = [send.message.header for send in sends if send.message.header.round == 0]
        answers = [answer for header in own for answer in answering.answer(header)]
        assert len(answers) <= (AT_ONCE + 1) * len(own)
        for answer in answers:
            late.handle(Received(answer.message), now)
        if late.is_done:
            break
        now += REPEAT_SECONDS
        sends = late.tick(now)
    assert late.is_done
    assert late.known == known
    assert answering.answer(Header(VERSION, "other", "introduction", 0, 0)) == []
    assert answering.answer(Header(VERSION, "run", "introduction", 2, 0)) == [], "not its own word"


@pytest.mark.parametrize(
    "odd",
    [
        Introduction([], 1, [0.0] * 3, [1.0] * 3),
        Introduction(["a"], 0, [0.0] * 3, [1.0] * 3),
        Introduction(["a"], 1, [0.0] * 2, [1.0] * 3),
        Introduction(["a"], 1, [float("nan")] * 3, [1.0] * 3),
        Introduction(["a" * 256], 1, [0.0] * 3, [1.0] * 3),
        Introduction(["\x1b[2J"], 1, [0.0] * 3, [1.0] * 3),
        Introduction(["a"], 1, [1e200] * 3, [1.0] * 3),
    ],
)
def test_odd_descriptions_are_refused(odd: Introduction) -> None:
    with pytest.raises(ProtocolError):
        decode(encode(odd))


def test_what_can_be_sent_has_a_limit() -> None:
    assert not is_too_long(about(0))
    assert is_too_long(Introduction([f"{'x' * 200} {n}" for n in range(200)], 1, [0.0] * 3, [1.0] * 3))
