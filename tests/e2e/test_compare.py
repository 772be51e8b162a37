"""`compare`: matched runs, interrupted comparisons, and runs that exist already."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support import commands
from tests.support.picture_files import folder
from tests.support.plans import plan_runs

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.errors import ConfigError
from p2pfl.experiment import plan
from p2pfl.report import read_summary
from p2pfl.run.directory import locked
from p2pfl.topology import save_topology

pytestmark = pytest.mark.usefixtures("blank_plots")

DIGITS = 1438  # training samples of the digits


def planned(*, seeds: tuple[int, ...] = (0,), selected: tuple[int, ...] = (4, 3), **options: object) -> dict:
    base = RunConfig.of(**{"dataset": "digits", "rounds": 12, "local_steps": 5, "batch_size": 8, **options})
    topologies = (make_topology("ring", 4), make_topology("complete", 4))
    wanted = plan.CompareOptions(topologies, num_selected=selected, sgd=True, local=True, seeds=seeds)
    return {one.name: one for one in plan_runs(base, wanted)}


def test_matched_runs_process_the_same_samples() -> None:
    runs = planned()
    assert list(runs) == [
        "gossip-ring-4-seed-0",
        "gossip-complete-4-seed-0",
        "centralized-4-of-4-seed-0",
        "centralized-3-of-4-seed-0",
        "local-seed-0",
        "sgd-seed-0",
    ]
    lengths = {
        name: (one.config.training.rounds, one.config.training.local_steps, one.samples) for name, one in runs.items()
    }
    samples = 12 * 5 * 8 * 4
    assert lengths["gossip-ring-4-seed-0"] == lengths["local-seed-0"] == (12, 5, samples)
    assert lengths["centralized-4-of-4-seed-0"] == (12, 5, samples)
    assert lengths["centralized-3-of-4-seed-0"] == (16, 5, samples)  # 4/3 of the rounds
    assert lengths["sgd-seed-0"] == (12, 20, samples)  # n times the steps


def test_epochs_become_steps_that_every_mode_shares() -> None:
    runs = planned(local_steps=None, local_epochs=2, batch_size=32)
    steps = 2 * (DIGITS // 4 // 32)
    assert runs["gossip-ring-4-seed-0"].config.training.local_steps == steps
    assert runs["sgd-seed-0"].config.training.local_steps == 4 * steps
    assert {one.config.training.local_epochs for one in runs.values()} == {None}


def test_epochs_of_unequal_shards_are_matched_in_the_sum_of_their_steps() -> None:
    options = {"local_steps": None, "local_epochs": 2, "batch_size": 32, "partition": "quantity:linear"}
    runs = planned(**options, round_length="epochs")
    shards = [143, 288, 431, 576]  # of 1438 samples, as 1, 2, 3, 4
    steps = [2 * (size // 32) for size in shards]
    assert runs["gossip-ring-4-seed-0"].config.training.local_epochs == 2
    assert runs["sgd-seed-0"].config.training.local_steps == sum(steps)
    assert {one.samples for one in runs.values()} == {12 * sum(steps) * 32}
    same = planned(**options)
    assert same["sgd-seed-0"].config.training.local_steps == 4 * 2 * (DIGITS // 4 // 32), "as long as a mean shard"


def test_a_file_that_uses_few_samples_makes_short_rounds(tmp_path: Path) -> None:
    rows = [f"{sample},{sample % 4}" for sample in range(256)]
    (tmp_path / "split.csv").write_text("\n".join(["sample,peer", *rows]))
    runs = planned(local_steps=None, local_epochs=1, batch_size=32, partition=f"file:{tmp_path / 'split.csv'}")
    assert runs["gossip-ring-4-seed-0"].config.training.local_steps == 2
    assert runs["sgd-seed-0"].config.training.local_steps == 8


def test_evaluations_are_as_many_in_every_mode() -> None:
    runs = planned(eval_every=3)
    counts = {name: one.config.training.rounds // one.config.record.eval_every for name, one in runs.items()}
    assert set(counts.values()) == {4}
    assert {one.config.record.eval_samples for one in runs.values()} == {1000}


def test_every_run_is_repeated_with_every_seed() -> None:
    runs = planned(seeds=(3, 5), selected=())
    assert [one.config.record.seed for one in runs.values()] == [3, 5] * 4
    assert len(runs) == 8


def test_topologies_with_the_same_name_get_separate_folders() -> None:
    same = [dataclasses.replace(make_topology(kind, 4), name="mine") for kind in ("ring", "complete")]
    taken = dataclasses.replace(make_topology("star", 4), name="mine-2")
    base = RunConfig.of(dataset="digits", local_steps=1)
    names = [one.name for one in plan_runs(base, plan.CompareOptions((same[0], taken, same[1])))]
    assert names == ["gossip-mine-seed-0", "gossip-mine-2-seed-0", "gossip-mine-3-seed-0"]
    with pytest.raises(ConfigError, match="the same graph; leave one out"):
        plan_runs(base, plan.CompareOptions((same[0], same[0])))


def test_shards_must_be_the_same() -> None:
    wanted = plan.CompareOptions((make_topology("ring", 4), make_topology("ring", 5)))
    with pytest.raises(ConfigError, match="ring-4 has 4 peers and ring-5 has 5: their shards would differ"):
        plan_runs(RunConfig.of(dataset="digits"), wanted)
    with pytest.raises(ConfigError, match="--num-selected 5: choose 1 to 4"):
        planned(selected=(5,))


def test_what_a_coordinator_needs_fits_its_own_number_of_clients() -> None:
    assert planned(selected=(4, 3), min_updates=3)["centralized-3-of-4-seed-0"].config.server.min_updates == 3
    with pytest.raises(ConfigError, match="--min-updates 4: only 3 clients train in a round"):
        planned(selected=(4, 3), min_updates=4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[centralized]\nnum_selected = 3", "num_selected: not allowed here; the clients are the topology's peers"),
        ('mode = "centralized"', "has settings of p2pfl centralized"),
    ],
)
def test_settings_that_it_would_not_heed_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ring: str, text: str, named: str
) -> None:
    (tmp_path / "base.toml").write_text(text)
    assert main(["compare", ring, "--centralized", "--config", str(tmp_path / "base.toml")]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.processes
def test_other_weights_are_another_run(tmp_path: Path) -> None:
    file = tmp_path / "weights.edgelist"
    file.write_text("0 1 0.3\n1 2 0.3\n0 2 0.3\n")
    words = ["compare", str(file), "--mixing", "weights", "--rounds", "1", *TINY, "--model", "vgg11"]
    words += ["--width", "0.0625", "--run-dir", str(tmp_path / "all")]
    assert main(words) == 0
    file.write_text("0 1 0.2\n1 2 0.2\n0 2 0.2\n")
    assert main(words) == 2


def test_hosts_in_the_file_concern_only_those_who_talk(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    for peer in range(3):
        topology.graph.nodes[peer].update(host=f"10.0.0.{peer + 1}", port=7000)
    save_topology(topology, tmp_path / "lan.gml")
    words = ["--dataset", "digits", "--width", "0.125", "--dry-run"]
    assert main(["local", str(tmp_path / "lan.gml"), *words]) == 0


TINY = [
    "--dataset",
    "digits",
    "--model",
    "user_models:linear",
    "--batch-size",
    "8",
    "--lr",
    "0.01",
    "--threads",
    "1",
    "--local-steps",
    "2",
]


@pytest.fixture
def ring(tmp_path: Path) -> str:
    save_topology(make_topology("ring", 3), tmp_path / "ring-3.graphml")
    return str(tmp_path / "ring-3.graphml")


def begin(*words: str) -> subprocess.Popen[str]:
    return commands.start("compare", *words)


def finish(started: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = started.communicate(timeout=250)
    assert started.returncode == status, err
    return out, err


def times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}


@pytest.mark.processes
def test_a_comparison_from_start_to_report_and_again(tmp_path: Path, ring: str) -> None:
    folder = tmp_path / "all"
    words = [ring, "--centralized", "--num-selected", "3,2", "--sgd", "--local", "--seeds", "0,1", "--rounds", "2"]
    words += [*TINY, "--run-dir", str(folder)]
    out, _ = finish(begin(*words))
    assert "run 10 of 10: sgd-seed-1" in out
    for label in ("ring-3", "FedAvg 3/3", "FedAvg 2/3", "local", "SGD"):
        assert f"\n{label} " in out
    summaries = {path.parent.name: read_summary(path.parent) for path in folder.glob("*/summary.json")}
    assert len(summaries) == 10
    assert {summary["samples_total"] for summary in summaries.values()} == {2 * 2 * 8 * 3}
    assert (folder / "report.html").is_file()

    rows = {row["label"]: row for row in csv.DictReader((folder / "comparison.csv").open(encoding="utf-8"))}
    assert list(rows) == ["ring-3", "FedAvg 3/3", "FedAvg 2/3", "local", "SGD"]
    accuracies = [summaries[f"sgd-seed-{seed}"]["consensus_accuracy"] for seed in (0, 1)]
    assert float(rows["SGD"]["consensus_accuracy"]) == pytest.approx(sum(accuracies) / 2)
    spread = abs(accuracies[0] - accuracies[1]) / 2**0.5  # sample standard deviation of two
    assert float(rows["SGD"]["consensus_accuracy_std"]) == pytest.approx(spread)
    assert json.loads((folder / "comparison.json").read_text())["mismatches"] == []

    # Once more: nothing is run again. Without one of the runs: only that one is.
    before = times(folder)
    out, _ = finish(begin(*words))
    assert out.count("complete already") == 10
    assert times(folder) == before
    shutil.rmtree(folder / "local-seed-1")
    out, _ = finish(begin(*words))
    assert out.count("complete already") == 9
    assert {name for name, when in times(folder).items() if before.get(name) != when} == {"local-seed-1"}

    # The folder's report can be written again, also where it was moved to.
    shutil.copytree(folder, tmp_path / "moved")
    (tmp_path / "moved" / "report.html").unlink()
    assert main(["report", str(tmp_path / "moved")]) == 0
    assert (tmp_path / "moved" / "report.html").is_file()

    # Other settings do not fit what is there.
    _, err = finish(begin(*words, "--lr", "0.02"), status=2)
    assert "gossip-ring-3-seed-0: was made with --lr 0.01, not 0.02; choose another --run-dir" in err

    # The same from the run directories alone, and only of some of them.
    out, _ = finish(begin(str(folder), "--run-dir", str(tmp_path / "same")))
    assert "FedAvg 2/3" in out
    some = [str(folder / "sgd-seed-0"), str(folder / "gossip-ring-3-seed-0"), "--run-dir", str(tmp_path / "some")]
    finish(begin(*some))
    assert len(json.loads((tmp_path / "some" / "comparison.json").read_text())["entries"]) == 2
    _, err = finish(begin(*some, "--rounds", "5"), status=2)
    assert "--rounds: has no effect where existing runs are compared" in err


@pytest.mark.processes
def test_an_interrupted_comparison_continues(tmp_path: Path, ring: str) -> None:
    folder = tmp_path / "all"
    words = [ring, "--local", "--rounds", "60", *TINY, "--eval-every", "1000", "--run-dir", str(folder)]
    started = begin(*words)
    assert started.stdout is not None
    for line in started.stdout:
        if line.startswith("run 2 of 2"):
            break
    assert any("round 3/" in line for line in started.stdout)
    started.send_signal(signal.SIGINT)
    _, err = finish(started, status=130)
    assert "resume with: p2pfl compare" in err
    first = times(folder)
    assert read_summary(folder / "local-seed-0")["status"] == "incomplete"
    out, _ = finish(begin(*words))
    assert "gossip-ring-3-seed-0 (complete already)" in out
    assert "local-seed-0 (to be resumed)" in out
    assert "resuming after round" in out
    assert read_summary(folder / "local-seed-0")["status"] == "complete"
    assert times(folder)["gossip-ring-3-seed-0"] == first["gossip-ring-3-seed-0"]


def test_a_dry_run_shows_how_far_decoding_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ring: str
) -> None:
    words = ["--dataset", f"imagefolder:{folder(tmp_path / 'images')}", "--data-dir", str(tmp_path / "cache")]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert (
        main(["compare", ring, *words, "--model", "vgg11", "--width", "0.0625", "--batch-size", "1", "--dry-run"]) == 0
    )
    said = capsys.readouterr()
    assert "decoding training images: 6 of 6" in said.err
    assert "note: training images are shifted and mirrored at random" in said.out


@pytest.mark.processes
def test_a_comparison_never_mixes_data(tmp_path: Path, ring: str) -> None:
    """Resumed and finished runs are only compared where their data sets are equal."""
    picture = folder(tmp_path / "images") / "train" / "dog" / "1.png"
    words = ["--dataset", f"imagefolder:{tmp_path / 'images'}", "--data-dir", str(tmp_path / "cache"), "--rounds", "1"]
    words = [ring, "--local", *words, "--model", "user_models:linear", "--batch-size", "1", "--threads", "1"]
    out, _ = finish(begin(*words, "--run-dir", str(tmp_path / "all")))
    assert out.count("decoding training images 6/6") == 1, "both runs map what the first one decoded"
    shutil.rmtree(tmp_path / "all" / "local-seed-0")
    before = picture.read_bytes()
    picture.write_bytes((tmp_path / "images" / "train" / "cat" / "0.png").read_bytes())
    _, err = finish(begin(*words, "--run-dir", str(tmp_path / "all")), status=2)
    assert f"{tmp_path}/all/gossip-ring-3-seed-0 was trained on other data (content " in err
    finish(begin(*words, "--run-dir", str(tmp_path / "others")))
    runs = [str(tmp_path / "all" / "gossip-ring-3-seed-0"), str(tmp_path / "others" / "local-seed-0")]
    _, err = finish(begin(*runs, "--run-dir", str(tmp_path / "both")), status=2)
    assert "different content of the data set: " in err
    picture.write_bytes(before)
    out, _ = finish(begin(*words, "--run-dir", str(tmp_path / "all")))
    assert out.count("complete already") == 1


def test_two_processes_never_share_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path, ring: str) -> None:
    folder = tmp_path / "all"
    words = [ring, "--rounds", "1", *TINY, "--model", "vgg11", "--run-dir", str(folder)]
    folder.mkdir()
    with locked(folder):
        assert main(["compare", *words]) == 2
    assert f"{folder}: in use by another process" in capsys.readouterr().err
    with locked(folder):
        pass  # free again as soon as it was given back


@pytest.mark.processes
def test_runs_that_do_not_match_are_refused_unless_allowed(tmp_path: Path, ring: str) -> None:
    for name, batch in (("one", "8"), ("two", "4")):
        words = ["--rounds", "1", *TINY, "--batch-size", batch, "--run-dir", str(tmp_path / name)]
        assert commands.run("gossip", ring, *words).returncode == 0
    both = [str(tmp_path / "one"), str(tmp_path / "two"), "--run-dir", str(tmp_path / "both")]
    _, err = finish(begin(*both), status=2)
    assert "different batch size (--batch-size): 8 in" in err
    assert "--allow-mismatch" in err
    assert not (tmp_path / "both").exists()
    out, _ = finish(begin(*both, "--allow-mismatch"))
    assert "[1]" in out
    assert "different batch size" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "compare: name topology files"),
        (["RING", "--num-selected", "2"], "--num-selected 2: has no effect without --centralized"),
        (["RING", "--centralized", "--num-selected", "two"], "--num-selected two: must be whole numbers"),
        (["RING", "--centralized", "--num-selected", "9"], "--num-selected 9: choose 1 to 3"),
        (["RING", "--seeds", "0,00"], "--seeds 0,00: names a number twice"),
        (["RING", "--seeds", "0,0"], "--seeds 0,0: names a number twice"),
        (["RING", "--seeds", "1,2", "--seed", "3"], "--seed is given too"),
        (["RING", "--server-momentum", "0.9"], "--server-momentum: has no effect without --centralized"),
        (["nowhere.graphml"], "nowhere.graphml: no such file"),
        (["."], "neither a run directory nor the folder of a comparison"),
        (["RING", "--batch-size", "1000"], "--batch-size 1000"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ring: str,
    words: list[str],
    named: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["compare", *(ring if word == "RING" else word for word in words), "--dataset", "digits"]) == 2
    err = capsys.readouterr().err
    assert named in err
    assert err.count("\n") == 1
    assert os.listdir() == []


def test_dry_run_names_the_runs_and_makes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ring: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["compare", ring, "--sgd", "--rounds", "2", *TINY, "--model", "vgg11", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "gossip-ring-3-seed-0" in out
    assert "sgd-seed-0" in out
    assert os.listdir() == []
