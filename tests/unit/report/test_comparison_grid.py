"""Grids of methods and partitions: matching, tables, page, filters."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.browser import CHROMIUM, in_browser
from tests.support.comparison_runs import FEDERATED, make_run

from p2pfl.report.compare import Comparison, find_mismatches, load_entries, terminal_grid, write_comparison
from p2pfl.report.compare.dimensions import grid_of
from p2pfl.report.compare.export import table_csv
from p2pfl.report.compare.table import best_of
from p2pfl.report.compare.tuning import CellTuning, Trial, Tuning, read_tuning, write_tuning
from p2pfl.run.partition_file import keep_partition

PARTITIONS = ("iid", "dirichlet:0.5")
KINDS = {
    "ring-dpsgd": {"algorithm": "dpsgd", "accuracy": 0.7},
    "ring-quasi": {"algorithm": "quasi-global", "accuracy": 0.72, "lr": 0.1},
    "fedavg": {**FEDERATED, "accuracy": 0.71},
    "local": {"mode": "local", "accuracy": 0.5},
}


def grid_runs(folder: Path, seeds: tuple[int, ...] = (0, 1), sgd: bool = True) -> list[Path]:
    runs = []
    for seed in seeds:
        for name, kind in KINDS.items():
            for place, partition in enumerate(PARTITIONS):
                accuracy = kind["accuracy"] - 0.1 * place + 0.01 * seed
                own = {**kind, "accuracy": accuracy, "partition": partition, "seed": seed}
                runs.append(make_run(folder / f"{name}-{place}-lr-0.1-seed-{seed}", **own))
        if sgd:
            runs.append(make_run(folder / f"sgd-lr-0.1-seed-{seed}", "sgd", accuracy=0.9, seed=seed))
    return runs


def tuning() -> Tuning:
    trials = [Trial("ring-lr-0.1", {"lr": 0.1}, 0.6), Trial("ring-lr-0.2", {"lr": 0.2}, None, "the loss is nan")]
    names = [f"{name}-{place}" for name in KINDS for place in range(len(PARTITIONS))]
    return Tuning(0, 0.1, [CellTuning(name, trials) for name in (*names, "sgd")])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("grid")
    runs = grid_runs(folder)
    make_run(folder / "tuning" / "ring-lr-0.1", accuracy=0.6)
    write_tuning(folder, tuning())
    return write_comparison(folder, runs)


def test_a_whole_grid_is_matched_and_its_partitions_are_columns(tmp_path: Path) -> None:
    entries = load_entries(grid_runs(tmp_path))
    assert find_mismatches(entries) == []
    grid = grid_of(entries)
    assert grid.columns == PARTITIONS
    assert [row.label for row in grid.rows] == ["ring-4, dpsgd", "ring-4, quasi-global", "FedAvg 4/4", "local", "SGD"]
    assert all(cell is not None for row in grid.rows for cell in row.cells)
    assert grid.rows[-1].cells[0] is grid.rows[-1].cells[1], "pooled data have no partition"


def test_half_a_grid_is_no_comparison(tmp_path: Path) -> None:
    entries = load_entries(grid_runs(tmp_path, seeds=(0,))[1:])
    said = [mismatch.sentence for mismatch in find_mismatches(entries)]
    assert any(one.startswith("different partition (--partition): ") for one in said)


def test_labels_name_algorithm_and_partition_but_no_rate_that_follows(tmp_path: Path) -> None:
    labels = [entry.label for entry in load_entries(grid_runs(tmp_path, seeds=(0,)))]
    assert labels[:3] == ["ring-4, dpsgd, iid", "ring-4, dpsgd, dirichlet:0.5", "ring-4, quasi-global, iid"]
    assert labels[-1] == "SGD"


def test_the_best_is_that_of_each_partition(tmp_path: Path) -> None:
    entries = load_entries(grid_runs(tmp_path))
    found = best_of(Comparison(tmp_path, tuple(entries), (), ()), "consensus_accuracy")
    assert found == {"ring-4, quasi-global, iid", "ring-4, quasi-global, dirichlet:0.5"}


@pytest.mark.usefixtures("blank_plots")
def test_other_runs_in_the_folder_of_a_tuned_comparison_have_no_trials(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", mode="local")]
    (tmp_path / "all" / "plots").mkdir(parents=True)
    write_tuning(tmp_path / "all", tuning())
    (tmp_path / "all" / "plots" / "tuning-values.png").touch()
    assert write_comparison(tmp_path / "all", runs).tuning is None
    assert not (tmp_path / "all" / "plots" / "tuning-values.png").exists()
    assert "No trial has read the test set" not in (tmp_path / "all" / "report.html").read_text(encoding="utf-8")
    assert read_tuning(tmp_path / "all") == tuning(), "kept, for the runs that are its own"


def test_a_plain_comparison_has_no_grid(tmp_path: Path) -> None:
    entries = load_entries([make_run(tmp_path / "a"), make_run(tmp_path / "b", mode="local")])
    assert terminal_grid(Comparison(tmp_path, tuple(entries), (), ())) is None


def test_the_terminal_shows_means_and_deviations(tmp_path: Path) -> None:
    comparison = Comparison(tmp_path, tuple(load_entries(grid_runs(tmp_path))), (), ())
    console = Console(width=100, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    console.print(terminal_grid(comparison))
    lines = console.export_text().splitlines()
    assert re.search(r"ring-4, quasi-global +72\.5 ±0\.7 lr 0\.1\* +62\.5 ±0\.7 lr 0\.1\*", "\n".join(lines))
    assert re.search(r"local +\(.*\) lr 0\.02 +\(.*\) lr 0\.02", "\n".join(lines))
    assert re.search(r"SGD +90\.0 ±0\.0 lr 0\.02 +90\.0 ±0\.0 lr 0\.02 *$", "\n".join(lines), re.MULTILINE)
    assert " ".join(lines[-2:]).endswith("Plain SGD, on pooled data, is not marked.")


def test_every_tuned_value_that_differs_stands_in_the_grid(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", algorithm="dpsgd", momentum=0.0, accuracy=0.81),
        make_run(tmp_path / "b", algorithm="quasi-global", momentum=0.8),
    ]
    console = Console(width=100, record=True, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    console.print(terminal_grid(Comparison(tmp_path, tuple(load_entries(runs)), (), ())))
    text = console.export_text()
    assert re.search(r"dpsgd +\S+ momentum 0\*", text)
    assert re.search(r"quasi-global +\S+ momentum 0\.8", text)
    assert "lr" not in text
    assert "SGD, on pooled" not in text


@pytest.mark.processes
def test_csv_and_json_have_all_runs_and_the_grid(written: Comparison) -> None:
    with open(written.folder / "comparison-runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 * 2 + 1)
    one = next(row for row in rows if row["run"].endswith("ring-quasi-1-lr-0.1-seed-1"))
    assert (one["place"], one["algorithm"], one["partition"]) == ("ring-4", "quasi-global", "dirichlet:0.5")
    assert (one["seed"], one["lr"], float(one["consensus_accuracy"])) == ("1", "0.1", pytest.approx(0.63))
    found = json.loads((written.folder / "comparison.json").read_text())
    assert found["grid"]["rows"][1]["cells"][1]["mean"]["consensus_accuracy"] == pytest.approx(0.625)
    assert found["grid"]["rows"][1]["cells"][1]["std"]["consensus_accuracy"] == pytest.approx(0.01 / 2**0.5)
    assert len(found["runs"]) == len(rows)
    assert found["tuning"]["cells"][0]["chosen"] == {"lr": 0.1}


@pytest.mark.processes
def test_the_page_has_the_grid_the_trials_and_one_script_known_by_its_digest(written: Comparison) -> None:
    text = (written.folder / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "<option>quasi-global</option>" in text
    assert "72.50 ± 0.71 %" in text
    assert "partitions of the same samples share one run of it, which is not marked as best" in text
    assert 'id="tuning-values"' in text
    assert 'title="the loss is nan">diverged<' in text
    assert "ring-dpsgd-0, ring-dpsgd-1, ring-quasi-0" in text
    assert ": the best lr, 0.1, is the smallest tried" in text
    assert 'class="entry-0"' in text
    assert 'id="entry-0"' not in text


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_filters_hide_rows_columns_and_curves(written: Comparison, tmp_path: Path) -> None:
    text = (written.folder / "report.html").read_text(encoding="utf-8")
    chosen = text.replace("<option>quasi-global</option>", "<option selected>quasi-global</option>")
    measure = "document.title = document.documentElement.scrollWidth"
    digest = base64.b64encode(hashlib.sha256(measure.encode()).digest()).decode()
    chosen = chosen.replace("script-src ", f"script-src 'sha256-{digest}' ").replace(
        "</body>", f"<script>{measure}</script></body>"
    )
    (tmp_path / "page.html").write_text(chosen, encoding="utf-8")
    _, complaints = in_browser(tmp_path / "page.html", tmp_path / "profile")
    assert "Content Security Policy" not in complaints
    command = [str(CHROMIUM), *["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]]
    command += ["--window-size=600,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout
    assert int(re.findall(r"<title>(\d+)<", seen)[0]) <= 600, "tables scroll within the page, which does not"
    rows = re.findall(r'<tr data-e="(\d+)"[^>]*data-algorithm="([^"]*)"[^>]*>', seen)
    hidden = {e for e, _ in re.findall(r'<tr data-e="(\d+)"([^>]*) hidden=""', seen)}
    assert hidden == {e for e, algorithm in rows if algorithm == "dpsgd"}, "modes without an algorithm stay"
    curves = re.findall(r'class="entry-(\d+)"( style="display: none;")?', seen)
    assert {e for e, none in curves if none} == hidden & {e for e, _ in curves}
    assert '<form id="filters" class="filters" aria-label="Filters">' in seen, "shown, now that it works"


def with_files(folder: Path, *paths: str) -> list[Path]:
    """Runs of files with one sample each, another one for each path, and of iid."""
    runs = [make_run(folder / "iid", partition="iid")]
    for number, path in enumerate(paths):
        given = folder / path
        given.parent.mkdir(exist_ok=True)
        given.write_text(f"sample,peer\n{number},0\n")
        runs.append(make_run(folder / f"run-{number}", partition="file:partition.csv"))
        keep_partition(runs[-1], str(given), Path.write_bytes)
    return runs


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("ok.csv", "b.csv"), ("file:ok.csv", "file:b.csv")),
        (("old/ok.csv", "new/ok.csv"), ("file:old/ok.csv", "file:new/ok.csv")),
    ],
)
def test_partitions_of_files_have_the_names_that_their_user_gave(
    tmp_path: Path, paths: tuple[str, ...], names: tuple[str, ...]
) -> None:
    entries = tuple(load_entries(with_files(tmp_path, *paths)))
    comparison = Comparison(tmp_path, entries, (), ())
    assert grid_of(comparison.entries).columns == ("iid", *names)
    assert [entry.label for entry in comparison.entries] == [f"ring-4, {name}" for name in ("iid", *names)]
    rows = list(csv.DictReader(table_csv(comparison).splitlines()))
    assert [row["partition"] for row in rows] == ["iid", *names]


def test_files_of_one_path_and_other_contents_are_told_apart_by_their_digests(tmp_path: Path) -> None:
    _, first, second = grid_of(load_entries(with_files(tmp_path, "f/ok.csv", "f/ok.csv"))).columns
    assert re.fullmatch(r"file:ok\.csv \([0-9a-f]{10}\)", first)
    assert first != second
