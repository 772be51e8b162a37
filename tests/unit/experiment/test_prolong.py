"""Prolonged runs: same bits as runs with more rounds from the start, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.support import commands
from tests.support.paths import ROOT
from tests.support.runs import train_record

from p2pfl import RunConfig, make_topology
from p2pfl.config import Mode, replace_options
from p2pfl.errors import ConfigError
from p2pfl.experiment.resume import has_other_rounds, prolong
from p2pfl.modes import assign_roles
from p2pfl.run.directory import create_run_dir, open_run_dir
from p2pfl.run.fingerprint import resume_fingerprint
from p2pfl.run.records import append_round, read_rounds
from p2pfl.topology import Topology

pytestmark = pytest.mark.usefixtures("blank_plots")

RING = make_topology("ring", 3)


def made(folder: Path, rounds: int, done: int, topology: Topology = RING, **options: Any) -> Path:
    """Run directory of `rounds` of which peers have finished some.

    Beyond the last they only mix.
    """
    config = RunConfig.of(**{"dataset": "digits", "schedule": "constant", **options}, rounds=rounds)
    run_dir = create_run_dir(topology, replace_options(config, run_dir=str(folder)))
    for peer in range(topology.n):
        for number in range(1, done + 1):
            record = train_record(topology, peer, number, rounds, 100)
            if number > rounds:
                record = record.__class__(**{**_fields(record), "phase": "consensus", "train_loss": None})
            append_round(run_dir / "peers" / topology.node_path(peer), record, None)
    return run_dir


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def asks(run_dir: Path, rounds: int) -> bool:
    return has_other_rounds(run_dir, replace_options(open_run_dir(run_dir)[1], rounds=rounds))


def refused(run_dir: Path, rounds: int) -> str:
    with pytest.raises(ConfigError) as caught:
        asks(run_dir, rounds)
    assert str(caught.value).startswith(f"--rounds {rounds}: {run_dir} ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_a_schedule_over_all_rounds_is_refused_by_name_and_a_new_run_offered(tmp_path: Path, schedule: str) -> None:
    run_dir = made(tmp_path / "run", 3, 3, schedule=schedule)
    assert not asks(run_dir, 3)
    assert f"with 3, and --schedule {schedule} depends on their number; leave --rounds out" in refused(run_dir, 5)
    (run_dir / "consensus.safetensors").touch()
    assert refused(run_dir, 5).endswith(f"start a new run from its model: --init {run_dir / 'consensus.safetensors'}")
    assert "depends on their number" in refused(run_dir, 2)


def test_a_finished_run_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    run_dir = made(tmp_path / "run", 3, 3)
    folder = run_dir / "peers" / RING.node_path(0) / "checkpoint"
    folder.mkdir(parents=True)
    about = {"p2pfl": '{"digest": "0", "round": 3}'}
    safetensors.torch.save_file({"x": torch.ones(2)}, folder / "round-000003.safetensors", metadata=about)
    with pytest.raises(ConfigError, match=r"another version of p2pfl; resume with that version"):
        asks(run_dir, 5)


def test_fewer_rounds_than_are_done_are_refused_and_others_are_not(tmp_path: Path) -> None:
    run_dir = made(tmp_path / "run", 6, 3)
    assert "has done 3 rounds; choose 3 or more" in refused(run_dir, 2)
    assert all(asks(run_dir, rounds) for rounds in (3, 5, 7))
    assert not asks(run_dir, 6)
    (run_dir / "peers" / "1" / "checkpoint").mkdir()
    (run_dir / "peers" / "1" / "checkpoint" / "round-000005.safetensors").touch()  # its record may be damaged
    assert "has done 5 rounds" in refused(run_dir, 4)
    assert asks(run_dir, 5)


def test_a_run_without_checkpoints_has_nothing_to_resume_from(tmp_path: Path) -> None:
    assert "keeps no checkpoints" in refused(made(tmp_path / "run", 3, 3, checkpoint=False), 5)


def test_the_directory_of_a_finished_run_becomes_that_of_an_interrupted_one(tmp_path: Path) -> None:
    run_dir = made(tmp_path / "run", 3, 8)
    asked = replace_options(open_run_dir(run_dir)[1], rounds=5)
    (run_dir / "summary.json").write_text(json.dumps({"status": "complete", "seconds": 7.5}))
    prolong(run_dir, asked)
    assert open_run_dir(run_dir)[1].training.rounds == 5
    for peer in "012":
        assert [(r.round, r.phase) for r in read_rounds(run_dir / "peers" / peer)] == [(n, "train") for n in (1, 2, 3)]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["rounds_completed"]) == ("incomplete", 5, 3)
    assert summary["seconds"] == 7.5
    assert not asks(run_dir, 5)


def test_killed_before_its_settings_are_saved_it_is_still_the_old_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import p2pfl.experiment.resume

    run_dir = made(tmp_path / "run", 3, 8)
    before = (run_dir / "config.toml").read_bytes()
    asked = replace_options(open_run_dir(run_dir)[1], rounds=5)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(p2pfl.experiment.resume, "write_settings", killed)
        with pytest.raises(KeyboardInterrupt):
            prolong(run_dir, asked)
    assert (run_dir / "config.toml").read_bytes() == before
    assert len(read_rounds(run_dir / "peers" / "0")) == 3  # of the consensus phase, which comes again
    assert asks(run_dir, 5)
    prolong(run_dir, asked)
    assert not asks(run_dir, 5)


def test_rounds_are_no_part_of_what_lasts_unless_the_schedule_hangs_on_them() -> None:
    def lasting(rounds: int, schedule: str) -> str:
        config = RunConfig.of(rounds=rounds, schedule=schedule)
        return resume_fingerprint(assign_roles(config, RING), config)

    assert lasting(3, "constant") == lasting(5, "constant")
    assert lasting(3, "onecycle") != lasting(5, "onecycle")


def records_of(run_dir: Path) -> list[list[tuple[int, str, float | None]]]:
    folders = sorted((run_dir / "peers").iterdir())
    return [[(r.round, r.phase, r.train_loss) for r in read_rounds(folder)] for folder in folders]


def rounds_on_test_set(run_dir: Path) -> list[int]:
    """Training rounds in which a process was evaluated on the test set."""
    records = [record for folder in sorted((run_dir / "peers").iterdir()) for record in read_rounds(folder)]
    return sorted({r.round for r in records if r.phase == "train" and r.evaluated_on == "test"})


@pytest.mark.processes
@pytest.mark.parametrize("mode", ["gossip", "centralized"])
def test_a_prolonged_run_has_the_bits_of_a_longer_one(tmp_path: Path, mode: Mode) -> None:
    sizes = ["--num-clients", "3", "--num-selected", "2", "--server-momentum", "0.5"]
    words = [str(ROOT / "topologies" / "ring-4.graphml")] if mode == "gossip" else sizes
    words += ["--dataset", "digits", "--model", "user_models:linear", "--local-steps", "2", "--threads", "1"]
    words += ["--lr", "0.01", "--schedule", "constant", "--validation", "0.1"]
    if mode == "gossip":
        partition = tmp_path / "shares.json"
        partition.write_text(json.dumps({str(peer): list(range(100 * peer, 100 * peer + 100)) for peer in range(4)}))
        words += ["--partition", f"file:{partition}"]
    long, short = tmp_path / "long", tmp_path / "short"
    assert commands.run(mode, *words, "--rounds", "4", "--run-dir", str(long)).returncode == 0
    assert commands.run(mode, *words, "--rounds", "2", "--run-dir", str(short)).returncode == 0
    if mode == "gossip":
        refused_and_left_as_it_is(short)
    more = commands.run(mode, "--resume", str(short), "--rounds", "4")
    assert more.returncode == 0, more.stderr
    assert (short / "consensus.safetensors").read_bytes() == (long / "consensus.safetensors").read_bytes()
    assert records_of(short) == records_of(long)
    assert rounds_on_test_set(short) == [2, 4], "its first end was on the test set, too"
    assert rounds_on_test_set(long) == [4]
    summary = json.loads((short / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["rounds_completed"]) == ("complete", 4, 4)
    fewer = commands.run(mode, "--resume", str(short), "--rounds", "3")
    assert (fewer.returncode, len(fewer.stderr.splitlines())) == (2, 1)
    assert "has done 4 rounds; choose 4 or more" in fewer.stderr


def refused_and_left_as_it_is(run_dir: Path) -> None:
    """More rounds with a damaged partition change nothing in a finished run."""
    kept = run_dir / "partition.json"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9])
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    refusal = commands.run("gossip", "--resume", str(run_dir), "--rounds", "4")
    assert (refusal.returncode, len(refusal.stderr.splitlines())) == (2, 1), refusal.stderr
    assert "partition.json" in refusal.stderr
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    kept.write_bytes(whole)
