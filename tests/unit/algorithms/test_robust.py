"""Robust mixing: definitions, limits without attackers, bounds under attack."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.helpers import disagreement, driven, exchange, matrix, mix, random_vectors

from p2pfl.algorithms import DPSGD, Algorithm, Chebyshev, build_algorithm, build_consensus
from p2pfl.algorithms.blockwise import SIDE_BLOCK, Sorter, comparators, distances, side_by_side
from p2pfl.algorithms.bootstrap import Bootstrap
from p2pfl.algorithms.robust import Clipped, Median, Robust, TrimmedMean
from p2pfl.algorithms.rules import clipping_radius
from p2pfl.config import RunConfig
from p2pfl.payload import Payload
from p2pfl.topology import make_topology, mixing_matrix

SIZE = 33
NETWORKS = [("ring", 6), ("star", 5), ("torus", 9), ("complete", 4), ("exponential", 8), ("path", 2)]
RULES = [Clipped(1), TrimmedMean(1), Median()]
WAYS = list(itertools.product([False, True], ["fp32", "bf16"]))  # overlapped, codec


def after(algorithm: Algorithm, w: np.ndarray, vectors: list[torch.Tensor], rounds: int = 1) -> list[torch.Tensor]:
    """Vectors after rounds of some training and mixing, from copies."""
    vectors = [x.clone() for x in vectors]
    peers = driven(algorithm, w, vectors)
    for round in range(1, rounds + 1):
        if not algorithm.overlapped:
            train(vectors, round)
        sent = [peer.outgoing(round) for peer in peers]
        if algorithm.overlapped:
            train(vectors, round)
        mix(peers, sent, round, vectors)
    return vectors


def train(vectors: list[torch.Tensor], round: int) -> None:
    for x, gradient in zip(vectors, random_vectors(len(vectors), x_size(vectors), seed=round), strict=True):
        x.sub_(gradient, alpha=0.125)


def x_size(vectors: list[torch.Tensor]) -> int:
    return vectors[0].numel()


def uniform(w: np.ndarray) -> np.ndarray:
    """Equal weights for all that W gives any."""
    there = (w > 0).astype(float)
    return there / there.sum(axis=1, keepdims=True)


# What each becomes where nobody is taken for hostile


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
@pytest.mark.parametrize("rule", [Clipped(1, math.inf), Clipped(0)], ids=["radius infinite", "none hostile"])
def test_an_infinite_radius_is_plain_mixing_to_the_bit(rule: Clipped, network: tuple[str, int]) -> None:
    w = matrix(*network)
    vectors = random_vectors(len(w), SIZE)
    for overlapped in (False, True):
        found, plain = (after(a, w, vectors, 3) for a in (Robust(rule, overlapped), DPSGD(overlapped)))
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
        found, plain = (after(a, w, vectors, 3) for a in (Robust(rule, overlapped, "bf16"), DPSGD(overlapped, "bf16")))
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: "-".join(map(str, network)))
@pytest.mark.parametrize(("overlapped", "codec"), WAYS)
def test_trimming_nothing_is_the_mean_with_equal_weights(
    network: tuple[str, int], overlapped: bool, codec: str
) -> None:
    w = matrix(*network)
    vectors = random_vectors(len(w), SIZE)
    found = after(Robust(TrimmedMean(0), overlapped, codec), w, vectors, 3)
    plain = after(DPSGD(overlapped, codec), uniform(w), vectors, 3)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)
    different = network[0] in ("star",)
    weighted = after(DPSGD(overlapped, codec), w, vectors, 3)
    assert different == any((a - b).abs().max() > 1e-3 for a, b in zip(found, weighted, strict=True))


# What each is


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 9), seed=st.integers(0, 99), ties=st.booleans())
def test_median_and_trimmed_mean_against_numpy(data: st.DataObject, count: int, seed: int, ties: bool) -> None:
    trim = data.draw(st.integers(0, (count - 1) // 2))
    vectors = random_vectors(count, SIZE, seed)
    if ties:
        vectors = [x.mul_(2).round_() for x in vectors]
    w = uniform(np.ones((count, count)))
    dense = np.sort(np.stack([x.double().numpy() for x in vectors]), axis=0)
    for rule, expected in (
        (TrimmedMean(trim), dense[trim : count - trim].mean(axis=0)),
        (Median(), np.median(dense, axis=0)),
    ):
        found = list(vectors)
        exchange(driven(Robust(rule), w, [x.clone() for x in vectors]), 1, found)
        for x in found:
            np.testing.assert_allclose(x, expected, atol=1e-6)


def test_clipping_against_its_formula() -> None:
    w = matrix("star", 5)
    vectors = [x * scale for x, scale in zip(random_vectors(5, SIZE), (1, 0.1, 30, 1, 2), strict=True)]
    dense = np.stack([x.double().numpy() for x in vectors])
    for rule in (Clipped(1), Clipped(2), Clipped(0, 3.0)):
        found = [x.clone() for x in vectors]
        exchange(driven(Robust(rule), w, found), 1, found)
        for i in range(5):
            others = [j for j in range(5) if j != i and w[i, j] > 0]
            apart = {j: np.linalg.norm(dense[j] - dense[i]) for j in others}
            near = sorted(others, key=apart.__getitem__)[: len(others) - rule.byzantine]
            doubted = sum(sorted(w[i, j] for j in others)[len(others) - rule.byzantine :]) if rule.byzantine else 0
            tau = rule.radius or math.sqrt(sum(w[i, j] * apart[j] ** 2 for j in near) / doubted)
            moves = [w[i, j] * (dense[j] - dense[i]) * min(1, tau / apart[j]) for j in others]
            np.testing.assert_allclose(found[i], dense[i] + sum(moves), atol=2e-5)


def test_the_radius_leaves_out_the_farthest_and_doubts_the_heaviest() -> None:
    assert clipping_radius([3.0, 100.0, 4.0], [0.25, 0.125, 0.25], 1) == math.sqrt((0.25 * 9 + 0.25 * 16) / 0.25)
    assert clipping_radius([3.0, 100.0, 4.0], [0.25, 0.125, 0.5], 2) == math.sqrt(0.25 * 9 / 0.75)
    assert clipping_radius([3.0], [0.5], 1) == 0.0
    assert clipping_radius([], [], 0) == clipping_radius([3.0], [0.5], 0) == math.inf


def test_nine_of_a_kind_agree_at_once_and_for_good() -> None:
    """All distances 0: nothing may be divided by them, and nobody moves.

    Not even through bfloat16.
    """
    w = matrix("torus", 9)
    one = random_vectors(1, SIZE)[0] * 1.003
    for rule, (overlapped, codec) in itertools.product(RULES, WAYS):
        vectors = [one.clone() for _ in range(9)]
        algorithm = Robust(rule, overlapped, codec)
        peers = driven(algorithm, w, vectors)
        for round in range(1, 4):
            exchange(peers, round, vectors)
        for x in vectors:
            torch.testing.assert_close(x, one, rtol=1e-6, atol=1e-7)


# What a hostile peer cannot do

HOSTILE = [0.0, -5.0, 1e6, 1e30, -3e38]


@settings(max_examples=40, deadline=None)
@given(
    tau=st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    seed=st.integers(0, 99),
    value=st.sampled_from(HOSTILE),
    way=st.sampled_from(WAYS),
)
def test_nobody_moves_further_than_the_radius(tau: float, seed: int, value: float, way: tuple[bool, str]) -> None:
    w = matrix("complete", 5)
    vectors = random_vectors(5, SIZE, seed)
    vectors[1] = torch.full((SIZE,), value)
    found = [x.clone() for x in vectors]
    algorithm = Robust(Clipped(1, tau), *way)
    exchange(driven(algorithm, w, found), 1, found)
    for me in (0, 2, 3, 4):
        moved = float((found[me] - vectors[me]).double().norm())
        assert moved <= tau * (1 + 1e-5) + 1e-5
        assert tau == 0 or moved > 0


@settings(max_examples=40, deadline=None)
@given(count=st.integers(3, 9), seed=st.integers(0, 99), value=st.sampled_from(HOSTILE), data=st.data())
def test_as_many_outliers_as_are_trimmed_stay_within_the_honest_range(
    count: int, seed: int, value: float, data: st.DataObject
) -> None:
    hostile = data.draw(st.sets(st.integers(1, count - 1), min_size=1, max_size=(count - 1) // 2))
    honest = random_vectors(count, SIZE, seed)
    vectors = [torch.full((SIZE,), value) if peer in hostile else x for peer, x in enumerate(honest)]
    stack = torch.stack([x for peer, x in enumerate(honest) if peer not in hostile])
    for rule in (TrimmedMean(len(hostile)), Median()):
        found = [x.clone() for x in vectors]
        exchange(driven(Robust(rule), np.full((count, count), 1 / count), found), 1, found)
        assert (found[0] <= stack.amax(dim=0) + 1e-6).all()
        assert (found[0] >= stack.amin(dim=0) - 1e-6).all()


@pytest.mark.parametrize("rule", [TrimmedMean(1), Median()], ids=str)
def test_how_far_out_an_outlier_is_makes_no_difference(rule: TrimmedMean | Median) -> None:
    results = []
    for value in (1e3, 1e30):
        vectors = [*random_vectors(4, SIZE), torch.full((SIZE,), value)]
        exchange(driven(Robust(rule), matrix("complete", 5), vectors), 1, vectors)
        results.append(vectors[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("rule", [TrimmedMean(1), TrimmedMean(2), Median()], ids=str)
@given(order=st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_who_sends_what_makes_no_difference(rule: TrimmedMean | Median, order: list[int]) -> None:
    vectors = random_vectors(6, SIZE)
    shuffled = [vectors[peer].clone() for peer in order]
    for some in (vectors, shuffled):
        exchange(driven(Robust(rule), matrix("complete", 6), some), 1, some)
    assert all(torch.equal(vectors[0], x) for x in (*vectors, *shuffled)), "the same bits for everybody"


def test_clipping_does_not_care_who_sends_what_but_for_rounding() -> None:
    vectors = random_vectors(6, SIZE)
    vectors[4] *= 100
    order = [0, 5, 4, 3, 2, 1]
    shuffled = [vectors[peer].clone() for peer in order]
    for some in (vectors, shuffled):
        exchange(driven(Robust(Clipped(1)), matrix("complete", 6), some), 1, some)
    torch.testing.assert_close(vectors[0], shuffled[0])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_honest_peers_agree_in_spite_of_one_that_does_not(rule: Clipped | TrimmedMean | Median) -> None:
    """Consensus phase with a peer that sends the same whatever it receives."""
    w = matrix("complete", 8)
    for algorithm, agree in ((Robust(rule), True), (DPSGD(), False)):
        vectors = random_vectors(8, SIZE)
        honest = np.stack(vectors[:7])
        peers = driven(algorithm, w, vectors)
        for round in range(1, 11):
            vectors[7].fill_(1e3)
            peers[7].state = algorithm.init(vectors[7], peers[7].schedule)
            exchange(peers, round, vectors)
        found = np.stack(vectors[:7])
        near = np.abs(found - honest.mean(axis=0)).max() < 2.0
        assert near == agree
        assert not agree or disagreement(found) < 0.05 * disagreement(honest)


# How it fits the peers that run it


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("overlapped", "codec"), WAYS)
def test_what_is_sent_does_not_change_until_the_next_round(rule: Clipped, overlapped: bool, codec: str) -> None:
    w = matrix("ring", 4)
    vectors = random_vectors(4, SIZE)
    algorithm = Robust(rule, overlapped, codec)
    peers = driven(algorithm, w, vectors)
    payloads: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    for round in range(1, 5):
        if not overlapped:
            train(vectors, round)
        assert all(torch.equal(a, b) for a, b in zip(payloads, values, strict=True))
        sent = [peer.outgoing(round) for peer in peers]
        payloads = [payload.vectors["x"][0] for peer in sent for payload in peer.values()]
        values = [payload.clone() for payload in payloads]
        assert {payload.dtype for payload in payloads} == {torch.bfloat16 if codec == "bf16" else torch.float32}
        if overlapped:
            train(vectors, round)
        mix(peers, sent, round, vectors)
        assert all(torch.equal(a, b) for a, b in zip(payloads, values, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("overlapped", "codec"), WAYS)
def test_a_missing_neighbor_counts_as_ones_own_vector(rule: Clipped, overlapped: bool, codec: str) -> None:
    w = matrix("complete", 4)
    there, gone = random_vectors(4, SIZE), random_vectors(4, SIZE)
    rounded = gone[0] if codec == "fp32" else gone[0].bfloat16().float()
    there[2] = rounded.clone()  # as if peer 2 happened to say what peer 0 says
    algorithm = Robust(rule, overlapped, codec)
    exchange(driven(algorithm, w, there), 1, there)
    peers = driven(algorithm, w, gone)
    sent = [peer.outgoing(1) for peer in peers]
    for sender in range(4):
        if sender == 2:
            algorithm.missing(peers[0].state, sender, {})
        else:
            peers[0].accumulate(sender, algorithm.own(peers[0].state) if sender == 0 else sent[sender][0])
    torch.testing.assert_close(peers[0].finish(1), there[0], rtol=1e-6, atol=1e-6)


def test_vectors_of_several_blocks_however_they_are_cut() -> None:
    size = 3 * SIDE_BLOCK + 17
    w = matrix("complete", 4)
    for rule, codec in itertools.product(RULES, ("fp32", "bf16")):
        algorithm = Robust(rule, wire_dtype=codec)
        results = []
        for cut in ([size], [1, SIDE_BLOCK, size - SIDE_BLOCK - 1], [size - 5, 0, 5]):
            vectors = random_vectors(4, size)
            peers = driven(algorithm, w, vectors)
            sent = [peer.outgoing(1) for peer in peers]
            for neighbor, payload in sent[1].items():
                sent[1][neighbor] = Payload({"x": list(payload.vectors["x"][0].split(cut))})
            mix(peers, sent, 1, vectors)
            results.append(vectors[0])
        for other in results[1:]:
            torch.testing.assert_close(other, results[0])
        few = [x[-40:].clone() for x in random_vectors(4, size)]
        if not isinstance(rule, Clipped):
            exchange(driven(algorithm, w, few), 1, few)
            assert torch.equal(results[0][-40:], few[0])


def test_blocks_lie_side_by_side() -> None:
    x, y = torch.arange(10.0), torch.arange(10.0).bfloat16()
    blocks = list(side_by_side([(x[:3], x[3:]), (y[:0], y[:7], y[7:])]))
    assert [(here.start, here.stop) for here, _ in blocks] == [(0, 3), (3, 7), (7, 10)]
    for here, parts in blocks:
        assert all(torch.equal(part, x[here]) for part in parts)


def test_distances_of_enormous_vectors_are_numbers() -> None:
    center = torch.zeros(SIZE)
    assert distances((center,), [(center + 3e38,), (center + 1,), (center,)]) == pytest.approx(
        [3e38 * math.sqrt(SIZE), math.sqrt(SIZE), 0.0], rel=1e-6
    )


@pytest.mark.parametrize("count", range(1, 13))
def test_comparators_sort_zeros_and_ones_and_so_anything(count: int) -> None:
    """The 0–1 principle (Knuth, volume 3, theorem Z)."""
    cases = np.array(list(itertools.product((0, 1), repeat=count)))
    expected = np.sort(cases, axis=1)
    for low, high in comparators(count):
        assert low < high
        cases[:, [low, high]] = np.sort(cases[:, [low, high]], axis=1)
    assert (cases == expected).all()


def test_a_sorter_writes_to_nobodys_vector_and_can_be_asked_again() -> None:
    sort = Sorter(5)
    for seed, length in enumerate((SIZE, SIDE_BLOCK, 1)):
        blocks = random_vectors(5, length, seed)
        kept = torch.stack(blocks)
        assert torch.equal(torch.stack(sort(blocks)), kept.sort(dim=0).values)
        assert torch.equal(torch.stack(blocks), kept)


def test_settings_choose_the_rule_for_training_and_for_the_consensus_phase() -> None:
    for name, rule in (("clipped", Clipped(2)), ("trimmed-mean", TrimmedMean(2)), ("median", Median())):
        config = RunConfig.of(algorithm=name, byzantine=2, order="overlapped", wire_dtype="bf16")
        assert build_algorithm(config) == Robust(rule, overlapped=True, wire_dtype="bf16")
        assert build_consensus(config, 0.5) == Robust(rule)
    assert build_consensus(RunConfig.of(rounds=40), 0.5) == Chebyshev(0.5, first_round=41)


def test_peers_of_a_line_see_the_weights_only_where_the_rule_has_any() -> None:
    """--mixing changes clipping, not the median and the trimmed mean."""
    topology = make_topology("ring", 5)
    one = mixing_matrix(topology, "metropolis-hastings")
    other = 0.5 * (one + np.eye(5))
    for rule, same in ((TrimmedMean(1), True), (Median(), True), (Clipped(1, 2.0), False)):
        first, second = (after(Robust(rule), w, random_vectors(5, SIZE)) for w in (one, other))
        assert same == all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_peer_without_weights_trusts_no_single_neighbor_where_the_rule_does_not() -> None:
    hostile, honest = torch.full((4,), 1e6), [torch.full((4,), value) for value in (1.0, 2.0)]
    found = [Payload({"x": (vector[:1], vector[1:])}) for vector in (hostile, *honest)]
    for algorithm, expected in (
        (DPSGD(), 1e6),
        (Chebyshev(0.5), 1e6),
        (Robust(Clipped(1)), 2.0),
        (Robust(Median()), 2.0),
    ):
        bootstrap, x = Bootstrap(algorithm.is_robust), torch.empty(4)
        for sender in (2, 0, 1):  # in whatever order they come
            bootstrap.add(sender, found[sender])
        for here, block in bootstrap.blocks():
            x[here] = block
        assert x.tolist() == [expected] * 4
