"""Records and sketches are appended, read back and cut."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from p2pfl.model.sketches import SKETCH_BUCKETS
from p2pfl.run.paths import ROUNDS_FILE
from p2pfl.run.records import RoundRecord, append_round, decode_record, encode_record, read_rounds
from p2pfl.run.sketch_file import read_sketches

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
