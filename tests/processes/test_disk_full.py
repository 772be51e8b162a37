"""Full disks and unwritable files: one line each, and records stay readable.

No process is left.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support import commands
from tests.support.launched import FAST, Swarm, nobody_left, ring
from tests.support.launched import start as start
from tests.support.runs import train_record
from tests.support.small_disk import SmallDisk, small_disk

from p2pfl import make_topology
from p2pfl.data.cache import FORMAT
from p2pfl.errors import CheckpointError, unwritable
from p2pfl.model.sketches import SKETCH_BUCKETS
from p2pfl.node.log import close_log, open_log
from p2pfl.run import records, repair
from p2pfl.run.paths import ROUNDS_FILE, SKETCHES_FILE
from p2pfl.run.sketch_file import read_sketches

RING = make_topology("ring", 3)
SKETCH = np.ones(SKETCH_BUCKETS, np.float32)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "64k") as mounted:
        yield mounted


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert "Logging error" not in err
    return err


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return commands.run(*words)


# Records


@pytest.mark.processes
@pytest.mark.parametrize("durable", [True, False])
def test_a_record_that_finds_no_room_leaves_the_file_as_it_was(disk: SmallDisk, durable: bool) -> None:
    folder = disk.path / "peer"
    folder.mkdir()
    first, second = (train_record(RING, 0, number, 4, 100) for number in (1, 2))
    records.append_round(folder, first, SKETCH, durable)
    before = {name: (folder / name).stat().st_size for name in (ROUNDS_FILE, SKETCHES_FILE)}
    filling = disk.fill()
    with pytest.raises(
        CheckpointError, match=r"sketches\.f32: cannot be written \(No space left on device\); make room"
    ):
        records.append_round(folder, second, SKETCH, durable)
    assert {name: (folder / name).stat().st_size for name in before} == before
    assert records.read_rounds(folder) == [first]
    filling.unlink()
    records.append_round(folder, second, 2 * SKETCH, durable)
    assert records.read_rounds(folder) == [first, second]
    assert np.array_equal(read_sketches(folder), [SKETCH, 2 * SKETCH])


def _append_many(folder: Path, written: list[records.RoundRecord]) -> None:
    for number in range(1, 1000):
        written.append(train_record(RING, 0, number, 1000, 100))
        records.append_round(folder, written[-1], None)


@pytest.mark.processes
def test_a_line_of_which_only_a_part_found_room_is_taken_back(disk: SmallDisk) -> None:
    folder = disk.path / "peer"
    folder.mkdir()
    path = folder / ROUNDS_FILE
    written: list[records.RoundRecord] = []
    filling = disk.fill()
    os.truncate(filling, filling.stat().st_size - 2 * os.sysconf("SC_PAGE_SIZE"))  # a page or two: a few lines
    with pytest.raises(CheckpointError, match=r"rounds\.jsonl: cannot be written \(No space left"):
        _append_many(folder, written)
    assert len(written) > 2
    assert path.read_bytes().endswith(b"}\n")
    assert records.read_rounds(folder) == written[:-1]
    filling.unlink()
    records.append_round(folder, written[-1], None)
    assert records.read_rounds(folder) == written


@pytest.mark.processes
def test_forgetting_rounds_on_a_full_disk_forgets_nothing(disk: SmallDisk) -> None:
    folder = disk.path / "peer"
    folder.mkdir()
    for number in (1, 2):
        records.append_round(folder, train_record(RING, 0, number, 4, 100), SKETCH)
    disk.fill()
    with pytest.raises(CheckpointError, match="make room there"):
        repair.repair(folder, 1)
    assert [record.round for record in records.read_rounds(folder)] == [1, 2]
    assert sorted(path.name for path in folder.iterdir()) == [ROUNDS_FILE, SKETCHES_FILE]


@pytest.mark.processes
def test_a_log_that_finds_no_room_loses_lines_and_says_nothing(
    disk: SmallDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    log = open_log(disk.path, 1234)
    disk.fill()
    for _ in range(3):
        log.info("a line")
    log.info("a line that is longer than what waits to be written, %s", "x" * 10_000)
    close_log(log)
    assert log.handlers == []
    captured = capfd.readouterr()
    assert captured.err == captured.out == ""


def test_words_for_what_cannot_be_written() -> None:
    path = Path("some/file")
    serializing = RuntimeError('Error while serializing: I/O error: Read-only file system (os error 30) at path "/x"')
    assert unwritable(path, serializing).endswith("(Read-only file system); choose a place that can be written")
    full = "some/file: cannot be written (No space left on device); make room there"
    assert unwritable(path, OSError(28, "No space left on device")) == full
    assert unwritable(path, RuntimeError("I/O error: No space left on device (os error 28)")) == full
    assert "make room there" in unwritable(path, OSError(122, os.strerror(122)))
    assert unwritable(path, RuntimeError()) == "some/file: cannot be written (RuntimeError)"


# Whole runs

# What a run of three peers finds no room for: its first records; its checkpoints; its report.
SIZES = {"records": "24k", "checkpoints": "1m", "report": "3m"}


@pytest.mark.processes
@pytest.mark.parametrize("stage", SIZES)
def test_a_full_disk_ends_the_run_in_one_line_and_it_resumes_when_there_is_space(
    tmp_path: Path, disk: SmallDisk, start: Callable[..., Swarm], stage: str
) -> None:
    disk.resize("64m")
    options = [ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "6"]
    run_dir = disk.path / "run"
    swarm = start(*options, "--run-dir", str(run_dir), P2PFL_TEST_PICTURES="1")
    swarm.until("starting")
    disk.resize(SIZES[stage])  # the run has been told by then that there is room
    family = swarm.family()
    code, err = swarm.end(200)
    assert code == 1
    assert "cannot be written (No space left on device); make room there" in one_line(err)
    assert str(run_dir) in err
    nobody_left(swarm, family)
    disk.resize("64m")
    for words in (["report", str(run_dir)], ["gossip", "--resume", str(run_dir)]):
        done = command(*words)
        assert done.returncode == 0, done.stderr
    undisturbed = command("gossip", *options, "--run-dir", str(tmp_path / "whole"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    whole, again = ((d / "consensus.safetensors").read_bytes() for d in (tmp_path / "whole", run_dir))
    assert whole == again
    for folder in (run_dir / "peers").iterdir():
        rounds = [record.round for record in records.read_rounds(folder)]
        assert rounds == list(range(1, len(rounds) + 1))
        assert len(read_sketches(folder)) == len(rounds)


@pytest.mark.processes
def test_a_run_whose_files_can_no_longer_be_written_ends_in_one_line(
    tmp_path: Path, start: Callable[..., Swarm]
) -> None:
    run_dir = tmp_path / "run"
    swarm = start(ring(tmp_path), *FAST, "--local-steps", "2", "--rounds", "100000", "--run-dir", str(run_dir))
    swarm.until("round 2/")
    family = swarm.family()
    victim = run_dir / "peers" / "1"
    kept = tmp_path / "kept.jsonl"
    os.link(victim / "rounds.jsonl", kept)
    (tmp_path / "nowhere").symlink_to(tmp_path / "no" / "folder")
    os.replace(tmp_path / "nowhere", victim / "rounds.jsonl")
    code, err = swarm.end()
    assert code == 1
    assert "peer 1: " in one_line(err)
    assert "rounds.jsonl: cannot be written (No such file or directory)" in err
    assert "--resume" in err
    nobody_left(swarm, family)
    os.replace(kept, victim / "rounds.jsonl")
    assert command("report", str(run_dir)).returncode == 0

    # A worker that cannot write its log says so to its launcher all the same.
    os.replace(victim / "log.txt", tmp_path / "log.txt")
    (victim / "log.txt").mkdir()
    again = start("--resume", str(run_dir))
    again.until("starting")
    family = again.family()
    code, err = again.end()
    assert code == 1
    assert "log.txt: cannot be written (Is a directory); it is a folder: move it away" in one_line(err)
    nobody_left(again, family)


@pytest.mark.processes
def test_a_run_directory_for_which_there_is_no_room_is_bad_input_and_leaves_nothing(
    tmp_path: Path, disk: SmallDisk
) -> None:
    filling = disk.fill()
    os.truncate(filling, filling.stat().st_size - os.sysconf("SC_PAGE_SIZE"))
    done = command("gossip", ring(tmp_path), *FAST, "--rounds", "1", "--run-dir", str(disk.path / "run"))
    assert done.returncode == 2
    assert "No space left" in one_line(done.stderr)
    assert list(disk.path.iterdir()) == [filling], "half a run directory would be in the way of the next attempt"


@pytest.mark.processes
def test_a_data_set_for_which_there_is_no_room_is_bad_input_and_leaves_nothing(tmp_path: Path, disk: SmallDisk) -> None:
    words = [ring(tmp_path), *FAST, "--rounds", "1", "--data-dir", str(disk.path), "--run-dir", str(tmp_path / "run")]
    done = command("gossip", *words)
    assert done.returncode == 2
    assert f"digits-v{FORMAT}.safetensors: cannot be written (No space left on device)" in one_line(done.stderr)
    assert "--data-dir" in done.stderr
    assert list(disk.path.iterdir()) == []
    assert not (tmp_path / "run").exists()
