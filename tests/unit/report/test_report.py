from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.browser import CHROMIUM, Page, in_browser
from tests.support.runs import HOSTILE, STEPS, hostile_topology, make_run, training_distance

from p2pfl.config import load_toml
from p2pfl.errors import ConfigError
from p2pfl.report import load_run, read_summary, summarize, write_report, write_summary
from p2pfl.report.fields import number_formats
from p2pfl.report.plots import PLOTS
from p2pfl.report.warnings import collect_warnings
from p2pfl.run.paths import ROUNDS_FILE, SKETCHES_FILE
from p2pfl.run.sketch_file import HEADER
from p2pfl.topology import make_topology

DESIGN_FIELDS = """
mode topology peers rounds spectral_gap consensus_accuracy mean_peer_accuracy worst_peer_accuracy
consensus_distance final_consensus_distance consensus_rounds test_loss seconds train_seconds
exchange_seconds wait_seconds evaluate_seconds samples_per_second samples_total bytes_sent_total
bytes_sent_max_peer consensus_bytes optimizer_steps_per_peer lost_peers seed versions
"""


@pytest.fixture(scope="module")
def ring_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("report") / "a run", make_topology("ring", 4))
    write_summary(run_dir, summarize(run_dir, versions={"p2pfl": "0.1.0"}, seconds=99.5))
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = make_run(tmp_path_factory.mktemp("report") / "run", hostile_topology(), finished=3)
    write_report(run_dir)
    return run_dir


def test_summary_of_a_complete_run(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), rounds=4, consensus=3)
    summary = summarize(run_dir, versions={"torch": "2.14.1"}, seconds=20.5)
    assert [name for name in summary if name in DESIGN_FIELDS.split()] == DESIGN_FIELDS.split()
    mean = 0.9 - 0.7 * math.exp(-1) - 0.005 * 1.5
    expected = {
        "mode": "gossip",
        "topology": "ring-4",
        "peers": 4,
        "rounds": 4,
        "spectral_gap": pytest.approx(2 / 3),
        "consensus_accuracy": 0.9125,
        "mean_peer_accuracy": pytest.approx(mean),
        "worst_peer_accuracy": pytest.approx(mean - 0.0075),
        "consensus_rounds": 3,
        "test_loss": 0.3125,
        "seconds": 20.5,
        "train_seconds": pytest.approx(4 * 2.0 * (1.0 + 1.1 + 1.2 + 1.0) / 4),
        "exchange_seconds": pytest.approx(1.0),
        "wait_seconds": pytest.approx(4 * (2.5 - 2.0 * (1.0 + 1.1 + 1.2 + 1.0) / 4)),
        "evaluate_seconds": pytest.approx(0.5),
        "samples_per_second": pytest.approx(4 * 32 * STEPS * 4 / 12.0),
        "samples_total": 4 * 32 * STEPS * 4,
        "bytes_sent_total": 4 * 4 * 2 * 1_000_000,
        "bytes_sent_max_peer": 4 * 2 * 1_000_000,
        "busiest_peer": "0",
        "consensus_bytes": 3 * 4 * 2 * 2_000_000,
        "optimizer_steps_per_peer": 40,
        "lost_peers": [],
        "seed": 7,
        "versions": {"torch": "2.14.1"},
        "consensus_seconds": pytest.approx(1.5),
        "status": "complete",
        "rounds_completed": 4,
    }
    assert {name: summary[name] for name in expected} == expected


def test_consensus_distance_is_estimated_to_a_few_percent(tmp_path: Path) -> None:
    summary = summarize(make_run(tmp_path / "run", make_topology("ring", 8), rounds=2, consensus=12))
    exact = training_distance(2)
    assert summary["consensus_distance"] == pytest.approx(exact, rel=0.07)
    assert 0 < summary["final_consensus_distance"] < 1.1e-3 * exact


def test_summary_round_trip(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4))
    summary = summarize(run_dir)
    write_summary(run_dir, summary)
    assert read_summary(run_dir) == summary
    assert list(read_summary(run_dir)) == list(summary)
    assert not list(run_dir.glob("*.tmp"))


def test_interrupted_run_has_no_consensus_model(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), rounds=4, finished=3)
    ahead = run_dir / "peers" / "0" / ROUNDS_FILE
    lines = ahead.read_bytes()
    ahead.write_bytes(lines + lines.splitlines()[-1].replace(b'"round":3', b'"round":4') + b"\n" + b'{"round"')
    summary = summarize(run_dir)
    assert summary["status"] == "incomplete"
    assert summary["rounds_completed"] == 3
    nothing = ("consensus_accuracy", "mean_peer_accuracy", "worst_peer_accuracy", "consensus_distance")
    assert [summary[name] for name in nothing] == [None] * 4
    assert summary["final_consensus_distance"] is None
    assert summary["consensus_seconds"] is None
    assert summary["bytes_sent_total"] == (3 * 4 + 1) * 2 * 1_000_000


def test_run_interrupted_in_the_consensus_phase_is_incomplete(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), consensus=3)
    for path in run_dir.glob(f"peers/*/{ROUNDS_FILE}"):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    summary = summarize(run_dir)
    assert (summary["status"], summary["rounds_completed"], summary["consensus_rounds"]) == ("incomplete", 4, 2)
    assert summary["consensus_accuracy"] is None
    assert summary["final_consensus_distance"] is None
    assert summary["mean_peer_accuracy"] is not None


def without_round(run_dir: Path, number: int) -> None:
    for path in run_dir.glob(f"peers/*/{ROUNDS_FILE}"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for line in lines if f'"round":{number},'.encode() not in line))


def test_a_round_without_records_is_a_warning_and_leaves_the_run_complete(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), rounds=4)
    without_round(run_dir, 2)
    summary = summarize(run_dir)
    assert (summary["status"], summary["rounds_completed"]) == ("complete", 4)
    assert summary["missing_peers"] == []
    assert "No peer completed round 2: all were away, or the records are lost." in collect_warnings(
        load_run(run_dir), summary
    )


def test_where_everybody_was_lost_all_count(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), rounds=4, finished=3)
    summary = summarize(run_dir, lost_peers=list("0123"))
    assert (summary["status"], summary["rounds_completed"]) == ("incomplete", 3)


def test_lost_peers_count_for_bytes_but_not_for_accuracy(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("complete", 4), rounds=4)
    lost = run_dir / "peers" / "3"
    (lost / ROUNDS_FILE).write_bytes((lost / ROUNDS_FILE).read_bytes().splitlines(keepends=True)[0])
    assert summarize(run_dir)["rounds_completed"] == 1
    summary = summarize(run_dir, lost_peers=["3"])
    assert (summary["status"], summary["rounds_completed"]) == ("complete", 4)
    assert summary["lost_peers"] == ["3"]
    assert summary["worst_peer_accuracy"] == pytest.approx(0.9 - 0.7 * math.exp(-1) - 0.01)
    assert summary["bytes_sent_total"] == (3 * 4 + 1) * 3 * 1_000_000
    with pytest.raises(ConfigError, match="'nobody'"):
        summarize(run_dir, lost_peers=["nobody"])


def test_missing_sketches_leave_the_distance_open(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4))
    (run_dir / "peers" / "1" / SKETCHES_FILE).unlink()
    summary = summarize(run_dir)
    assert summary["consensus_distance"] is None
    assert summary["consensus_accuracy"] == 0.9125


def test_sketches_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4))
    path = run_dir / "peers" / "1" / SKETCHES_FILE
    whole = path.read_bytes()
    newer = HEADER[:8] + bytes([HEADER[8] + 1]) + HEADER[9:]
    for other in (whole[len(HEADER) :], newer + whole[len(HEADER) :], b"\0", b"something else"):
        path.write_bytes(other)
        summary = summarize(run_dir)
        assert summary["consensus_distance"] is None
        (said,) = [line for line in summary["damaged_records"] if "not a file of sketches" in line]
        assert said.startswith(f"{path}: ")


def test_diverged_weights_give_valid_json(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4))
    sketches = run_dir / "peers" / "1" / SKETCHES_FILE
    data = sketches.read_bytes()
    sketches.write_bytes(HEADER + np.full((len(data) - len(HEADER)) // 4, np.nan, "<f4").tobytes())
    summary = summarize(run_dir)
    assert summary["consensus_distance"] is None
    json.loads(write_summary(run_dir, summary).read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("text", [None, "[1]", "{"])
def test_unreadable_summary_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ConfigError, match=r"summary\.json"):
        read_summary(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        write_report(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), finished=0)
    (run_dir / "plots").write_text("in the way")
    with pytest.raises(ConfigError, match="plots: cannot be written"):
        write_report(run_dir)
    with pytest.raises(ConfigError, match=r"summary\.json: cannot be written"):
        write_summary(tmp_path / "missing", {})


def test_numbers_have_their_units() -> None:
    assert [number_formats(name)[0](1.0) for name in ("mean_peer_accuracy", "seconds", "test_loss")] == [
        "100.00 %",
        "1 s",
        "1",
    ]
    assert number_formats("bytes_sent_total")[1](2_000_000.0, 100_000.0) == "2 ± 0.1 MB"


def test_page_holds_every_number_of_the_summary(ring_run: Path) -> None:
    page = Page((ring_run / "report.html").read_text(encoding="utf-8"))
    assert page.values == read_summary(ring_run)
    assert page.values["seconds"] == 99.5
    shown = {text.strip() for text in page.texts}
    assert {"91.25 %", "1 min 40 s", "32 MB", "48 MB", "0.6667", "p2pfl 0.1.0"} <= shown


def test_page_has_the_command_of_the_run(ring_run: Path) -> None:
    page = Page((ring_run / "report.html").read_text(encoding="utf-8"))
    command = next(text for text in page.texts if text.startswith("p2pfl gossip"))
    assert command == f"p2pfl gossip --config '{ring_run}/config.toml'"
    named = load_toml(ring_run / "config.toml").topology
    assert named == str(ring_run / "topology.graphml"), "the command needs no topology file: the settings name it"
    assert Path(named).is_file()


@pytest.mark.usefixtures("blank_plots")
def test_a_run_has_the_name_that_was_chosen_or_its_topologys(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), finished=0)
    config = run_dir / "config.toml"
    saved = config.read_text(encoding="utf-8")
    assert 'name = "ring-4"' in saved
    config.write_text(saved.replace('"ring-4"', '"Tuesday <b>"'), encoding="utf-8")
    assert summarize(run_dir)["topology"] == "Tuesday <b>"
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "Tuesday <b>" not in page
    assert page.count("Tuesday &lt;b&gt;") >= 2  # title and heading
    config.write_text(saved.replace('name = "ring-4"\n', ""), encoding="utf-8")
    assert summarize(run_dir)["topology"] == "topology"  # the file's


def test_page_needs_nothing_but_itself(ring_run: Path) -> None:
    page = Page((ring_run / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    own = ("#", "data:", "plots/")
    assert [target for target in page.targets if not target.startswith(own)] == []
    assert all((ring_run / target).is_file() for target in page.targets if target.startswith("plots/"))
    references = [target[1:] for target in page.targets if target.startswith("#")]
    ids = re.findall(r'\bid="([^"]+)"', (ring_run / "report.html").read_text(encoding="utf-8"))
    assert references
    assert set(references) <= set(ids)
    assert page.tags.count("svg") == len(PLOTS["gossip"])


def test_every_plot_is_written_as_png_and_svg(ring_run: Path) -> None:
    written = {path.name for path in (ring_run / "plots").iterdir()}
    assert written == {f"{plot.name}.{kind}" for plot in PLOTS["gossip"] for kind in ("png", "svg")}
    for path in (ring_run / "plots").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        assert path.stat().st_size > 5_000
    assert all(path.stat().st_size > 5_000 for path in (ring_run / "plots").glob("*.svg"))


def test_names_are_shown_as_text_and_never_as_markup(hostile_run: Path) -> None:
    text = (hostile_run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert HOSTILE in page.texts
    assert {"$x^$ $\\foo$", "a&b", '"q"'} <= set(page.texts)


def test_page_of_an_interrupted_run_warns_of_it(hostile_run: Path) -> None:
    page = Page((hostile_run / "report.html").read_text(encoding="utf-8"))
    warnings = [text for text in page.texts if "The run is incomplete" in text]
    assert len(warnings) == 1
    assert "3 of 4 rounds" in warnings[0]
    assert page.values["consensus_accuracy"] is None


def test_report_without_a_finished_round(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("star", 4), finished=0)
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert page.values["samples_total"] == 0
    assert page.values["samples_per_second"] is None
    assert page.tags.count("svg") == len(PLOTS["gossip"])


@pytest.mark.usefixtures("blank_plots")
def test_waiting_and_lost_peers_are_warnings(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", make_topology("ring", 4), rounds=2)
    for path in run_dir.glob(f"peers/*/{ROUNDS_FILE}"):
        path.write_bytes(re.sub(rb'"wait_seconds":[0-9.]+', b'"wait_seconds":4.5', path.read_bytes()))
    write_summary(run_dir, summarize(run_dir, lost_peers=["2"]))
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert any(text.startswith("Lost during the run: 2.") for text in page.texts)
    assert any("waiting for slower neighbors" in text for text in page.texts)


@pytest.mark.processes
def test_importing_the_report_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, p2pfl.report; print([m for m in ('torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_page_opens_in_a_browser(ring_run: Path, tmp_path: Path) -> None:
    page, complaints = in_browser(ring_run / "report.html", tmp_path)
    assert page.values == read_summary(ring_run)
    assert page.tags.count("svg") == len(PLOTS["gossip"])
    # The page's own policy forbids every request; the browser would complain of one here.
    assert "Content Security Policy" not in complaints
