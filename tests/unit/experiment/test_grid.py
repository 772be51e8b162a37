"""Runs of a comparison that are in its folder already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.config import replace_options
from p2pfl.errors import ConfigError, DivergenceError, P2PFLError
from p2pfl.experiment import grid, tune
from p2pfl.experiment.grid import GridPlan
from p2pfl.experiment.plan import CompareOptions, plan_cells
from p2pfl.experiment.tune import TuneOptions, plan_tuning
from p2pfl.report.compare.tuning import read_tuning
from p2pfl.run.directory import create_run_dir

BASE = RunConfig.of(dataset="digits", rounds=4, local_steps=5, batch_size=8)


def planned(*rates: float, **options: Any) -> GridPlan:
    cells = plan_cells(replace_options(BASE, **options), CompareOptions((make_topology("ring", 3),)))
    return GridPlan(cells, (0,), plan_tuning(cells, TuneOptions({"lr": rates}), 0) if rates else None)


def diverge(config: RunConfig, topology: Any, **_: Any) -> None:
    create_run_dir(topology, config)
    raise DivergenceError("the training loss is nan in round 1")


def test_a_lost_trial_is_not_run_again_but_with_other_settings_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(grid, "run", diverge)
    for _ in range(2):
        with pytest.raises(
            P2PFLError, match="no cell has a value to run with: all trials diverged; add smaller values to --tune"
        ):
            grid.run_grid(tmp_path, planned(0.5), said.append, again="again")
    assert sum("(lost: the training loss is nan" in line for line in said) == 1
    with pytest.raises(ConfigError, match=r"was made with --momentum 0\.9, not 0\.5; choose another --run-dir"):
        grid.run_grid(tmp_path, planned(0.5, momentum=0.5), said.append, again="again")


def test_a_lost_trial_that_left_no_folder_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[float] = []

    def diverge_at_once(config: RunConfig, topology: Any, **_: Any) -> None:
        begun.append(config.training.momentum)
        raise DivergenceError("the weights are not finite")

    monkeypatch.setattr(grid, "run", diverge_at_once)
    for momentum in (0.9, 0.9, 0.5, 0.5):
        with pytest.raises(P2PFLError, match="all trials diverged"):
            grid.run_grid(tmp_path, planned(0.5, momentum=momentum), print, again="again")
    assert begun == [0.9, 0.5], "once with each settings"


def test_a_trial_without_a_model_is_not_called_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    summary = {"consensus_accuracy": None, "lost_peers": ["0", "2"]}
    monkeypatch.setattr(grid, "run", lambda *_, **__: None)
    monkeypatch.setattr(tune, "complete_summary", lambda path: summary)
    with pytest.raises(
        P2PFLError, match="all trials ended without a model to measure; delete their folders below tuning/"
    ):
        grid.run_grid(tmp_path, planned(0.1, 0.5), said.append, again="again")
    assert said[-1] == "gossip-ring-3: all trials ended without a model to measure; it is left out"
    tuning = read_tuning(tmp_path)
    assert tuning is not None
    assert {trial.lost for trial in tuning.cells[0].trials} == {"ended without a final model (lost: 0, 2)"}
    assert {trial.diverged for trial in tuning.cells[0].trials} == {""}


def test_only_runs_of_the_plan_tell_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["tuning/gossip-ring-3-lr-0.5", "tuning/gossip-ring-3-lr-0.1", "gossip-ring-3-lr-0.5-seed-0"]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.toml").touch()
    monkeypatch.setattr(grid, "complete_summary", lambda path: {"seconds": 40.0, "samples_total": 480})
    assert planned(0.5).first.samples == 480
    left = f"by the {{}} in {tmp_path}"
    assert grid.time_left(tmp_path, planned(0.5)) == f"about 0 s left, {left.format('2 runs')}"
    assert grid.time_left(tmp_path, planned(0.1)) == f"about 40 s left, {left.format('1 run')}"
    assert grid.time_left(tmp_path, planned()) is None


def test_every_partition_and_seed_is_tried_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = (make_topology("ring", 20),)
    monkeypatch.setattr(grid, "run", lambda *_, **__: pytest.fail("nothing is to run"))
    grids = {
        "gossip-ring-20-dirichlet-0.0001-seed-0": CompareOptions(ring, partitions=("iid", "dirichlet:0.0001")),
        "gossip-ring-20-seed-1": CompareOptions(ring, seeds=(1, 4)),
    }
    for name, wanted in grids.items():
        base = replace_options(BASE, partition="dirichlet:0.0001")
        with pytest.raises(ConfigError, match=f"^{name}: --partition .* none of 1,000 draws"):
            grid.run_grid(tmp_path, GridPlan(plan_cells(base, wanted), wanted.seeds), print, again="again")
