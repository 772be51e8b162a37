from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.comparison_runs import make_run, matched
from tests.support.runs import HOSTILE, hostile_topology

from p2pfl.errors import ConfigError
from p2pfl.report import FIELDS, read_summary
from p2pfl.report.compare import Comparison, load_entries, write_comparison
from p2pfl.report.compare.export import as_json, table_csv
from p2pfl.report.compare.line_styles import line_style, short_label, spread_positions
from p2pfl.report.compare.plots import PLOTS
from p2pfl.topology import make_topology

COMMAND = "p2pfl compare topologies/ring-4.graphml --local --sgd --seeds 0,1"
SEEDS = (0, 1)


class Page(HTMLParser):
    """Elements, links and text of a page, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.values: dict[tuple[str, str], Any] = {}  # (entry, field) -> one value a seed
        self.derived: dict[tuple[str, str], Any] = {}
        self.best: set[tuple[str, str]] = set()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        for kind, values in (("data-field", self.values), ("data-derived", self.derived)):
            if kind in found:
                key = (str(found["data-entry"]), str(found[kind]))
                values[key] = json.loads(str(found["data-value"]))
                if found.get("class") == "best":
                    self.best.add(key)
        self.targets += [str(found[k]) for k in ("src", "href", "xlink:href", "action", "data") if k in found]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Comparison of all modes with two seeds.

    Run directories below the comparison's own, one of them with a report.
    """
    folder = tmp_path_factory.mktemp("comparison") / "a folder"
    runs = matched(folder / "runs", SEEDS)
    (folder / "runs" / "ring-0" / "report.html").write_text("the run's own")
    return write_comparison(folder, runs, command=COMMAND)


@pytest.fixture(scope="module")
def page(written: Comparison) -> Page:
    return Page((written.folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.processes
def test_the_page_holds_every_number_of_every_summary(written: Comparison, page: Page) -> None:
    wanted = {}
    for entry in written.entries:
        summaries = [read_summary(run.path) for run in entry.runs]
        wanted |= {(entry.label, field): [summary[field] for summary in summaries] for field in FIELDS}
    assert page.values == wanted
    assert len(wanted) == 6 * len(FIELDS)
    assert "70.50 ± 0.71 %" in page.texts, "the consensus model of ring-4: 70 and 71 %"


@pytest.mark.processes
def test_the_page_marks_the_best(page: Page) -> None:
    assert {entry for entry, field in page.best if field == "consensus_accuracy"} == {"SGD"}
    assert {entry for entry, field in page.best if field == "bytes_sent_total"} == {"FedAvg 3/4"}
    assert not any(field in ("rounds", "samples_total", "peers") for _, field in page.best)


@pytest.mark.processes
def test_the_page_has_the_command_of_every_run(written: Comparison, page: Page) -> None:
    assert COMMAND in page.texts
    for entry in written.entries:
        for run in entry.runs:
            assert f"p2pfl {entry.mode.name} --config '{run.path}/config.toml'" in page.texts
    assert "runs/ring-0/report.html" in page.targets
    assert not any("ring-1" in target for target in page.targets), "it has no report to link to"


@pytest.mark.processes
def test_the_page_needs_nothing_but_itself(written: Comparison, page: Page) -> None:
    text = (written.folder / "report.html").read_text(encoding="utf-8")
    assert page.tags.count("script") == 1, "the filters; the page's policy names them by their digest"
    assert [t for t in page.targets if not t.startswith(("#", "data:", "plots/", "runs/"))] == []
    assert all((written.folder / t).is_file() for t in page.targets if not t.startswith(("#", "data:")))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert {t[1:] for t in page.targets if t.startswith("#")} <= set(ids)
    assert len(ids) == len(set(ids))
    assert page.tags.count("svg") == len(PLOTS)


@pytest.mark.processes
def test_every_plot_is_written_as_png_and_svg(written: Comparison) -> None:
    plots = written.folder / "plots"
    assert {p.name for p in plots.iterdir()} == {f"{p.name}.{kind}" for p in PLOTS for kind in ("png", "svg")}
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in plots.glob("*.png"))
    assert all(path.stat().st_size > 5_000 for path in plots.iterdir())


@pytest.mark.processes
def test_csv_and_json_hold_means_and_deviations_in_full(written: Comparison) -> None:
    with open(written.folder / "comparison.csv", newline="", encoding="utf-8") as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    found = json.loads((written.folder / "comparison.json").read_text(encoding="utf-8"))
    assert found["command"] == COMMAND
    assert list(rows) == [entry["label"] for entry in found["entries"]] == [e.label for e in written.entries]
    for entry, plain in zip(written.entries, found["entries"], strict=True):
        assert plain["summaries"] == [read_summary(run.path) for run in entry.runs]
        row = rows[entry.label]
        assert (row["mode"], row["seeds"]) == (entry.mode.name, "0 1")
        for field in ("consensus_accuracy", "worst_peer_accuracy", "seconds", "consensus_bytes"):
            values = [summary[field] for summary in plain["summaries"]]
            mean, std = (None, None) if None in values else (fmean(values), stdev(values))
            assert (plain["mean"][field], plain["std"][field]) == (mean, std)
            assert [float(text) if text else None for text in (row[field], row[f"{field}_std"])] == [mean, std]


@pytest.mark.processes
def test_names_are_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    topology = hostile_topology()
    runs = [make_run(tmp_path / "a", topology=topology, name=f"{HOSTILE} $x$"), make_run(tmp_path / "b", mode="local")]
    write_comparison(tmp_path / "out", runs)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert f"{HOSTILE} $x$" in Page(text).texts


@pytest.mark.processes
def test_interrupted_and_mismatched_runs_are_compared_when_asked_for(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "whole"),
        make_run(tmp_path / "local", mode="local"),
        make_run(tmp_path / "never", mode="sgd", finished=0),
        make_run(tmp_path / "cut", topology=make_topology("star", 5), finished=2, model="vgg13"),
    ]
    comparison = write_comparison(tmp_path / "out", runs, allow_mismatch=True)
    assert comparison.mismatched == {"star-5", "SGD"}
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert {mismatch.sentence for mismatch in comparison.mismatches} <= set(page.texts)
    assert "Not a matched comparison." in page.texts
    assert not {entry for entry, _ in page.best} & comparison.mismatched


def test_mismatched_runs_are_refused_in_one_line(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", mode="sgd", model="vgg13", finished=1)]
    with pytest.raises(ConfigError) as refused:
        write_comparison(tmp_path / "out", runs)
    line = str(refused.value)
    assert "\n" not in line
    assert "different model" in line
    assert "is incomplete (1 of 4 rounds)" in line
    assert "--allow-mismatch" in line
    assert not (tmp_path / "out").exists()


def test_a_run_directory_is_never_written_over(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", mode="sgd")]
    with pytest.raises(ConfigError, match="is the directory of one run"):
        write_comparison(runs[0], runs)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        write_comparison(tmp_path / "file", runs)


def test_one_seed_leaves_the_deviation_empty(tmp_path: Path) -> None:
    entries = load_entries([make_run(tmp_path / "a", accuracy=0.1 + 0.2)])
    comparison = Comparison(tmp_path, tuple(entries), (), ())
    (row,) = csv.DictReader(table_csv(comparison).splitlines())
    assert (row["consensus_accuracy"], row["consensus_accuracy_std"]) == (repr(0.1 + 0.2), "")
    assert (row["topology"], row["lost_peers"], row["versions"]) == ("ring-4", "[]", '{"p2pfl": "0.1.0"}')
    assert as_json(comparison)["entries"][0]["std"]["consensus_accuracy"] is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted), st.floats(0.01, 0.2))
def test_labels_keep_their_order_and_their_distance(wanted: list[float], gap: float) -> None:
    places = spread_positions(wanted, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places))
    if all(b - a >= gap for a, b in pairwise(wanted)):
        assert places == pytest.approx(wanted, abs=1e-9)
    assert sum(places) == pytest.approx(sum(wanted), abs=1e-6)


def test_every_entry_looks_like_no_other() -> None:
    looks = [line_style(place) for place in range(60)]
    assert len({(own.color, str(own.line), own.marker) for own in looks}) == 60
    first = looks[:5]
    assert (
        len({own.color for own in first})
        == len({str(own.line) for own in first})
        == len({own.marker for own in first})
        == 5
    )


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_opens_in_a_browser(written: Comparison, page: Page, tmp_path: Path) -> None:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --v=0 --dump-dom"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path}", (written.folder / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    seen = Page(done.stdout)
    assert (seen.values, seen.derived) == (page.values, page.derived)
    assert done.stdout.count("</svg>") == len(PLOTS)
    # The page's own policy forbids every request; the browser would complain of one here.
    assert "Content Security Policy" not in done.stderr


def test_labels_of_plots_keep_their_beginning_and_the_partition() -> None:
    labels = [f"complete-4, gradient-tracking, {partition}" for partition in ("iid", "dirichlet:0.5", "classes:3")]
    short = [short_label(label) for label in labels]
    assert [one[:8] for one in short] == ["complete"] * 3
    assert all(one.endswith(label[-13:].split(", ")[-1]) for one, label in zip(short, labels, strict=True))
    assert all(len(one) == 30 for one in short)
    assert short_label("ring-4, $x$") == r"ring-4, \$x\$"
