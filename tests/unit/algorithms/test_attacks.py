"""Attacks: their formulas, in their rounds, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.support.helpers import CPU, Driven, driven, images, matrix, random_vectors, small_config
from tests.support.one_client import CLIENT
from tests.support.one_peer import message, sends

from p2pfl.algorithms import DPSGD
from p2pfl.algorithms.attacks import Attacking, View, build_attack, flip_labels, relabeling, tampering
from p2pfl.algorithms.robust import Median, Robust
from p2pfl.errors import ConfigError
from p2pfl.payload import BF16
from p2pfl.protocol.client import Client
from p2pfl.protocol.events import Flushed, Recorded, Started, Trained
from p2pfl.registry import ATTACKS
from p2pfl.training import Trainer

SIZE = 33
SENT = [name for name in ATTACKS if name != "label-flip"]
X, C, M, S = random_vectors(4, 5)
VIEW = View(own=X, start=C, movement=M, spread=S.abs())


def always(round: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("sign-flip", None, -X),
        ("sign-flip", 3.0, -3 * X),
        ("a-little-is-enough", None, X - 1.5 * S.abs()),
        ("a-little-is-enough", 0.5, X - 0.5 * S.abs()),
        ("inner-product", None, C - M),
        ("inner-product", 0.25, C - 0.25 * M),
    ],
)
def test_attacks_are_their_formulas(name: str, scale: float | None, expected: torch.Tensor) -> None:
    attack = build_attack(name, scale)
    assert attack is not None
    kept = [x.clone() for x in (X, C, M)]
    torch.testing.assert_close(attack(VIEW), expected)
    assert all(torch.equal(a, b) for a, b in zip((X, C, M), kept, strict=True)), "what it knows is not written to"


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        (
            "sign",
            None,
            "attack: 'sign' is unknown; choose one of sign-flip, a-little-is-enough, inner-product, label-flip",
        ),
        ("sign-flip", 0.0, "scale: 0.0 must be a number above 0"),
        ("sign-flip", float("inf"), "scale: inf must be"),
        ("inner-product", float("nan"), "scale: nan must be"),
        ("label-flip", 2.0, "scale: 2.0, but label-flip has none"),
    ],
)
def test_what_is_no_attack_is_refused(name: str, scale: float | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_attack(name, scale)
    assert str(caught.value).startswith(message)


def swarm(inner: DPSGD, name: str, active: Callable[[int], bool]) -> tuple[list[Driven], list[torch.Tensor]]:
    """Peers of a ring of 4, of which peer 2 attacks, and their vectors."""
    attack = build_attack(name, 2.0)
    assert attack is not None
    vectors = random_vectors(4, SIZE)
    peers = driven(inner, matrix("ring", 4), vectors)
    hostile = Attacking(inner, attack, active)
    peers[2] = Driven(hostile, peers[2].schedule, hostile.init(vectors[2], peers[2].schedule))
    return peers, vectors


def one_round(peers: list[Driven], vectors: list[torch.Tensor], round: int, parts: int = 1) -> list[torch.Tensor]:
    """Returns what each peer sent."""
    sent = [peer.outgoing(round) for peer in peers]
    for me, peer in enumerate(peers):
        for sender in sorted([*peer.schedule(round).incoming, me]):
            if sender == me:
                peer.accumulate(me, peer.algorithm.own(peer.state))
                continue
            payload = sent[sender][me]
            for piece in payload.vectors["x"][0].tensor_split(parts):
                peer.accumulate(sender, type(payload)({"x": (piece,)}))
    vectors[:] = [peer.finish(round) for peer in peers]
    return [next(iter(payloads.values())).vectors["x"][0].float() for payloads in sent]


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SENT)
def test_an_attacker_knows_what_it_was_sent_in_the_last_round(name: str, codec: str) -> None:
    peers, vectors = swarm(DPSGD(wire_dtype=codec), name, always)
    attack = build_attack(name, 2.0)
    assert attack is not None
    start = vectors[2].clone()
    seen: list[torch.Tensor] = []
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    for round in range(1, 4):
        for x, gradient in zip(vectors, random_vectors(4, SIZE, seed=round), strict=True):
            x.sub_(gradient, alpha=0.1)
        own = (vectors[2] if codec == "fp32" else vectors[2].bfloat16().float()).clone()
        movement, spread = own - start, (own - start).abs()
        if before is not None:
            own_before, start_before = before
            movement = torch.stack(seen).mean(dim=0) - start_before
            spread = torch.stack([*seen, own_before]).std(dim=0, unbiased=False)
        sent = one_round(peers, vectors, round, parts=round)
        expected = attack(View(own, start, movement, spread))
        torch.testing.assert_close(
            sent[2], expected, rtol=1e-2 if codec == "bf16" else 1e-4, atol=1e-2 if codec == "bf16" else 1e-5
        )
        seen, before, start = [sent[1], sent[3]], (own, start), vectors[2].clone()


@pytest.mark.parametrize("overlapped", [False, True])
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
@pytest.mark.parametrize("name", SENT)
def test_it_attacks_only_in_its_rounds_and_mixes_as_if_it_did_not(name: str, codec: str, overlapped: bool) -> None:
    plain = random_vectors(4, SIZE)
    honest = driven(DPSGD(overlapped, codec), matrix("ring", 4), plain)
    peers, vectors = swarm(DPSGD(overlapped, codec), name, lambda round: round == 3)
    for round in range(1, 4):
        for x in (*plain, *vectors):
            x.mul_(0.9)
        expected = one_round(honest, plain, round)
        sent = one_round(peers, vectors, round)
        assert all(torch.equal(sent[peer], expected[peer]) for peer in (0, 1, 3))
        assert torch.equal(sent[2], expected[2]) == (round < 3)
        assert torch.equal(vectors[2], plain[2]), "its own average is an honest one"
        assert torch.equal(vectors[0], plain[0]), "not a neighbor of the attacker's"
        assert torch.equal(vectors[1], plain[1]) == (round < 3)


def test_an_attackers_algorithm_is_the_same_to_those_that_ask() -> None:
    inner = DPSGD(overlapped=True, wire_dtype="bf16")
    attack = build_attack("sign-flip")
    assert attack is not None
    made = Attacking(inner, attack, always)
    assert (made.encodings, made.overlapped, made.streaming) == ({"x": BF16}, True, True)
    assert not made.is_robust
    assert Attacking(Robust(Median()), attack, always).is_robust


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_a_hostile_client_sends_something_else_than_it_learned(codec: str) -> None:
    attack = build_attack("inner-product", 3.0)
    assert attack is not None
    x = torch.zeros(8)
    made = Client(CLIENT, x, codec, tampering(attack, lambda round: round == 4))  # type: ignore[arg-type]
    made.handle(Started(), 0.0)
    made.handle(message("hello", 6, 1), 0.0)
    for round, expected in ((3, 2.0), (4, -2.0)):
        ones = torch.ones(8) if codec == "fp32" else torch.ones(8).bfloat16()
        body = ones.view(torch.uint8).numpy().tobytes()
        made.handle(message("chunk", 6, round, body, codec=codec, vector="x"), 0.0)
        x.fill_(2.0)  # training
        made.handle(Trained(0.5, 32), 1.0)
        (sent,) = made.handle(message("grant", 6, round), 1.0)
        dtype = torch.float32 if codec == "fp32" else torch.bfloat16
        found = torch.frombuffer(bytearray(sent.message.body), dtype=dtype).float()  # 1 − 3 (2 − 1)
        assert torch.equal(found, torch.full((8,), expected))
        assert sends([sent]) == [("chunk", 6, round)]
        assert torch.equal(x, torch.full((8,), 2.0))
        for event in (message("ack", 6, round), Recorded(), Flushed()):
            made.handle(event, 1.0)


def test_flipped_labels_are_trained_on_in_their_rounds_only() -> None:
    assert flip_labels(torch.tensor([0, 1, 3]), 4).tolist() == [3, 2, 0]
    config = small_config(rounds=2)
    trainers = [Trainer(config, images(), np.arange(24), CPU, 0) for _ in range(2)]
    honest, hostile = trainers
    hostile.relabel = relabeling(4, lambda round: round == 2)
    for round in (1, 2):
        losses = [t.train(round, lambda steps: None, lambda: False).loss for t in trainers]
        assert (losses[0] == losses[1]) == (round == 1)
        assert torch.equal(honest.vector, hostile.vector) == (round == 1)
