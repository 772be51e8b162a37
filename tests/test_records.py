"""Records are appended, read back and cut; sketches estimate the consensus distance."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from helpers import disagreement
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.records import (
    ROUNDS_FILE,
    SKETCH_BUCKETS,
    SKETCHES_FILE,
    RoundRecord,
    append_round,
    consensus_distance,
    decode_record,
    encode_record,
    read_rounds,
    read_sketches,
    sketch,
)

RECORD = RoundRecord(
    round=1,
    phase="train",
    steps=10,
    samples=320,
    train_loss=1.25,
    elapsed=2.0,
    seconds=2.0,
    train_seconds=1.5,
    exchange_seconds=0.25,
    wait_seconds=0.25,
    evaluate_seconds=0.0,
    bytes_sent=100,
    bytes_received=90,
    sent_to={"a/b": 60, "ü": 40},
)


def filled(folder: Path, rounds: int) -> tuple[list[RoundRecord], list[np.ndarray]]:
    records = [msgspec.structs.replace(RECORD, round=number) for number in range(1, rounds + 1)]
    sketches = [np.full(SKETCH_BUCKETS, number, np.float32) for number in range(1, rounds + 1)]
    for record, values in zip(records, sketches, strict=True):
        append_round(folder, record, values)
    return records, sketches


def test_appended_rounds_are_read_back(tmp_path: Path) -> None:
    assert read_rounds(tmp_path) == []
    assert read_sketches(tmp_path).shape == (0, SKETCH_BUCKETS)
    records, sketches = filled(tmp_path, 3)
    assert read_rounds(tmp_path) == records
    np.testing.assert_array_equal(read_sketches(tmp_path), sketches)
    assert decode_record(encode_record(RECORD)) == RECORD


@pytest.mark.parametrize("cut", [2, 5, 200])
def test_a_last_line_cut_off_by_a_crash_is_left_out(tmp_path: Path, cut: int) -> None:
    records, _ = filled(tmp_path, 3)
    file = tmp_path / ROUNDS_FILE
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_rounds(tmp_path) == records[:2]


def test_a_sketch_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    _, sketches = filled(tmp_path, 2)
    with open(tmp_path / SKETCHES_FILE, "ab") as file:
        file.write(b"\0" * 100)
    np.testing.assert_array_equal(read_sketches(tmp_path), sketches)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 3 * SKETCH_BUCKETS), seed=st.integers(0, 5), weight=st.floats(-4, 4))
def test_sketches_are_linear(size: int, seed: int, weight: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, size)).astype(np.float32)
    combined = sketch((a + np.float32(weight) * b).astype(np.float32), seed)
    np.testing.assert_allclose(combined, sketch(a, seed) + weight * sketch(b, seed), atol=1e-4)


def test_sketches_of_one_block_keep_the_length_exactly() -> None:
    vector = np.random.default_rng(0).standard_normal(SKETCH_BUCKETS).astype(np.float32)
    for seed in range(3):  # elements of one block never share a bucket
        assert np.linalg.norm(sketch(vector, seed)) == pytest.approx(np.linalg.norm(vector), rel=1e-6)
    assert not np.array_equal(sketch(vector, 0), sketch(vector, 1))


def test_squared_lengths_are_unbiased_with_the_promised_error() -> None:
    vector = np.random.default_rng(1).standard_normal(10 * SKETCH_BUCKETS).astype(np.float32)
    ratios = np.array([np.square(sketch(vector, seed)).sum() / np.square(vector).sum() for seed in range(300)])
    promised = math.sqrt(2 / SKETCH_BUCKETS)
    assert abs(ratios.mean() - 1) < 4 * promised / math.sqrt(300)
    assert 0.7 * promised < ratios.std() < 1.1 * promised


@pytest.mark.parametrize("stride", [1, SKETCH_BUCKETS])
def test_equal_elements_do_not_add_up(stride: int) -> None:
    # The worst cases of a sketch whose signs or whose rotations repeat from block to block.
    vector = np.zeros(64 * SKETCH_BUCKETS, np.float32)
    vector[::stride] = 1.0
    ratios = np.array([np.square(sketch(vector, seed)).sum() / vector.sum() for seed in range(60)])
    assert np.sqrt(np.square(ratios - 1).mean()) < 2 * math.sqrt(2 / SKETCH_BUCKETS)


def test_consensus_distance_against_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    common = 100 * rng.standard_normal(50_000)  # what all peers share must not add noise
    vectors = (common + rng.standard_normal((6, 50_000))).astype(np.float32)
    estimate = consensus_distance([sketch(vector, 7) for vector in vectors])
    assert estimate == pytest.approx(disagreement(vectors.astype(np.float64)), rel=0.05)
    assert consensus_distance([sketch(vectors[0], 7)] * 3) == 0.0
