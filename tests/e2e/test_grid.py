"""`compare` over a grid with tuning: trials, choice, interruption, report."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support import commands

from p2pfl.cli import main
from p2pfl.report import read_summary
from p2pfl.report.load import load_run
from p2pfl.topology import make_topology, save_topology

pytestmark = pytest.mark.usefixtures("blank_plots")

RATES = ("0.01", "1e25")  # the second diverges
WORDS = "--dataset digits --model user_models:linear --batch-size 8 --threads 1 --local-steps 2 --rounds 2"
GRID = "--algorithm dpsgd,exact-diffusion --partition iid,dirichlet:1"


@pytest.fixture
def ring(tmp_path: Path) -> str:
    save_topology(make_topology("ring", 3), tmp_path / "ring-3.graphml")
    return str(tmp_path / "ring-3.graphml")


def finish(started: subprocess.Popen[str], status: int = 0) -> str:
    out, err = started.communicate(timeout=280)
    assert started.returncode == status, err
    return out


@pytest.mark.processes
def test_a_tuned_grid_is_interrupted_and_resumed(capsys: pytest.CaptureFixture[str], tmp_path: Path, ring: str) -> None:
    folder = tmp_path / "all"
    words = [ring, *GRID.split(), *WORDS.split(), "--seeds", "0,1", "--tune", f"lr={','.join(RATES)}"]
    words += ["--tune-rounds", "1", "--run-dir", str(folder)]

    started = commands.start("compare", *words)
    assert started.stdout is not None
    assert any(line.startswith("run 3 of 16") for line in started.stdout)
    started.send_signal(signal.SIGINT)
    finish(started, status=130)
    kept = "gossip-ring-3-dpsgd-iid-lr-0.01"
    first = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("tuning/*/summary.json")}

    started = commands.start("compare", *words)
    assert started.stdout is not None
    assert any(line.startswith("run 11 of 16") for line in started.stdout)
    started.kill()  # SIGKILL, among the runs with the chosen values
    started.communicate(timeout=280)
    (folder / "tuning" / kept / "report.html").unlink()  # as if the interrupt had come before it

    out = finish(commands.start("compare", *words))
    assert out.count("complete already") >= 4
    assert out.count("(lost: ") == 4
    assert "16 of 16 runs" in out
    assert (folder / "tuning" / kept / "report.html").exists()
    assert (folder / "tuning" / kept / "summary.json").stat().st_mtime_ns == first[kept]

    # The choice, and that only runs with it have read the test set, once.
    tuning = json.loads((folder / "tuning" / "chosen.json").read_text())
    assert len(tuning["cells"]) == 4
    for cell in tuning["cells"]:
        assert cell["chosen"] == {"lr": 0.01}
        assert "finite" in cell["trials"][1]["diverged"]
        assert cell["trials"][1]["accuracy"] is None
        own = folder / "tuning" / cell["trials"][0]["run"]
        assert read_summary(own)["evaluated_on"] == "validation"
        assert {record.evaluated_on for records in load_run(own).records for record in records} <= {"validation", None}
    finals = sorted(folder.glob("gossip-*"))
    assert len(finals) == 8
    for run_dir in finals:
        run = load_run(run_dir)
        assert run.config.data.validation == 0.0
        tested = {record.round for records in run.records for record in records if record.test_accuracy is not None}
        assert min(tested) == 2, "the last round of training"

    with open(folder / "comparison-runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["place"], row["algorithm"], row["partition"], row["seed"], row["lr"]) for row in rows} == {
        ("ring-3", algorithm, partition, seed, "0.01")
        for algorithm in ("dpsgd", "exact-diffusion")
        for partition in ("iid", "dirichlet:1")
        for seed in "01"
    }
    found = json.loads((folder / "comparison.json").read_text())
    assert found["mismatches"] == []
    assert found["grid"]["columns"] == ["iid", "dirichlet:1"]
    assert [row["label"] for row in found["grid"]["rows"]] == ["ring-3, dpsgd", "ring-3, exact-diffusion"]
    for row in found["grid"]["rows"]:
        for cell, partition in zip(row["cells"], found["grid"]["columns"], strict=True):
            own = [r for r in rows if (r["algorithm"], r["partition"]) == (row["algorithm"], partition)]
            mean = sum(float(one["consensus_accuracy"]) for one in own) / 2
            assert cell["mean"]["consensus_accuracy"] == pytest.approx(mean)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count(">diverged<") == 4
    assert 'id="filters"' in page

    # Another list: only the new rate is tried.
    words[words.index("--tune") + 1] = "lr=0.001,0.01"
    out = finish(commands.start("compare", *words))
    assert out.count("complete already") == 4 + 8
    assert "lr 0.01" in out
    assert (
        main(["compare", *words[:-2], "--run-dir", str(folder), "--model", "vgg11", "--width", "0.0625", "--dry-run"])
        == 0
    )
    assert "left, by the 16 runs in" in capsys.readouterr().out
    assert main(["report", str(folder)]) == 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--tune-rounds 1", "--tune-rounds 1: has no effect without --tune"),
        ("--tune lr=.1,.2 --tune-rounds 3", "--tune-rounds 3: choose 1 to 2, the number of --rounds"),
        ("--tune lr=.1,-1", "--tune: gossip-ring-3: --lr -1"),
        ("--tune lr=.1 --validation 0.1 --no-test", "--no-test: with --tune the final runs read the test set"),
        (
            "--tune lr=.1,.2 --validation 0",
            "--validation 0: --tune would have no set to choose on; choose a fraction above",
        ),
        ("--algorithm dpsgd,other", "--algorithm other: choose one of dpsgd"),
        ("--algorithm dpsgd,quasi-global --momentum 0", "gossip-ring-3-quasi-global: --momentum 0"),
        ("--partition iid,own", "own cannot be one of several"),
    ],
)
def test_bad_grids_are_one_line_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ring: str, words: str, named: str
) -> None:
    assert main(["compare", ring, *WORDS.split(), *words.split(), "--run-dir", str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert named in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_dry_run_lists_trials_and_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path, ring: str) -> None:
    words = [*WORDS.split(), *GRID.split(), "--seeds", "0,1", "--tune", "lr=.01,.02", "--model", "vgg11"]
    assert main(["compare", ring, *words, "--width", "0.0625", "--dry-run", "--run-dir", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    assert "8 trials, evaluated on the 0.1 of the training set that they hold back:" in out
    assert "gossip-ring-3-exact-diffusion-dirichlet-1-lr-0.02" in out
    assert "then 8 runs with the values chosen" in out
    assert f"{16 * 2 * 2 * 8 * 3:,} samples in all" in out
    assert not (tmp_path / "none").exists()


def test_the_size_of_the_validation_set_changes_trials_only(capsys: pytest.CaptureFixture[str], ring: str) -> None:
    """The runs that are compared train on everything, as long as by default."""
    words = (
        "--dataset digits --model vgg11 --width 0.0625 --threads 1 --batch-size 8 --rounds 2 --tune lr=.01 --dry-run"
    )
    plans = []
    for more in ("", "--validation 0.1", "--validation 0.5"):
        assert main(["compare", ring, *words.split(), *more.split()]) == 0
        plans.append([line for line in capsys.readouterr().out.splitlines() if "rounds of" in line])
    assert len(plans[0]) == 2
    assert plans[0] == plans[1] == plans[2]


@pytest.mark.parametrize("tune", [[], ["--tune", "lr=.01,.02"]])
def test_a_dry_run_refuses_a_partition_that_does_not_fit(
    capsys: pytest.CaptureFixture[str], ring: str, tune: list[str]
) -> None:
    assert main(["compare", ring, *WORDS.split(), "--partition", "iid,classes:3", *tune, "--dry-run"]) == 2
    assert (
        "--partition classes:3: 3 peers of 3 would hold 9 of 10 classes; choose at least 4" in capsys.readouterr().err
    )


def test_lists_mean_nothing_for_runs_that_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    assert main(["compare", str(tmp_path / "run"), "--algorithm", "dpsgd,median"]) == 2
    assert "--algorithm: has no effect where existing runs are compared" in capsys.readouterr().err
