"""Incarnations: each is larger than all before, whatever happens to the file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from p2pfl.errors import CheckpointError
from p2pfl.run.identity import next_incarnation
from p2pfl.run.paths import INCARNATION_FILE


def test_each_start_has_the_next_number_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next_incarnation(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert [next_incarnation(tmp_path) for _ in range(3)] == [first + 1, first + 2, first + 3]


@pytest.mark.parametrize("content", [b"", b"-3", b"one", b"\xff\xfe", b"9" * 40])
def test_a_lost_number_is_followed_by_a_larger_one(tmp_path: Path, content: bytes) -> None:
    before = next_incarnation(tmp_path)
    (tmp_path / INCARNATION_FILE).write_bytes(content)
    assert before <= next_incarnation(tmp_path) < 2**35


def test_a_number_that_cannot_be_saved_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "peer").write_text("")
    with pytest.raises(CheckpointError, match=INCARNATION_FILE):
        next_incarnation(tmp_path / "peer")
