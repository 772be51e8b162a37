"""Reports of runs with a validation set never mix its accuracies with others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from tests.support.runs import make_run, make_sgd

from p2pfl.config import EvaluationSet
from p2pfl.report import load_run, style, summarize, write_report
from p2pfl.report.compare import load_entries
from p2pfl.report.compare.accuracy import accuracy_against, draw_spread
from p2pfl.report.compare.consensus import draw_topologies
from p2pfl.report.compare.curves import curve, mean_final_point
from p2pfl.report.curves import Axis, draw_accuracy
from p2pfl.report.evaluated import accuracy_label, curve_set, latest_accuracies, latest_set
from p2pfl.run.paths import ROUNDS_FILE
from p2pfl.run.records import append_round, read_rounds
from p2pfl.topology import make_topology

RING = make_topology("ring", 4)
VALIDATED: dict[int, EvaluationSet] = dict.fromkeys(range(1, 8), "validation")


def measured_on(run_dir: Path, sets: Mapping[int, EvaluationSet]) -> Path:
    """Say of a made run's rounds on which set they were evaluated."""
    for folder in (run_dir / "peers").iterdir():
        records = read_rounds(folder)
        (folder / ROUNDS_FILE).unlink()
        for record in records:
            on = sets.get(record.round, "test") if record.test_accuracy is not None else None
            append_round(folder, msgspec.structs.replace(record, evaluated_on=on), None)
    return run_dir


@pytest.fixture
def tested(tmp_path: Path) -> Path:
    """A run whose last training round and final model were evaluated on the test set."""
    return measured_on(
        make_run(tmp_path / "tested", RING, rounds=8), {2: "validation", 4: "validation", 6: "validation"}
    )


def test_a_summary_names_the_set_of_its_accuracies(tmp_path: Path, tested: Path) -> None:
    assert summarize(tested)["evaluated_on"] == "test"
    assert summarize(make_run(tmp_path / "old", RING))["evaluated_on"] == "test", "records that do not say it"
    validated = measured_on(make_sgd(tmp_path / "sgd"), VALIDATED)
    assert summarize(validated)["evaluated_on"] == "validation"
    assert summarize(make_sgd(tmp_path / "begun", finished=1))["evaluated_on"] is None


def test_a_curve_has_one_set_and_the_other_is_marked(tested: Path) -> None:
    run = load_run(tested)
    assert curve_set(run) == "validation"
    with style.styled():
        (axes,) = draw_accuracy(run, Axis("round")).axes
    assert axes.get_ylabel() == "accuracy (%)"
    labels = axes.get_legend_handles_labels()[1]
    assert "on the test set" in labels
    assert "measured on 100 validation samples" in labels
    assert any(label.startswith("consensus model on the test set, 91.25 %") for label in labels)
    (mean,) = (line for line in axes.get_lines() if line.get_label() == "mean of the peers")
    assert list(mean.get_xdata()) == [2, 4, 6]


def test_without_the_test_set_the_axis_names_the_other(tmp_path: Path) -> None:
    run = load_run(measured_on(make_sgd(tmp_path / "run"), VALIDATED))
    with style.styled():
        (axes,) = draw_accuracy(run, Axis("round")).axes
    assert axes.get_ylabel() == "validation accuracy (%)"
    assert "on the test set" not in axes.get_legend_handles_labels()[1]


def test_latest_accuracies_are_of_one_set(tested: Path) -> None:
    """A peer that was lost before the last round has none of the others' set."""
    folder = tested / "peers" / RING.node_path(3)
    records = read_rounds(folder)
    (folder / ROUNDS_FILE).unlink()
    for record in records[:6]:
        append_round(folder, record, None)
    run = load_run(tested, ["3"])
    assert latest_set(run) == "test"
    found = latest_accuracies(run)
    assert found[3] is None
    assert all(value is not None for value in found[:3])


def test_comparisons_draw_one_set_and_end_on_the_other(tmp_path: Path, tested: Path) -> None:
    (entry,) = load_entries([tested])
    assert curve(entry).position["rounds"].tolist() == [2, 4, 6]
    end = mean_final_point(entry)
    assert end is not None
    assert end.mean == 0.9125
    with style.styled():
        assert accuracy_against("rounds")([entry]).axes[0].get_ylabel() == "accuracy (%)"
        assert draw_spread([entry]).axes[0].get_xlabel() == "test accuracy (%)"
        assert draw_topologies([entry]).axes[-1].get_ylabel() == "test accuracy (%)"
    validated = load_entries([measured_on(make_sgd(tmp_path / "sgd"), VALIDATED)])
    with style.styled():
        assert accuracy_against("rounds")(validated).axes[0].get_ylabel() == "validation accuracy (%)"


@pytest.mark.usefixtures("blank_plots")
def test_a_page_marks_what_is_no_test_accuracy(tmp_path: Path) -> None:
    page = write_report(measured_on(make_sgd(tmp_path / "run"), VALIDATED)).read_text()
    assert "model (validation)" in page
    assert " % (validation)" in page
    assert "(validation)" not in write_report(make_sgd(tmp_path / "plain")).read_text()


def test_labels_of_axes() -> None:
    assert accuracy_label([]) == "test accuracy (%)"
    assert accuracy_label(["validation", "validation"]) == "validation accuracy (%)"
    assert accuracy_label(["validation", "test"]) == "accuracy (%)"
