"""Order in which a process's records and checkpoints reach the disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.support.runs import train_record
from torch import nn

from p2pfl import RunConfig, make_topology
from p2pfl.modes import assign_roles, topology_of
from p2pfl.node import recorder
from p2pfl.node.checkpoint_plan import checkpoint_plan
from p2pfl.node.recorder import Recorder
from p2pfl.run.checkpoint import Origin
from p2pfl.run.settings import fault_script

ROUNDS = 9
TRAINER: Any = SimpleNamespace(
    layout=SimpleNamespace(digest=""),
    steps=1,
    host=torch.zeros(3),
    momentum=torch.zeros(3),
    optimizer_state={},
    model=nn.Linear(1, 1),
)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that were taken, in order."""
    found: list[str] = []
    monkeypatch.setattr(recorder.records, "sync", lambda folder: found.append("records synced"))
    monkeypatch.setattr(recorder.checkpoint, "write", lambda *_: found.append("written"))
    monkeypatch.setattr(recorder.checkpoint, "complete", lambda *_: found.append("synced"))
    return found


def recorder_of(folder: Path, index: int, **options: Any) -> Recorder:
    config = RunConfig.of(rounds=ROUNDS, dataset="digits", **options)
    topology = topology_of(config) or make_topology("ring", 3)
    roles = assign_roles(config, topology)
    plan = checkpoint_plan(config, roles, index, fault_script(config, topology), 0)
    return Recorder(config, folder, folder, False, False, "", Origin(), 1, [], plan)


def done(store: Recorder, round: int) -> Any:
    store.record(train_record(make_topology("ring", 3), 0, round, ROUNDS, 10), None)
    return store.save(round, TRAINER, {}, {})


def test_what_is_left_of_a_save_is_the_wait_for_the_disk(tmp_path: Path, steps: list[str]) -> None:
    left = done(recorder_of(tmp_path, 1), 1)
    assert steps == ["written"]
    left()
    assert steps == ["written", "records synced", "synced"]


def test_nothing_is_left_after_the_last_training_round(tmp_path: Path, steps: list[str]) -> None:
    assert done(recorder_of(tmp_path, 1), ROUNDS) is None
    assert steps[-1] == "synced"


def test_a_coordinator_waits_for_the_disk_before_it_sends_again(tmp_path: Path, steps: list[str]) -> None:
    """It trains nothing, so that nothing would hold back the next round's weights."""
    sizes = {"mode": "centralized", "num_clients": 3, "num_selected": 2}
    assert done(recorder_of(tmp_path, 3, **sizes), 1) is None
    assert steps[-1] == "synced"
    assert done(recorder_of(tmp_path, 0, **sizes), 2) is not None, "a client"


def test_records_of_rounds_between_reach_the_disk_before_a_checkpoint(tmp_path: Path, steps: list[str]) -> None:
    """It may be on disk before all else, and holds the record of one round alone."""
    store = recorder_of(tmp_path, 1, checkpoint_every=3)
    for round in (1, 2, 3, 4, 5, 6):
        done(store, round)
    assert steps == ["records synced", "written"] * 2
