"""Trials of a tuned comparison, the choice among them, and the runs that follow."""

from __future__ import annotations

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.errors import ConfigError
from p2pfl.experiment.plan import Cell, CompareOptions, plan_cells
from p2pfl.experiment.tune import TuneOptions, plan_final, plan_tuning

BASE = {"dataset": "digits", "rounds": 20, "local_steps": 5, "batch_size": 8}


def cells(**options: object) -> list[Cell]:
    wanted = CompareOptions((make_topology("ring", 4),), (2,), sgd=True)
    return plan_cells(RunConfig.of(**{**BASE, **options}), wanted)


def test_trials_never_read_the_test_set_and_last_as_asked() -> None:
    tuned = plan_tuning(cells(), TuneOptions({"lr": (0.0125, 0.4)}, share=0.5, validation=0.2), seed=7)
    names = [trial.planned.name for one in tuned for trial in one.trials]
    assert names[:2] == ["gossip-ring-4-lr-0.0125", "gossip-ring-4-lr-0.4"]
    for one in tuned:
        for trial in one.trials:
            config = trial.planned.config
            assert (config.data.validation, config.data.test, config.record.seed) == (0.2, False, 7)
            assert config.training.lr == trial.values["lr"]
            assert config.training.rounds == one.cell.config.training.rounds / 2
            assert config.training.rounds // config.record.eval_every == 10
    rounds = {one.cell.name: one.trials[0].planned.config.training.rounds for one in tuned}
    assert rounds == {"gossip-ring-4": 10, "centralized-2-of-4": 20, "sgd": 10}, "matched, as the runs are"
    assert len({trial.planned.samples for one in tuned for trial in one.trials}) == 1


def test_the_runs_that_follow_use_all_data_and_read_the_test_set_once() -> None:
    (cell, *_) = cells(validation=0.1)
    first, second = plan_final(cell, {"lr": 0.05}, (3, 4))
    assert (first.name, second.name) == ("gossip-ring-4-lr-0.05-seed-3", "gossip-ring-4-lr-0.05-seed-4")
    config = second.config
    assert (config.training.lr, config.record.seed, config.training.rounds) == (0.05, 4, 20)
    assert (config.data.validation, config.data.test, config.record.eval_every) == (0.0, True, 20)


def test_several_options_are_tried_in_all_combinations() -> None:
    (one, *_) = plan_tuning(cells(), TuneOptions({"lr": (0.1, 0.2), "momentum": (0.0, 0.9)}), seed=0)
    assert [trial.values for trial in one.trials] == [
        {"lr": lr, "momentum": momentum} for lr in (0.1, 0.2) for momentum in (0.0, 0.9)
    ]
    assert one.trials[1].planned.name == "gossip-ring-4-lr-0.1-momentum-0.9"


def test_epochs_of_trials_are_shorter_by_what_is_held_back() -> None:
    options = {"local_steps": None, "local_epochs": 2, "round_length": "epochs"}
    tuned = plan_tuning(cells(**options), TuneOptions({"lr": (0.1, 0.2)}, validation=0.5), seed=0)
    steps = {one.cell.name: {trial.planned.steps for trial in one.trials} for one in tuned}
    half = 2 * (1438 // 2 // 4 // 8)  # of 1438 samples, on 4 peers, in batches of 8
    assert steps["gossip-ring-4"] == steps["centralized-2-of-4"] == {half}
    whole = 2 * (45 + 45 + 44 + 44)  # of shards of 360 and 359 samples
    assert steps["sgd"] == {whole}, "a number of steps, whatever is held back"
    assert tuned[0].trials[0].planned.samples == 20 * half * 8 * 4
    assert tuned[0].cell.with_seed(0).samples == 20 * whole * 8


def test_a_value_that_does_not_fit_names_the_cell() -> None:
    with pytest.raises(ConfigError, match="--tune: gossip-ring-4: --lr 0"):
        plan_tuning(cells(), TuneOptions({"lr": (0.0, 0.1)}), seed=0)
    with pytest.raises(ConfigError, match=r"--tune: gossip-ring-4: --momentum 0\.?0?: quasi-global"):
        plan_tuning(cells(algorithm="quasi-global"), TuneOptions({"momentum": (0.0, 0.9)}), seed=0)
