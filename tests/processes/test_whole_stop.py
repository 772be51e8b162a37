"""Whole swarms stopped, or their files damaged: same bits as undisturbed runs."""

from __future__ import annotations

import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import commands
from tests.support.real_run import Run, is_past, kill_all

from p2pfl import make_topology
from p2pfl.node.control import EXIT_INTERRUPTED
from p2pfl.run import checkpoint
from p2pfl.topology import save_topology

FAST = shlex.split(
    "--dataset digits --model half_written:linear --batch-size 8 --lr 0.01 --local-steps 2 --eval-every 1000000"
    " --threads 1 --rounds 30"
)

pytestmark = pytest.mark.processes

Start = Callable[..., Run]


def started(folder: Path, resume: Run | None = None, *options: str) -> Run:
    save_topology(make_topology("ring", 3), folder / "ring.graphml")
    words = ["--resume", str(resume.run_dir)] if resume else [str(folder / "ring.graphml"), *FAST, *options]
    return Run(folder, "gossip", *words, fresh=resume is None)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(resume: Run | None = None, *options: str) -> Run:
        runs.append(started(tmp_path, resume, *options))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bytes]:
    """The model of the run that nothing happened to."""
    run = started(tmp_path_factory.mktemp("peace"))
    try:
        code, err = run.end()
        assert (code, err) == (0, "")
        yield (run.run_dir / "consensus.safetensors").read_bytes()
    finally:
        run.kill()


def ends_as_in_peace(run: Run, peace: bytes) -> str:
    """Returns what it said on stderr."""
    code, err = run.end()
    assert code == 0, err
    assert (run.run_dir / "consensus.safetensors").read_bytes() == peace, "a resumed run ends with the same bits"
    for name in "012":
        rounds = [record.round for record in run.records(name)]
        assert rounds == list(range(1, len(rounds) + 1)), "every round is recorded once"
        assert not any(record.absent for record in run.records(name))
    return err


def half_a_file(run: Run, name: str) -> Path:
    """Wait until it is there."""
    deadline = time.monotonic() + 60
    while not (found := list((run.run_dir / "peers" / name / "checkpoint").glob(".round-000005.*"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    whole = checkpoints(run, name)[-1].stat().st_size
    while found[0].stat().st_size > 0.6 * whole or found[0].stat().st_size == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[0]


def checkpoints(run: Run, name: str) -> list[Path]:
    return sorted((run.run_dir / "peers" / name / "checkpoint").glob("round-*.safetensors"))


def kill_amid(run: Run) -> None:
    """Kill a run that has more than half of its rounds before it."""
    assert is_past(run, 6)
    kill_all(run)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("end", ["SIGKILL", "Ctrl-C"])
def test_stopped_in_the_middle_of_writing_a_checkpoint(
    start: Start, peace: bytes, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Peer 1 stands still with half a file written; the others wait for it."""
    monkeypatch.setenv("P2PFL_TEST_HALF", "1:5")
    run = start()
    run.until("rounds of training")
    half = half_a_file(run, "1")
    if end == "SIGKILL":
        kill_all(run)
        assert half.exists()
    else:
        run.process.send_signal(signal.SIGINT)
        assert run.end()[0] == EXIT_INTERRUPTED
    assert [path.name for path in checkpoints(run, "1")] == ["round-000003.safetensors", "round-000004.safetensors"]
    monkeypatch.delenv("P2PFL_TEST_HALF")
    assert ends_as_in_peace(start(run), peace) == ""
    assert not half.exists(), "what was left over is cleared away"


@pytest.mark.parametrize("damage", [cut_short, altered])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    start: Start, peace: bytes, damage: Callable[[Path], None]
) -> None:
    """The peer falls back a round, and may be two rounds behind its neighbors.

    They still have what it needs.
    """
    run = start()
    kill_amid(run)
    newest = {name: checkpoints(run, name)[-1] for name in "012"}
    behind = min("012", key=lambda name: newest[name])
    damage(newest[behind])
    again = start(run)
    assert ends_as_in_peace(again, peace) == ""
    (said,) = [line for line in again.lines if line.startswith("warning: ") and "checkpoint" in line]
    assert str(newest[behind]) in said


def test_weights_that_a_peer_lost_come_from_its_neighbors_and_that_is_said(start: Start) -> None:
    """Its checkpoints are damaged, its records stay, and any neighbor may serve it."""
    run = start()
    kill_amid(run)
    before = [record.round for record in run.records("1")]
    damaged = list(checkpoints(run, "1"))  # three, where it was killed between a save and the removal of the oldest
    for path in damaged:
        cut_short(path)
    again = start(run)
    code, err = again.end()
    assert code == 0, err
    (taken,) = [record for record in again.records("1") if record.weights_from]
    assert taken.weights_from in (["0"], ["2"])
    assert taken.round > 2
    (source,) = taken.weights_from
    assert [record.round for record in again.records("1")][: taken.round - 1] == before[: taken.round - 1]
    said = [line for line in again.lines if line.startswith("warning: peer 1: ")]
    assert sum("not an intact checkpoint" in line for line in said) == len(damaged), said
    assert any(
        "no checkpoint that can be used; takes its neighbors' weights if they are ahead" in line for line in said
    )
    assert any(f"takes over the weights of peer {source} in round {taken.round}" in line for line in said)
    summary = again.summary()
    assert summary["weights_from_neighbors"] == [{"peer": "1", "round": taken.round, "neighbors": taken.weights_from}]
    assert f"1 in round {taken.round} (from {source})" in (again.run_dir / "report.html").read_text()
    assert f"bootstrapped from neighbors: 1 in round {taken.round} (from {source})" in again.lines


def test_damage_that_leaves_a_checkpoint_changes_no_bit(start: Start, peace: bytes) -> None:
    """One kind of damage per peer: records rebuilt or cut, foreign checkpoint refused."""
    run = start()
    kill_amid(run)
    folders = {name: run.run_dir / "peers" / name for name in "012"}
    newest = {name: checkpoints(run, name)[-1] for name in "012"}
    third = min("012", key=lambda name: newest[name].name)  # its neighbors have a checkpoint of its newest round, too
    first, second = (name for name in "012" if name != third)
    (folders[first] / "rounds.jsonl").unlink()
    lines = (folders[second] / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    (folders[second] / "rounds.jsonl").write_bytes(b"".join([lines[0], b"\xff\x00\n", *lines[2:4], lines[3]]))
    shutil.copy(folders[second] / "checkpoint" / newest[third].name, newest[third])
    damaged_report = commands.run("report", str(run.run_dir))
    assert damaged_report.returncode == 0, damaged_report.stderr
    assert f"{folders[second] / 'rounds.jsonl'}: no round record in line 2" in damaged_report.stderr
    assert "Traceback" not in damaged_report.stderr
    again = start(run)
    code, err = again.end()
    assert (code, err) == (0, "")
    assert (again.run_dir / "consensus.safetensors").read_bytes() == peace, "the weights are those of a run in peace"
    assert not any(record.weights_from or record.absent for name in "012" for record in again.records(name))
    recorded = {name: [record.round for record in again.records(name)] for name in "012"}
    saved = int(newest[first].stem.removeprefix("round-"))
    assert recorded[first] == list(range(saved - 1, recorded[third][-1] + 1)), "the last two are rebuilt"
    # Of what follows its four intact lines it has what stands in its two checkpoints.
    lost = [2, *range(5, int(newest[second].stem.removeprefix("round-")) - 1)]
    assert [n for n in recorded[third] if n not in recorded[second]] == lost
    assert recorded[third] == list(range(1, len(recorded[third]) + 1))
    warned = [line for line in again.lines if line.startswith("warning: ")]
    foreign = f"a checkpoint of {second!r} (number {second}), not of {third!r}"
    assert sum(f"peer {first}: " in line and "rebuilt from the checkpoints" in line for line in warned) == 1, warned
    assert sum(f"peer {second}: " in line and "line 2" in line for line in warned) == 1, warned
    assert sum(f"peer {third}: " in line and foreign in line for line in warned) == 1, warned
    assert all(f"{run.run_dir}/peers/" in line for line in warned), "each names its file"
    assert again.summary()["damaged_records"] == []
    assert "Records are lost" in (again.run_dir / "report.html").read_text()


def test_every_peers_newest_checkpoint_damaged(start: Start, peace: bytes) -> None:
    run = start()
    kill_amid(run)
    for name in "012":
        altered(checkpoints(run, name)[-1])
    again = start(run)
    assert ends_as_in_peace(again, peace) == ""
    assert sum("altered since it was written" in line for line in again.lines) == 3, again.lines


def test_cut_again_and_again(start: Start, peace: bytes) -> None:
    run = start()
    for number in (2, 5, 8, 11):
        if not is_past(run, number):
            break
        kill_all(run)
        assert checkpoint.newest(run.run_dir / "peers" / "0" / "checkpoint")[0] is not None
        run = start(run)
    ends_as_in_peace(run, peace)


def test_cut_again_and_again_with_rounds_between_two_checkpoints(start: Start, peace: bytes) -> None:
    """All go back to the newest that all have, and the first time to the beginning."""
    run = start(None, "--checkpoint-every", "5")
    for number in (3, 8, 11):
        if not is_past(run, number):
            break
        kill_all(run)
        assert {path.name for name in "012" for path in checkpoints(run, name)} <= {
            f"round-{round:06d}.safetensors" for round in range(5, 31, 5)
        }
        run = start(run)
    assert ends_as_in_peace(run, peace) == ""


def test_an_attack_continues_with_the_vectors_that_were_seen_before_the_stop(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "faults.toml"
    script.write_text('[[fault]]\nkind = "attack"\npeer = "1"\nattack = "inner-product"\nrounds = [2, 30]\n')
    whole = tmp_path / "whole"
    whole.mkdir()
    undisturbed = started(whole, None, "--faults", str(script))
    try:
        code, err = undisturbed.end()
        assert code == 0, err
    finally:
        undisturbed.kill()
    run = start(None, "--faults", str(script))
    kill_amid(run)
    ends_as_in_peace(start(run), (undisturbed.run_dir / "consensus.safetensors").read_bytes())
