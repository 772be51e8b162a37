"""Records and sketches are appended, read back and cut."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from p2pfl.errors import ConfigError
from p2pfl.records import (
    ROUNDS_FILE,
    RoundRecord,
    append_round,
    decode_record,
    encode_record,
    read_rounds,
    truncate,
)
from p2pfl.sketches import SKETCH_BUCKETS, SKETCHES_FILE, read_sketches

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


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_a_last_line_cut_off_by_a_crash_is_left_out(tmp_path: Path, cut: int) -> None:
    records, _ = filled(tmp_path, 3)
    file = tmp_path / ROUNDS_FILE
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_rounds(tmp_path) == records[:2]


@pytest.mark.parametrize("damage", [b"{}", b"no json", b'{"round": 2, "phase": "\xff"}', b"\xff\xfe", b""])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    filled(tmp_path, 3)
    file = tmp_path / ROUNDS_FILE
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(ConfigError, match=r"rounds\.jsonl:2: not a round record"):
        read_rounds(tmp_path)


@pytest.mark.parametrize("kept", [0, 2, 3, 9])
def test_truncating_and_going_on(tmp_path: Path, kept: int) -> None:
    records, sketches = filled(tmp_path, 3)
    with open(tmp_path / ROUNDS_FILE, "ab") as file:
        file.write(b'{"round": 4, "pha')  # the crash that is resumed from
    with open(tmp_path / SKETCHES_FILE, "ab") as file:
        file.write(b"\1" * (SKETCH_BUCKETS * 4 + 7))
    assert truncate(tmp_path, kept) == records[:kept]
    assert read_rounds(tmp_path) == records[:kept]
    following = msgspec.structs.replace(RECORD, round=kept + 1)
    append_round(tmp_path, following, np.zeros(SKETCH_BUCKETS, np.float32))
    assert read_rounds(tmp_path) == [*records[:kept], following]
    np.testing.assert_array_equal(read_sketches(tmp_path), [*sketches[:kept], np.zeros(SKETCH_BUCKETS)])
