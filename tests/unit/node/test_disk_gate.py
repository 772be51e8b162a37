"""Trained weights leave a peer only when its last checkpoint is on disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfl.errors import CheckpointError
from p2pfl.node.disk_gate import DiskGate

TRAINED: Any = SimpleNamespace(loss=0.5)


class SlowDisk:
    """Compute port whose tasks aside end when the test says."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []

    def submit_aside(self, work: Callable[[], None]) -> Future[None]:
        self.futures.append(Future())
        return self.futures[-1]


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def gate(disk: SlowDisk) -> DiskGate:
    return DiskGate(disk)  # type: ignore[arg-type]


def test_without_a_checkpoint_nothing_is_held(gate: DiskGate) -> None:
    assert gate.release() is None
    gate.hold(TRAINED)
    assert gate.release() is TRAINED
    assert gate.release() is None


def test_a_training_waits_for_the_disk(gate: DiskGate, disk: SlowDisk) -> None:
    gate.save(lambda: None)
    gate.hold(TRAINED)
    assert gate.release() is None
    disk.futures[0].set_result(None)
    assert gate.release() is TRAINED
    assert gate.release() is None


def test_a_disk_that_fails_is_reported_before_anything_leaves(gate: DiskGate, disk: SlowDisk) -> None:
    gate.save(lambda: None)
    disk.futures[0].set_exception(CheckpointError("no space"))
    with pytest.raises(CheckpointError, match="no space"):
        gate.release()


def test_the_end_waits_for_the_disk(gate: DiskGate, disk: SlowDisk) -> None:
    gate.finish()
    gate.save(lambda: None)
    disk.futures[0].set_exception(CheckpointError("no space"))
    with pytest.raises(CheckpointError, match="no space"):
        gate.finish()


def test_at_most_one_is_behind(gate: DiskGate, disk: SlowDisk) -> None:
    gate.save(lambda: None)
    disk.futures[0].set_exception(CheckpointError("no space"))
    with pytest.raises(CheckpointError, match="no space"):
        gate.save(lambda: None)
    assert len(disk.futures) == 1
