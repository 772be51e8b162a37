"""Gossip algorithms match dense matrices.

X ← W X, the mean is kept, and the consensus phase is as fast as predicted.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.helpers import Driven, disagreement, driven, exchange, matrix, mix, random_vectors

from p2pfl.algorithms import DPSGD, Chebyshev, build_algorithm
from p2pfl.config import RunConfig
from p2pfl.payload import Payload
from p2pfl.topology import Neighborhood, consensus_rounds, is_symmetric, mixing_rounds, spectral_gap

NETWORKS = [("ring", 6), ("star", 5), ("torus", 9), ("complete", 4), ("exponential", 8), ("path", 2)]
SIZE = 33

networks = st.sampled_from(NETWORKS)


def dense(vectors: list[torch.Tensor]) -> np.ndarray:
    return np.stack([x.numpy() for x in vectors]).astype(np.float64)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
def test_rounds_are_the_mixing_matrix(network: tuple[str, int]) -> None:
    w = matrix(*network)
    vectors = random_vectors(len(w), SIZE)
    peers, expected = driven(DPSGD(), w, vectors), dense(vectors)
    gradients = dense(random_vectors(len(w), SIZE, seed=1))
    for round in range(1, 4):
        for x, gradient in zip(vectors, gradients, strict=True):
            x.sub_(torch.from_numpy(gradient).float(), alpha=0.5 / round)
        expected = w @ (expected - 0.5 / round * gradients)
        exchange(peers, round, vectors)
        np.testing.assert_allclose(dense(vectors), expected, atol=2e-6)


@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_overlapped_is_its_formula(codec: str) -> None:
    w = matrix("star", 5)
    algorithm = DPSGD(overlapped=True, wire_dtype=codec)
    vectors = random_vectors(5, SIZE)
    if codec == "bf16":  # numbers that bf16 holds exactly in the first round, so that the same formula counts
        vectors = [x.bfloat16().float() for x in vectors]
    peers, before = driven(algorithm, w, vectors), dense(vectors)
    deltas = random_vectors(5, SIZE, seed=1)
    sent = [peer.outgoing(1) for peer in peers]
    for x, delta in zip(vectors, deltas, strict=True):
        x.add_(delta)  # training, while the exchange is under way
    mix(peers, sent, 1, vectors)
    np.testing.assert_allclose(dense(vectors), w @ before + dense(deltas), atol=2e-6)


@pytest.mark.parametrize(
    "algorithm",
    [DPSGD(), DPSGD(wire_dtype="bf16"), DPSGD(overlapped=True), DPSGD(True, "bf16"), Chebyshev(0.5)],
    ids=str,
)
def test_what_is_sent_does_not_change_until_the_next_round(algorithm: DPSGD | Chebyshev) -> None:
    w = matrix("ring", 4)
    vectors = random_vectors(4, SIZE)
    peers = driven(algorithm, w, vectors)
    payloads: list[torch.Tensor] = []
    values: list[torch.Tensor] = []

    def train() -> None:
        for x in vectors:
            x.mul_(0.5)

    for round in range(1, 6):
        if isinstance(algorithm, DPSGD) and not algorithm.overlapped:
            train()
        assert all(torch.equal(a, b) for a, b in zip(payloads, values, strict=True))
        sent = [peer.outgoing(round) for peer in peers]
        payloads = [payload.vectors["x"][0] for peer in sent for payload in peer.values()]
        values = [payload.clone() for payload in payloads]
        if algorithm.overlapped:
            train()
        mix(peers, sent, round, vectors)
        assert all(torch.equal(a, b) for a, b in zip(payloads, values, strict=True))
        assert len({payload.data_ptr() for payload in payloads}) == 4, "one send buffer for all neighbors"


@settings(max_examples=40, deadline=None)
@given(
    network=networks, seed=st.integers(0, 99), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]), rounds=st.integers(1, 6)
)
def test_float32_mixing_keeps_the_mean(network: tuple[str, int], seed: int, scale: float, rounds: int) -> None:
    w = matrix(*network)
    vectors = [x.mul_(scale) for x in random_vectors(len(w), SIZE, seed)]
    for algorithm in (DPSGD(), Chebyshev(1 - spectral_gap(w) if is_symmetric(w) else 0.0)):
        peers, mean = driven(algorithm, w, vectors), dense(vectors).mean(axis=0)
        for round in range(1, rounds + 1):
            exchange(peers, round, vectors)
        np.testing.assert_allclose(dense(vectors).mean(axis=0), mean, atol=2e-6 * scale * rounds)


def quantized(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).float().bfloat16().double().numpy()


@settings(max_examples=30, deadline=None)
@given(network=networks, seed=st.integers(0, 99), overlapped=st.booleans())
def test_bf16_wire_keeps_the_mean_where_plain_rounding_drifts(
    network: tuple[str, int], seed: int, overlapped: bool
) -> None:
    w = matrix(*network)
    # Near 1 bf16 has steps of 1/128, and 1.003 is always rounded down: the worst case for the mean.
    vectors = [1.003 + 1e-4 * x for x in random_vectors(len(w), SIZE, seed)]
    plain, mean = dense(vectors), dense(vectors).mean(axis=0)
    peers = driven(DPSGD(overlapped, "bf16"), w, vectors)
    for round in range(1, 21):
        exchange(peers, round, vectors)
        plain = w @ quantized(plain)
    assert np.abs(dense(vectors).mean(axis=0) - mean).max() < 1e-5
    assert np.abs(plain.mean(axis=0) - mean).max() > 1e-3


def test_bf16_wire_brings_peers_together() -> None:
    w = matrix("ring", 8)
    vectors = random_vectors(8, SIZE)
    peers, before = driven(DPSGD(wire_dtype="bf16"), w, vectors), disagreement(dense(vectors))
    for round in range(1, 41):
        exchange(peers, round, vectors)
    assert disagreement(dense(vectors)) < 0.02 * before


@pytest.mark.parametrize(
    ("kind", "n"),
    [("ring", 8), ("ring", 16), ("torus", 16), ("star", 8), ("tree", 15), ("exponential", 16), ("path", 2)],
)
@pytest.mark.parametrize("tolerance", [0.1, 1e-3])
def test_consensus_phase_takes_the_predicted_rounds(kind: str, n: int, tolerance: float) -> None:
    w = matrix(kind, n)
    contraction = 1 - spectral_gap(w) if is_symmetric(w) else 0.0
    algorithm = Chebyshev(contraction)
    # Beside random vectors the worst ones: W's singular vectors, each as one column.
    vectors = [
        torch.from_numpy(row).float() for row in np.hstack([dense(random_vectors(n, SIZE)), np.linalg.svd(w)[2].T])
    ]
    before = dense(vectors)
    peers = driven(algorithm, w, vectors)
    for round in range(1, consensus_rounds(w, tolerance) + 1):
        exchange(peers, 40 + round, vectors)  # the consensus phase follows on the training rounds
    after = dense(vectors)
    shrunk = np.linalg.norm(after - after.mean(axis=0), axis=0) / np.linalg.norm(
        before - before.mean(axis=0), axis=0
    ).clip(1e-3)
    assert shrunk.max() <= tolerance * 1.01 + 1e-6
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=2e-6)


def test_acceleration_matters() -> None:
    w = matrix("ring", 16)
    rounds = consensus_rounds(w, 1e-3)
    assert rounds < mixing_rounds(w, 1e-3) / 5
    results = []
    for algorithm in (Chebyshev(1 - spectral_gap(w)), Chebyshev(0.0)):
        vectors = random_vectors(16, SIZE)
        peers = driven(algorithm, w, vectors)
        for round in range(1, rounds + 1):
            exchange(peers, round, vectors)
        results.append(disagreement(dense(vectors)))
    accelerated, plain = results
    assert accelerated < plain / 20


def test_consensus_starts_from_what_training_left() -> None:
    x = torch.arange(4.0)
    first, _ = driven(Chebyshev(0.3), matrix("path", 2), [x, x.clone()])
    payload = first.outgoing(1)[1]
    assert payload.vectors["x"][0] is x


@pytest.mark.parametrize(("round", "late"), [(10, 0), (13, 3), (20, 0), (22, 2)])
def test_a_peer_that_comes_late_to_a_merge_continues_with_its_weights(round: int, late: int) -> None:
    algorithm = Chebyshev(0.5, first_round=10, second_round=20)
    peer, _ = driven(algorithm, matrix("path", 2), [torch.ones(4), torch.ones(4)])
    peer.outgoing(round)
    there, _ = driven(algorithm, matrix("path", 2), [torch.ones(4), torch.ones(4)])
    for earlier in range(round - late, round):
        there.outgoing(earlier)
        there.finish(earlier)
    assert peer.state.omega == there.state.omega
    assert (peer.state.omega > 0) == (late > 0)


@pytest.mark.parametrize("receivers", [{}, {1: 0.5}], ids=["alone", "only sending"])
def test_nothing_comes_and_what_is_sent_does_not_change(receivers: dict[int, float]) -> None:
    x = torch.arange(4.0)
    schedule = lambda round: Neighborhood(0, 1.0, {}, receivers)  # noqa: E731
    peer = Driven(DPSGD(), schedule, DPSGD().init(x, schedule))
    sent = peer.outgoing(1)
    mixed = peer.mix([sent], 1)
    assert torch.equal(mixed, torch.arange(4.0))
    assert (mixed is x) == (not receivers), "nothing is copied for nobody"
    mixed.add_(1.0)  # training
    assert all(torch.equal(payload.vectors["x"][0], torch.arange(4.0)) for payload in sent.values())


def test_settings_choose_order_and_codec() -> None:
    assert build_algorithm(RunConfig()) == DPSGD(overlapped=False, wire_dtype="fp32")
    assert build_algorithm(RunConfig.of(order="overlapped", wire_dtype="bf16")) == DPSGD(True, "bf16")


def test_pieces_of_any_length_fold_to_the_same_bits() -> None:
    w = matrix("complete", 4)
    results = []
    for cuts in ([SIZE], [1, SIZE - 1], [16, 16, SIZE - 32]):
        vectors = random_vectors(4, SIZE)
        algorithm = DPSGD(wire_dtype="bf16")
        peers = driven(algorithm, w, vectors)
        sent = [peer.outgoing(1) for peer in peers]
        for payloads in sent:
            for neighbor, payload in payloads.items():
                payloads[neighbor] = type(payload)({"x": list(payload.vectors["x"][0].split(cuts))})
        mix(peers, sent, 1, vectors)
        results.append(torch.cat(vectors))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "algorithm",
    [DPSGD(), DPSGD(wire_dtype="bf16"), DPSGD(overlapped=True), DPSGD(True, "bf16"), Chebyshev(0.5)],
    ids=str,
)
@given(cuts=st.lists(st.integers(1, SIZE - 1), max_size=5, unique=True))
@settings(max_examples=15, deadline=None)
def test_a_payload_in_parts_folds_to_the_same_bits(algorithm: DPSGD | Chebyshev, cuts: list[int]) -> None:
    """A part is folded as it comes.

    Three peers in a line have one's own vector first, between and last.
    """
    w = matrix("path", 3)
    whole, parts = random_vectors(3, SIZE), random_vectors(3, SIZE)
    exchange(driven(algorithm, w, whole), 1, whole)

    peers = driven(algorithm, w, parts)
    sent = [peer.outgoing(1) for peer in peers]
    for me, peer in enumerate(peers):
        for sender in sorted([*peer.schedule(1).incoming, me]):
            if sender == me:
                peer.accumulate(sender, algorithm.own(peer.state))
                continue
            (vector,) = sent[sender][me].vectors["x"]
            for part in torch.tensor_split(vector, sorted(cuts)):
                peer.accumulate(sender, Payload({"x": (part,)}))
    parts = [peer.finish(1) for peer in peers]
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


def test_a_full_mesh_with_equal_weights_gives_everybody_the_same_bits() -> None:
    w = matrix("complete", 5)
    vectors = random_vectors(5, SIZE)
    exchange(driven(DPSGD(), w, vectors), 1, vectors)
    assert all(torch.equal(vectors[0], x) for x in vectors[1:]), "one's own vector is added at its place"
