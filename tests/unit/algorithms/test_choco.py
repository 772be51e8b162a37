"""CHOCO-SGD: the update rule of the paper, and replicas that agree at both ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.support.helpers import Driven, disagreement, driven, matrix, random_vectors
from tests.support.quadratics import SIZE, Quadratics, QuadraticSwarm

from p2pfl.algorithms.base import Saved
from p2pfl.algorithms.choco import Choco
from p2pfl.algorithms.compression import Compression
from p2pfl.config import RunConfig, check_together
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.modes import assign_roles
from p2pfl.payload import Payload, Receipt
from p2pfl.topology import make_topology

N, BETA, GAMMA = 6, 0.9, 0.3
W = matrix("ring", N)
RATES = [0.05, 0.05, 0.05, 0.08, 0.02, 0.02]  # of six rounds


def top_k(change: np.ndarray) -> np.ndarray:
    kept = np.argsort(-np.abs(change), axis=1)[:, : SIZE // 4]
    found = np.zeros_like(change)
    np.put_along_axis(found, kept, np.take_along_axis(change, kept, 1), 1)
    return found


def sign(change: np.ndarray) -> np.ndarray:
    return np.where(change >= 0, 1.0, -1.0) * np.abs(change).mean(1, keepdims=True)


def int8(change: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.abs(change).max(1, keepdims=True) / 127, 1e-30)
    return np.rint(change / scale) * scale


COMPRESSORS = [(Compression("top-k", 0.25), top_k), (Compression("sign"), sign), (Compression("int8"), int8)]
ALL = [
    Compression("top-k", 0.25),
    Compression("top-k", 0.25, "bf16"),
    Compression("random-k", 0.25),
    Compression("random-k", 0.25, "bf16"),
    Compression("sign"),
    Compression("int8"),
]


@pytest.mark.parametrize(("compression", "c"), COMPRESSORS, ids=lambda value: getattr(value, "kind", ""))
@pytest.mark.parametrize(("k", "beta"), [(1, 0.0), (4, BETA)])
def test_the_update_rule(compression: Compression, c: Callable[[np.ndarray], np.ndarray], k: int, beta: float) -> None:
    """Koloskova, Stich & Jaggi 2019, algorithm 2, from whole replicas."""
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(Choco(compression, GAMMA), W, problem, beta)
    x, m, known = np.zeros((N, SIZE)), np.zeros((N, SIZE)), None
    for number, rate in enumerate(RATES, 1):
        rates = [rate * (1 - 0.1 * step) for step in range(k)]
        for one in rates:
            g = problem.gradient(x)
            m = beta * m + g
            x = x - one * (g + beta * m if beta else g)
        known = x if known is None else known + c(x - known)
        x = x + GAMMA * (W @ known - known)
        # The sign of a change that is almost 0 may differ from the reference's.
        np.testing.assert_allclose(swarm.round(number, rates), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("compression", ALL, ids=lambda compression: f"{compression.kind} {compression.wire_dtype}")
def test_mixing_keeps_the_mean_and_brings_peers_together(compression: Compression) -> None:
    vectors = random_vectors(N, SIZE)
    mean = torch.stack(vectors).mean(0)
    before = disagreement(torch.stack(vectors).numpy())
    peers = driven(Choco(compression, compression.consensus_step), W, [vector.clone() for vector in vectors])
    for number in range(1, 401):
        sent = [peer.outgoing(number) for peer in peers]
        found = torch.stack([peer.mix(sent, number) for peer in peers])
        torch.testing.assert_close(found.mean(0), mean, atol=2e-5, rtol=0)
        if number >= 100 and disagreement(found.numpy()) < 0.05 * before:
            return
    pytest.fail(f"{disagreement(found.numpy()) / before:.3f} of the disagreement is left")


def test_the_first_payload_is_whole_and_later_ones_are_short() -> None:
    algorithm = Choco(Compression("top-k", 0.1), GAMMA)
    peers = driven(algorithm, W, random_vectors(N, 1000))
    lengths = []
    for number in range(1, 4):
        sent = [peer.outgoing(number) for peer in peers]
        lengths.append(sent[0][1].vectors["x"][0].numel())
        for peer in peers:
            peer.mix(sent, number)
    positions = 4 * 32  # a bit for each of 1,000 values, in words of 32
    assert lengths == [16 + 4000, 16 + positions + 400, 16 + positions + 400]
    encoding = algorithm.encodings["x"]
    assert encoding.lengths is not None
    assert list(encoding.lengths(1000)) == [4016, 544]


def test_random_indices_are_those_of_the_runs_seed_and_differ_by_peer_and_round() -> None:
    bodies = []
    for seed in (1, 1, 2):
        peers = driven(Choco(Compression("random-k", 0.1), GAMMA, seed=seed), W, random_vectors(N, 1000))
        for number in range(1, 4):
            sent = [peer.outgoing(number) for peer in peers]
            for peer in peers:
                peer.mix(sent, number)
        bodies.append([bytes(sent[me][(me + 1) % N].vectors["x"][0][8:16].tolist()) for me in range(N)])
    assert bodies[0] == bodies[1] != bodies[2]
    assert len(set(bodies[0])) == N


def replicas(peers: list[Driven], sender: int, receiver: int) -> tuple[object, object]:
    mine = peers[sender].state.mine.get(receiver)  # type: ignore[attr-defined]
    theirs = peers[receiver].state.theirs.get(sender)  # type: ignore[attr-defined]
    return mine, theirs


def step(peers: list[Driven], number: int, lost: set[tuple[int, int]], unsure: set[tuple[int, int]]) -> None:
    """A round in which some payloads (from, to) are lost, and some acknowledgments."""
    sent = [peer.outgoing(number) for peer in peers]
    for me, peer in enumerate(peers):
        for sender in peer.schedule(number).incoming:
            if (sender, me) in lost:
                peer.algorithm.missing(peer.state, sender, {})
            else:
                peer.accumulate(sender, sent[sender][me])
    for me, peer in enumerate(peers):
        for neighbor in sent[me]:
            if (me, neighbor) in lost | unsure:
                peer.algorithm.undelivered(peer.state, neighbor, sent[me][neighbor])
        peer.finish(number)


@pytest.mark.parametrize("compression", ALL, ids=lambda compression: f"{compression.kind} {compression.wire_dtype}")
def test_both_ends_have_the_same_replicas_to_the_bit_whatever_is_lost(compression: Compression) -> None:
    draw = np.random.default_rng(0)
    peers = driven(Choco(compression, compression.consensus_step, (slice(3, 5),)), W, random_vectors(N, SIZE))
    edges = [(a, b) for a in range(N) for b in peers[a].schedule(1).outgoing]
    for number in range(1, 40):
        lost = {edge for edge in edges if draw.random() < 0.1}
        unsure = {edge for edge in edges if draw.random() < 0.1}
        step(peers, number, lost, unsure)
        for edge in edges:
            mine, theirs = replicas(peers, *edge)
            if edge not in lost:
                assert torch.equal(mine.vector, theirs.vector)  # type: ignore[attr-defined]


def checkpoint_of(peer: Driven) -> Saved:
    saved = peer.algorithm.state_dict(peer.state)
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in saved.items()}


@pytest.mark.parametrize("goes_back", ["receiver", "sender"])
def test_a_restart_from_a_checkpoint_that_skips_a_round_makes_the_next_payload_whole(goes_back: str) -> None:
    peers = driven(Choco(Compression("top-k", 0.25), GAMMA), W, random_vectors(N, SIZE))
    for number in (1, 2, 3):
        if number == 3:
            me = 2 if goes_back == "receiver" else 1
            saved, x = checkpoint_of(peers[me]), peers[me].state.x.clone()  # type: ignore[attr-defined]
        step(peers, number, set(), set())
    again = driven(peers[me].algorithm, W, [x.clone() for _ in range(N)])[me]
    again.algorithm.load_state_dict(again.state, saved)
    peers[me] = again
    for sender, receiver in ((1, 2), (2, 1)):
        receipt = peers[receiver].algorithm.receipt(peers[receiver].state, sender)
        peers[sender].algorithm.edge_up(peers[sender].state, receiver, receipt, 4)
    sent = {sender: peers[sender].outgoing(4)[receiver] for sender, receiver in ((1, 2), (2, 1))}
    for sender, receiver in ((1, 2), (2, 1)):
        assert sent[sender].scalars["after"] == 0.0
        peers[receiver].accumulate(sender, sent[sender])
        mine, theirs = replicas(peers, sender, receiver)
        assert torch.equal(mine.vector, theirs.vector)  # type: ignore[attr-defined]


def test_a_payload_that_is_served_again_after_a_stop_of_all_continues_the_replica() -> None:
    """Its receiver is a round behind. No vector has to be whole again."""
    peers = driven(Choco(Compression("top-k", 0.25), GAMMA), W, random_vectors(N, SIZE))
    for number in (1, 2, 3):
        step(peers, number, set(), set())
    peers[1].algorithm.edge_up(peers[1].state, 2, Receipt(2), 3)
    assert peers[1].outgoing(4)[2].scalars["after"] == 3.0


@pytest.mark.parametrize("differs", [False, True])
def test_a_sender_that_repeats_a_round_continues_the_replica_if_that_gave_the_same_bits(differs: bool) -> None:
    peers = driven(Choco(Compression("top-k", 0.25), GAMMA), W, random_vectors(N, SIZE))
    step(peers, 1, set(), set())
    step(peers, 2, set(), set())
    saved, x = checkpoint_of(peers[1]), peers[1].state.x.clone()  # type: ignore[attr-defined]
    step(peers, 3, set(), set())
    again = driven(peers[1].algorithm, W, [x.clone() for _ in range(N)])[1]
    again.algorithm.load_state_dict(again.state, saved)
    again.algorithm.edge_up(again.state, 2, peers[2].algorithm.receipt(peers[2].state, 1), 4)
    if differs:
        again.state.x[int(x.abs().argmax())] += 1.0  # type: ignore[attr-defined]
    sent = again.outgoing(3)
    again.algorithm.undelivered(again.state, 2, sent[2])
    again.finish(3)
    assert again.outgoing(4)[2].scalars["after"] == (0.0 if differs else 3.0)


def test_a_payload_that_does_not_fit_to_the_replica_takes_no_part() -> None:
    peers = driven(Choco(Compression("top-k", 0.25), GAMMA), W, random_vectors(N, SIZE))
    step(peers, 1, set(), set())
    sent = [peer.outgoing(2) for peer in peers]
    before = peers[1].state.x.clone()  # type: ignore[attr-defined]
    for sender in (0, 2):
        peers[1].accumulate(sender, Payload(sent[sender][1].vectors, {"after": 7.0}))
    assert torch.equal(peers[1].finish(2), before)


def test_a_change_that_overflows_takes_no_part() -> None:
    """A scale is finite, and 127 times that is not."""
    peers = driven(Choco(Compression("int8"), GAMMA), W, random_vectors(N, SIZE))
    step(peers, 1, set(), set())
    sent = [peer.outgoing(2) for peer in peers]
    hostile = sent[0][1].vectors["x"][0].clone()
    hostile[16:20] = torch.tensor([3e38]).view(torch.uint8)
    verify = peers[1].algorithm.encodings["x"].verify
    assert verify is not None
    verify([hostile], SIZE)
    before = peers[1].state.x.clone()  # type: ignore[attr-defined]
    peers[1].accumulate(0, Payload({"x": (hostile,)}, sent[0][1].scalars))
    assert torch.equal(peers[1].finish(2), before)


def test_buffers_are_mixed_plainly() -> None:
    place = slice(4, 8)
    problem = Quadratics.random(N)
    problem.curvature[:, place] = 0.0
    swarm = QuadraticSwarm(Choco(Compression("sign"), GAMMA, (place,)), W, problem, BETA)
    expected = np.random.default_rng(2).uniform(0.1, 1.0, (N, 4))
    for x, row in zip(swarm.x, expected, strict=True):
        x[place] = torch.from_numpy(row)
    for number in range(1, 6):
        expected = W @ expected
        np.testing.assert_allclose(swarm.round(number, [0.1])[:, place], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "top-k:0.1", "consensus_step": 0.5}, "--consensus-step 0.5: means nothing with dpsgd"),
        ({"compression": "sign"}, "--compression sign: means nothing with dpsgd, only with choco"),
        ({"algorithm": "choco", "compression": "top-k"}, "--compression top-k: needs a fraction above 0"),
        ({"algorithm": "choco", "compression": "top-k:2"}, "--compression top-k:2: needs a fraction above 0"),
        ({"algorithm": "choco", "compression": "random-k:nan"}, "--compression random-k:nan: needs a fraction"),
        ({"algorithm": "choco", "compression": "sign:0.1"}, "--compression sign:0.1: sign takes no argument"),
        ({"algorithm": "choco", "compression": "zip"}, "--compression zip: choose one of top-k:F, random-k:F, sign"),
        ({"algorithm": "choco", "consensus_step": 1.5}, "--consensus-step 1.5: must be at most 1"),
        (
            {"algorithm": "choco", "compression": "sign", "wire_dtype": "bf16"},
            "--wire-dtype bf16: --compression sign sends less of each value already; leave it out, or use "
            "--compression top-k:F or random-k:F",
        ),
        ({"algorithm": "choco", "order": "overlapped"}, "--order overlapped: choco has only --order atc"),
        ({"algorithm": "choco", "mixing": "samples"}, "--mixing samples: choco needs a symmetric mixing matrix"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(RunConfig.of(**options))
    assert str(caught.value).startswith(message)


def test_it_needs_a_symmetric_matrix() -> None:
    with pytest.raises(TopologyError, match="choco needs a symmetric mixing matrix"):
        assign_roles(RunConfig.of(algorithm="choco", mixing="uniform"), make_topology("exponential", 6))
