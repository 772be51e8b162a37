"""Sketches estimate the consensus distance within the promised error.

Wherever in the vectors peers differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.helpers import CPU, disagreement, small_config
from tests.support.runs import train_record

from p2pfl import data, make_topology
from p2pfl.model.sketches import SKETCH_BUCKETS, consensus_distance, sketch
from p2pfl.model.vector import Layout
from p2pfl.run.paths import SKETCHES_FILE
from p2pfl.run.records import append_round
from p2pfl.run.sketch_file import HEADER, file_size, read_sketches
from p2pfl.training import Trainer

SPAN = 32 * SKETCH_BUCKETS  # longer vectors are sketched in two stages
PROMISED = math.sqrt(2 * (1 / SKETCH_BUCKETS + 1 / SPAN))  # standard deviation of a squared distance, relative


def ratios(vector: np.ndarray, seeds: int) -> np.ndarray:
    """Squared lengths as different seeds estimate them, of the true one."""
    true = float(np.square(vector.astype(np.float64)).sum())
    return np.array([np.square(sketch(vector, seed).astype(np.float64)).sum() / true for seed in range(seeds)])


def error(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values - 1).mean()))


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 3 * SPAN), seed=st.integers(0, 5), weight=st.floats(-4, 4))
def test_sketches_are_linear(size: int, seed: int, weight: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, size)).astype(np.float32)
    combined = sketch((a + np.float32(weight) * b).astype(np.float32), seed)
    np.testing.assert_allclose(combined, sketch(a, seed) + weight * sketch(b, seed), atol=1e-3)


def test_sketches_of_one_block_keep_the_length_exactly() -> None:
    vector = np.random.default_rng(0).standard_normal(SKETCH_BUCKETS).astype(np.float32)
    for seed in range(3):  # elements of one block never share a bucket
        assert np.linalg.norm(sketch(vector, seed)) == pytest.approx(np.linalg.norm(vector), rel=1e-6)
    assert not np.array_equal(sketch(vector, 0), sketch(vector, 1))


def test_what_was_sketched_before_changes_nothing() -> None:
    """Random numbers are kept for the next vector of the same seed and size."""
    draw = np.random.default_rng(0)
    cases = [(seed, draw.standard_normal(size).astype(np.float32)) for size in (5, SPAN, 2 * SPAN) for seed in (0, 1)]
    first = [sketch(vector, seed) for seed, vector in cases]
    again = [sketch(vector, seed) for seed, vector in reversed(cases)]
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))


@pytest.mark.parametrize("size", [10 * SKETCH_BUCKETS, 3 * SPAN + 77])
def test_squared_lengths_are_unbiased_with_the_promised_error(size: int) -> None:
    found = ratios(np.random.default_rng(1).standard_normal(size).astype(np.float32), seeds=200)
    assert abs(found.mean() - 1) < 4 * PROMISED / math.sqrt(200)
    assert 0.7 * PROMISED < found.std() < 1.15 * PROMISED


@pytest.mark.parametrize(("stride", "run"), [(1, 1), (512, 1), (SKETCH_BUCKETS, 1), (SPAN, 200)])
def test_equal_elements_do_not_add_up(stride: int, run: int) -> None:
    # The worst cases of a sketch whose signs or whose rotations repeat from block to block, or from span to span.
    vector = np.zeros(6 * SPAN, np.float32)
    vector.reshape(-1, stride)[:, :run] = 1.0
    assert error(ratios(vector, seeds=40)) < 1.5 * PROMISED


def test_consensus_distance_against_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    common = 100 * rng.standard_normal(2 * SPAN + 5)  # what all peers share must not add noise
    vectors = (common + rng.standard_normal((6, common.size))).astype(np.float32)
    estimate = consensus_distance([sketch(vector, 7) for vector in vectors])
    assert estimate == pytest.approx(disagreement(vectors.astype(np.float64)), rel=0.05)
    assert consensus_distance([sketch(vectors[0], 7)] * 3) == 0.0


def test_distances_far_below_the_vectors_are_still_seen() -> None:
    rng = np.random.default_rng(3)
    common = rng.standard_normal(8 * SPAN)
    vectors = (common + 1e-6 * rng.standard_normal((2, common.size))).astype(np.float32)
    estimate = consensus_distance([sketch(vector, 7) for vector in vectors])
    assert estimate == pytest.approx(disagreement(vectors.astype(np.float64)), rel=0.06)


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[Layout, np.ndarray]]:
    """VGG-11 after three steps of each of four peers on their own digits.

    The layout, and (4, size) float32.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = small_config(dataset="digits", width=0.25, local_steps=3)
    dataset = data.load(data.prepare("digits", None, lambda *_: None))
    shards = data.partition(data.Request("iid", dataset.train_labels.numpy(), tuple("abcd"), 0, 10)).shards
    trainers = [Trainer(config, dataset, shard, CPU, peer) for peer, shard in enumerate(shards)]
    for trainer in trainers:
        trainer.train(1, lambda steps: None, lambda: False)
    yield trainers[0].layout, np.stack([trainer.host.numpy() for trainer in trainers])
    torch.set_num_threads(threads)


def test_a_real_distance_is_known_to_about_one_percent(trained: tuple[Layout, np.ndarray]) -> None:
    _, vectors = trained
    assert vectors.shape[1] > 4 * SPAN
    exact = disagreement(vectors.astype(np.float64))
    found = np.array([consensus_distance([sketch(vector, seed) for vector in vectors]) / exact for seed in range(25)])
    assert abs(found.mean() - 1) < 4 * PROMISED / 2 / math.sqrt(25)
    assert error(found) < 1.3 * PROMISED / 2


def test_disagreement_within_one_layer_is_seen_as_well(trained: tuple[Layout, np.ndarray]) -> None:
    layout, vectors = trained
    centred = vectors - vectors.mean(axis=0)
    sizes, found = [], []
    for slot in layout.slots:
        here = slice(slot.offset, slot.offset + slot.size)
        apart = np.zeros_like(centred)
        apart[:, here] = centred[:, here]
        sketches = [sketch(vector, 7) for vector in apart]
        sizes.append(slot.size)
        found.append(consensus_distance(sketches) / disagreement(apart.astype(np.float64)))
    assert min(sizes) < 20
    assert max(sizes) > SPAN
    assert np.abs(np.array(found) - 1).max() < 4 * PROMISED / 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [5, SKETCH_BUCKETS, 2 * SPAN + 5])
def test_the_sketch_of_weights_that_are_not_finite_is_not_finite(size: int, value: float) -> None:
    for place in (0, size // 2, size - 1):
        vector = np.ones(size, np.float32)
        vector[place] = value
        assert not np.isfinite(sketch(vector, 3)).all(), place
        vector[:] = -value
        assert not np.isfinite(sketch(vector, 3)).all()


def test_what_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    """Also where it cut the header."""
    record = train_record(make_topology("ring", 3), 0, 1, 4, 100)
    rows = np.arange(2 * SKETCH_BUCKETS, dtype=np.float32).reshape(2, -1)
    for number, row in enumerate(rows, start=1):
        append_round(tmp_path, msgspec.structs.replace(record, round=number), row)
    path = tmp_path / SKETCHES_FILE
    whole = path.read_bytes()
    assert len(whole) == file_size(2)
    for size in (0, 1, len(HEADER) - 1, len(HEADER), file_size(1) - 1, file_size(1), file_size(2) - 3, file_size(2)):
        path.write_bytes(whole[:size])
        kept = max(size - len(HEADER), 0) // (4 * SKETCH_BUCKETS)
        np.testing.assert_array_equal(read_sketches(tmp_path), rows[:kept])
