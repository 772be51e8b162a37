from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.browser import CHROMIUM, Page, in_browser
from tests.support.runs import make_centralized, make_local, make_run, make_sgd

from p2pfl.errors import ConfigError
from p2pfl.modes import COORDINATOR, assign_roles
from p2pfl.report import load_run, read_summary, style, summarize, write_report, write_summary
from p2pfl.report.participation import draw_participation, participation, shares
from p2pfl.report.plots import PLOTS
from p2pfl.report.topology_plot import topology_figure
from p2pfl.report.traffic import draw_senders
from p2pfl.report.warnings import collect_warnings
from p2pfl.run.paths import ROUNDS_FILE
from p2pfl.topology import make_topology

# Rounds 1 to 4 draw clients 0 and 1, 2 and 3, 0 and 1, 2 and 3; client 3's first update does not come.
GONE = {2: ("3",)}
MAKERS: dict[str, Callable[..., Path]] = {
    "gossip": lambda run_dir, **given: make_run(run_dir, make_topology("ring", 4), **given),
    "local": lambda run_dir, **given: make_local(run_dir, make_topology("ring", 4), **given),
    "sgd": make_sgd,
    "centralized": lambda run_dir, **given: make_centralized(run_dir, missing=GONE, **given),
}
NOTHING_TO_MIX = {
    "spectral_gap": None,
    "final_consensus_distance": None,
    "consensus_rounds": None,
    "consensus_bytes": None,
    "consensus_seconds": None,
}


def found(run_dir: Path, expected: dict[str, Any], **facts: Any) -> dict[str, Any]:
    summary = summarize(run_dir, **facts)
    return {name: summary[name] for name in expected}


def warnings_of(run_dir: Path, **facts: Any) -> list[str]:
    summary = summarize(run_dir, **facts)
    return collect_warnings(load_run(run_dir, summary["lost_peers"]), summary)


def test_summary_of_a_centralized_run(tmp_path: Path) -> None:
    expected = {
        **NOTHING_TO_MIX,
        "mode": "centralized",
        "topology": "FedAvg",
        "peers": 4,
        "rounds": 4,
        "rounds_completed": 4,
        "status": "complete",
        "consensus_accuracy": pytest.approx(0.85),
        "test_loss": 0.0625,
        "mean_peer_accuracy": None,
        "worst_peer_accuracy": None,
        "consensus_distance": None,
        "seconds": 16.0,
        "train_seconds": pytest.approx((4.0 + 4.4 + 4.8 + 2.6) / 4),
        "exchange_seconds": pytest.approx(7 * 0.25 / 4),
        "wait_seconds": pytest.approx(7 * 0.125 / 4),
        "evaluate_seconds": pytest.approx(4 * 0.375),
        "samples_total": 7 * 320,
        "samples_per_second": pytest.approx(7 * 320 / 16.0),
        "optimizer_steps_per_peer": pytest.approx((20 + 20 + 20 + 10) / 4),
        "bytes_sent_total": 15_000_000,
        "bytes_sent_max_peer": 8_000_000,
        "busiest_peer": COORDINATOR,
    }
    assert found(make_centralized(tmp_path / "run", missing=GONE), expected) == expected


def test_a_lost_client_leaves_a_centralized_run_complete(tmp_path: Path) -> None:
    run_dir = make_centralized(tmp_path / "run", missing=GONE)
    expected = {
        "status": "complete",
        "peers": 4,
        "samples_total": 7 * 320,
        "bytes_sent_total": 15_000_000,
        "optimizer_steps_per_peer": 20,
        "train_seconds": pytest.approx((4.0 + 4.4 + 4.8) / 3),
        "lost_peers": ["3"],
    }
    assert found(run_dir, expected, lost_peers=["3"]) == expected
    first = warnings_of(run_dir, lost_peers=["3"])[0]
    assert first.startswith("Lost during the run: 3. The rounds continued without them")


def test_summary_of_plain_sgd(tmp_path: Path) -> None:
    expected = {
        **NOTHING_TO_MIX,
        "mode": "sgd",
        "topology": "sgd",
        "peers": 1,
        "status": "complete",
        "consensus_accuracy": pytest.approx(0.9 - 0.7 * math.exp(-1)),
        "test_loss": 0.5,
        "mean_peer_accuracy": None,
        "worst_peer_accuracy": None,
        "consensus_distance": None,
        "train_seconds": 8.0,
        "wait_seconds": 0.0,
        "evaluate_seconds": 0.5,
        "samples_total": 1280,
        "samples_per_second": pytest.approx(1280 / 12),
        "optimizer_steps_per_peer": 40,
        "bytes_sent_total": 0,
        "bytes_sent_max_peer": 0,
        "busiest_peer": None,
    }
    assert found(make_sgd(tmp_path / "run"), expected) == expected


def test_summary_of_local_training(tmp_path: Path) -> None:
    mean = 0.9 - 0.7 * math.exp(-1) - 0.0075
    expected = {
        **NOTHING_TO_MIX,
        "mode": "local",
        "peers": 4,
        "status": "complete",
        "consensus_accuracy": None,
        "test_loss": None,
        "mean_peer_accuracy": pytest.approx(mean),
        "worst_peer_accuracy": pytest.approx(mean - 0.0075),
        "consensus_distance": pytest.approx(0.5 * 4, rel=0.07),
        "samples_total": 4 * 1280,
        "bytes_sent_total": 0,
        "busiest_peer": None,
        "optimizer_steps_per_peer": 40,
    }
    assert found(make_local(tmp_path / "run", make_topology("ring", 4)), expected) == expected


@pytest.mark.parametrize("mode", MAKERS)
def test_an_unfinished_run_has_no_results(tmp_path: Path, mode: str) -> None:
    run_dir = MAKERS[mode](tmp_path / "run", finished=3)
    expected = {
        "status": "incomplete",
        "rounds_completed": 3,
        "consensus_accuracy": None,
        "mean_peer_accuracy": None,
        "consensus_distance": None,
    }
    assert found(run_dir, expected) == expected
    assert "3 of 4 rounds" in warnings_of(run_dir)[0]


def test_the_coordinator_decides_which_rounds_are_finished(tmp_path: Path) -> None:
    run_dir = make_centralized(tmp_path / "run")
    path = run_dir / "peers" / COORDINATOR / ROUNDS_FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    run = load_run(run_dir)
    assert run.finished("train") == [1, 2, 3]
    assert (run.elapsed(3), run.bytes_sent(1), run.bytes_sent(3)) == (12.0, 4_000_000, 12_000_000)
    assert summarize(run_dir)["bytes_sent_total"] == (3 * 4 + 2) * 1_000_000  # the last round's clients had sent
    assert summarize(run_dir)["samples_total"] == 8 * 320


def test_samples_and_bytes_add_up_round_by_round(tmp_path: Path) -> None:
    """Clients record only rounds of theirs; processed samples count, averaged or not."""
    run_dir = make_centralized(tmp_path / "run", missing=GONE)
    run = load_run(run_dir)
    assert [run.samples(number) for number in range(5)] == [0, 640, 960, 1600, 2240]
    assert [run.bytes_sent(number) for number in range(5)] == [0, 4_000_000, 7_000_000, 11_000_000, 15_000_000]
    late = run_dir / "peers" / "3" / ROUNDS_FILE  # its update of round 2 came after the deadline
    (second,) = late.read_bytes().splitlines()
    first = second.replace(b'"round":4', b'"round":2')
    late.write_bytes(first + b"\n" + second.replace(b'"samples":320', b'"samples":640') + b"\n")
    run = load_run(run_dir)
    assert [run.samples(number) for number in range(5)] == [0, 640, 1280, 1920, 2560]
    assert run.samples(4) == summarize(run_dir)["samples_total"] == run.rounds[4][0].samples + 320
    swarm = load_run(make_run(tmp_path / "swarm", make_topology("ring", 4), consensus=1))
    assert [swarm.samples(number) for number in (4, 5)] == [4 * 1280] * 2
    assert [swarm.bytes_sent(number) for number in (4, 5)] == [32_000_000, 48_000_000]


def test_a_run_has_the_processes_of_its_mode(tmp_path: Path) -> None:
    run = load_run(make_centralized(tmp_path / "run", clients=11))
    said = assign_roles(run.config, run.topology)
    assert run.topology.names == (*map(str, range(11)), COORDINATOR)
    assert (run.coordinator, len(run.trainers)) == (said.coordinator, said.shards) == (11, 11)
    alone = load_run(make_sgd(tmp_path / "sgd"))
    assert (alone.coordinator, list(alone.trainers), alone.distances) == (None, [0], {})


def test_a_centralized_run_without_its_coordinator_is_refused(tmp_path: Path) -> None:
    run_dir = make_centralized(tmp_path / "run", finished=0)
    shutil.copy(make_local(tmp_path / "ring", make_topology("ring", 4)) / "topology.graphml", run_dir)
    with pytest.raises(ConfigError, match=r"topology\.graphml.*coordinator"):
        load_run(run_dir)


def test_participation(tmp_path: Path) -> None:
    run = load_run(make_centralized(tmp_path / "run", missing=GONE))
    assert [(part.averaged, part.missed) for part in participation(run)] == [
        ((1, 3), ()),
        ((1, 3), ()),
        ((2, 4), ()),
        ((4,), (2,)),
    ]
    assert shares(run) == [0.5, 0.5, 0.5, 0.25, None]
    empty = load_run(make_centralized(tmp_path / "empty", finished=0))
    assert shares(empty) == [None] * 5


def test_missing_updates_are_warnings(tmp_path: Path) -> None:
    gone = {1: ("1",), 2: ("2", "3"), 3: ("1",)}
    assert warnings_of(make_centralized(tmp_path / "run", missing=gone)) == [
        "In 3 rounds updates were missing: client 1 (2 rounds), 2 (1 round), 3 (1 round).",
        "The global model has no update from, and has not seen the data of: client 1.",
    ]
    assert warnings_of(make_centralized(tmp_path / "good")) == []


@pytest.mark.parametrize("mode", sorted(set(MAKERS) - {"gossip"}))  # which test_report.py renders
def test_page_of_every_mode_holds_its_summary(tmp_path: Path, mode: str) -> None:
    run_dir = MAKERS[mode](tmp_path / "run")
    write_summary(run_dir, summarize(run_dir, versions={"p2pfl": "0.1.0"}, seconds=99.5))
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert page.values == read_summary(run_dir)
    assert page.values["mode"] == mode
    assert page.tags.count("svg") == len(PLOTS[mode])  # type: ignore[index]
    assert {path.stem for path in (run_dir / "plots").iterdir()} == {plot.name for plot in PLOTS[mode]}  # type: ignore[index]
    assert f"p2pfl {mode} --config {run_dir}/config.toml" in page.texts


@pytest.mark.parametrize("mode", ["local", "sgd", "centralized"])
def test_report_of_every_mode_without_a_finished_round(tmp_path: Path, mode: str) -> None:
    run_dir = MAKERS[mode](tmp_path / "run", finished=0)
    page = Page(write_report(run_dir).read_text(encoding="utf-8"))
    assert page.values["samples_total"] == 0
    assert "0 of 4 rounds" in next(text for text in page.texts if "incomplete:" in text)


def test_plots_have_a_meaning_in_their_mode() -> None:
    names = {mode: {plot.name for plot in plots} for mode, plots in PLOTS.items()}
    assert {mode for mode in names if "consensus-distance" in names[mode]} == {"gossip", "local"}
    assert {mode for mode in names if "edge-bytes" in names[mode]} == {"gossip", "centralized"}
    assert {mode for mode in names if "participation" in names[mode]} == {"centralized"}
    assert "topology" not in names["sgd"]
    assert all("accuracy-rounds" in plots for plots in names.values())


@pytest.mark.usefixtures("blank_plots")
def test_table_of_clients_and_coordinator(tmp_path: Path) -> None:
    text = write_report(make_centralized(tmp_path / "run", missing=GONE)).read_text(encoding="utf-8")

    def column(name: str) -> list[str]:
        return re.findall(rf'<td data-column="{name}">(.*?)</td>', text)

    assert column("rounds") == ["2", "2", "2", "1", "4"]
    assert column("missed") == ["0", "0", "0", "1", "–"]
    assert column("accuracy") == ["–", "–", "–", "–", "85.00 %"]
    assert column("samples") == ["640", "640", "640", "320", "2,240"]
    assert column("sent") == ["2 MB", "2 MB", "2 MB", "1 MB", "8 MB"]
    header = re.search(r'<table class="peers">.*?</thead>', text, re.DOTALL)
    assert header is not None
    first_row = re.search(r'<th scope="row">0</th>(.*?)</tr>', text)
    assert first_row is not None
    assert header[0].count("<th ") - 1 == first_row[1].count("<td ")


def test_the_busiest_process_is_named(tmp_path: Path) -> None:
    with style.styled():
        hot = draw_senders(load_run(make_centralized(tmp_path / "hot", clients=5, selected=5)))
        even = draw_senders(load_run(make_run(tmp_path / "even", make_topology("ring", 4))))
    title = hot.axes[0].get_title("left")
    assert title == "Busiest: the coordinator with 20 MB, 5 times the mean of the others"
    assert even.axes[0].get_title("left") == "No hot spot: all 4 sent 8 MB within 1 %"


@pytest.mark.parametrize("clients", [1, 2, 3, 30])
def test_the_coordinator_is_drawn_apart_from_its_clients(tmp_path: Path, clients: int) -> None:
    from matplotlib.collections import PathCollection

    run = load_run(make_centralized(tmp_path / "run", clients=clients, selected=1))
    with style.styled():
        figure = topology_figure(run.topology, values=shares(run), title="", hub=run.coordinator)
    dots = [item for item in figure.axes[0].collections if isinstance(item, PathCollection)]
    assert sum(len(item.get_offsets()) for item in dots) == clients
    boxed = [text.get_text() for text in figure.axes[0].texts if text.get_bbox_patch() is not None]
    assert boxed == [COORDINATOR]


def test_local_peers_are_drawn_without_edges(tmp_path: Path) -> None:
    from matplotlib.collections import LineCollection

    run = load_run(make_local(tmp_path / "run", make_topology("ring", 4), finished=1))
    picture = next(plot for plot in PLOTS["local"] if plot.name == "topology")
    same = next(plot for plot in PLOTS["gossip"] if plot.name == "topology")
    swarm = load_run(make_run(tmp_path / "swarm", make_topology("ring", 4), finished=1))
    with style.styled():
        alone, linked = picture.draw(run), same.draw(swarm)
    lines = [
        [kind for kind in figure.axes[0].collections if isinstance(kind, LineCollection)] for figure in (alone, linked)
    ]
    assert [len(found) for found in lines] == [0, 1]


def test_one_process_can_be_drawn(tmp_path: Path) -> None:
    run = load_run(make_sgd(tmp_path / "run"))
    with style.styled():
        figure = topology_figure(run.topology, values=[0.5], title="sgd")
        style.save(figure, tmp_path / "one.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0"]


@pytest.mark.parametrize(("clients", "rounds", "cells"), [(4, 6, True), (70, 2, False)])
def test_participation_is_drawn_in_cells_or_bars(tmp_path: Path, clients: int, rounds: int, cells: bool) -> None:
    run = load_run(make_centralized(tmp_path / "run", clients=clients, rounds=rounds, missing={1: ("1",)}))
    with style.styled():
        figure = draw_participation(run)
    assert bool(figure.axes[0].collections) == cells
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == [f"update averaged ({2 * rounds - 1})", "drawn, but its update was missing (1)"]


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("mode", ["centralized", "sgd", "local"])
def test_page_of_every_mode_opens_in_a_browser(tmp_path: Path, mode: str) -> None:
    run_dir = MAKERS[mode](tmp_path / "run")
    write_summary(run_dir, summarize(run_dir))
    page, complaints = in_browser(write_report(run_dir), tmp_path / "profile")
    assert page.values == read_summary(run_dir)
    assert page.tags.count("svg") == len(PLOTS[mode])  # type: ignore[index]
    assert "Content Security Policy" not in complaints
