"""Choice among trials, cautions, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.errors import ConfigError
from p2pfl.report.compare.tuning import CellTuning, Trial, Tuning, cautions, read_tuning, tuning_of, write_tuning


def cell(*accuracies: float | str | None, name: str = "ring") -> CellTuning:
    """Trials with learning rates 0.1, 0.2, …; text: the reason why one diverged."""
    trials = []
    for number, value in enumerate(accuracies, 1):
        values = {"lr": round(0.1 * number, 1)}
        known = (None, value) if isinstance(value, str) else (value, "")
        trials.append(Trial(f"{name}-{number}", values, *known))
    return CellTuning(name, trials)


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ((0.5, 0.7, 0.6), 0.2),
        ((0.5, 0.7, 0.7), 0.2),  # of equal ones the smaller
        ((0.5, "not finite", 0.6), 0.3),
        (("not finite", "not finite"), None),
        ((0.0, None), 0.1),
    ],
)
def test_the_most_accurate_trial_is_chosen(accuracies: tuple, chosen: float | None) -> None:
    best = cell(*accuracies).chosen
    assert (best and best.values["lr"]) == chosen


def test_a_choice_at_the_end_of_the_list_is_a_caution() -> None:
    rising, falling = cell(0.1, 0.2, 0.3, name="a"), cell(0.3, 0.2, 0.1, name="b")
    inside, lost = cell(0.1, 0.3, "nan", name="c"), cell("nan", "inf", name="d")
    bare = CellTuning("f", [Trial("f-1", {"lr": 0.1}, unmeasured="ended"), Trial("f-2", {"lr": 0.2}, diverged="nan")])
    said = cautions(Tuning(0, 0.1, [rising, falling, inside, lost, cell(0.4, name="e"), bare]))
    assert said == [
        "d: all trials diverged (lr 0.1; lr 0.2), so it was not run; add smaller values to --tune",
        "f: 1 of 2 trials diverged, and the others ended without a model to measure (lr 0.1; lr 0.2), so it was not "
        "run; add smaller values to --tune",
        "a: the best lr, 0.3, is the largest tried; widen the list",
        "b: the best lr, 0.1, is the smallest tried; widen the list",
    ]


def test_only_runs_with_chosen_values_belong_to_a_tuning(tmp_path: Path) -> None:
    write_tuning(tmp_path, Tuning(0, 0.1, [cell(0.5, 0.6), cell("nan", name="mesh")]))
    own = [tmp_path / "ring-lr-0.2-seed-0", tmp_path / "ring-lr-0.2-seed-1"]
    assert tuning_of(tmp_path, own) == read_tuning(tmp_path)
    for other in ("ring-lr-0.1-seed-0", "ring-seed-0", "mesh-lr-0.1-seed-0", "runs/ring-lr-0.2-seed-0"):
        assert tuning_of(tmp_path, [*own, tmp_path / other]) is None


def test_trials_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_tuning(tmp_path) is None
    tuning = Tuning(3, 0.2, [cell(0.5, "the loss is nan"), cell(None, 0.25, name="mesh")])
    write_tuning(tmp_path, tuning)
    assert read_tuning(tmp_path) == tuning
    (tmp_path / "tuning" / "chosen.json").write_text("{")
    with pytest.raises(ConfigError, match=r"chosen\.json: not readable"):
        read_tuning(tmp_path)
