"""Runs of real processes over data that the user has split, or that nobody has."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from PIL import Image
from tests.support import commands
from tests.support.helpers import token_file
from tests.support.peer_pair import Pair
from tests.support.real_run import Run
from tests.support.same_bits import check_simulated

from p2pfl import RunConfig, data, make_topology
from p2pfl.report import read_summary
from p2pfl.run import checkpoint
from p2pfl.run.records import read_rounds
from p2pfl.run.shard_record import read_shard_record
from p2pfl.topology import save_topology

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("blank_plots")]


def pictures(folder: Path, count: int, level: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (level, 10 * number, 90)).save(folder / f"{number}.png")


def ring(folder: Path) -> str:
    save_topology(make_topology("ring", 3), folder / "ring.graphml")
    return str(folder / "ring.graphml")


TINY = ["--model", "user_models:linear", "--schedule", "constant", "--rounds", "1", "--threads", "1"]


def test_two_peers_with_their_own_data_agree_on_the_classes(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    for node, classes in (("0", {"cat": 3, "dog": 2}), ("1", {"dog": 4, "owl": 6})):
        for level, (name, count) in enumerate(classes.items()):
            pictures(tmp_path / f"data-{node}" / "train" / name, count, 40 * level + 20)
            pictures(tmp_path / f"data-{node}" / "test" / name, 2, 40 * level + 20)
    own = ["--partition", "own", "--mixing", "samples"]
    ends = pair.run(*(pair.words(node, tmp_path / f"data-{node}", *own) for node in "01"))
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 2
    expected = {"0": [3, 2, 0], "1": [0, 4, 6]}
    for node, counts in expected.items():
        shard = read_shard_record(tmp_path / f"run-{node}" / "peers" / node)
        assert shard is not None
        assert (shard.classes, shard.counts) == (["cat", "dog", "owl"], counts)
    ends = pair.run(*(["--resume", str(tmp_path / f"run-{node}"), "--rounds", "2"] for node in "01"))
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 2
    assert [pair.records(node) for node in "01"] == [2, 2]
    saved = [checkpoint.newest(tmp_path / f"run-{node}" / "peers" / node / "checkpoint")[0] for node in "01"]
    assert [one.round for one in saved if one is not None] == [2, 2]


def test_two_peers_hold_back_a_part_of_what_each_has(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    for node, classes in (("0", {"cat": 3, "dog": 2}), ("1", {"dog": 4, "owl": 6})):
        for level, (name, count) in enumerate(classes.items()):
            pictures(tmp_path / f"data-{node}" / "train" / name, count, 40 * level + 20)
            pictures(tmp_path / f"data-{node}" / "test" / name, 2, 40 * level + 20)
    own = ["--partition", "own", "--mixing", "samples", "--validation", "0.2", "--no-test"]
    ends = pair.run(*(pair.words(node, tmp_path / f"data-{node}", *own) for node in "01"))
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 2
    for node, counts, held in (("0", [2, 2, 0], 1), ("1", [0, 3, 5], 2)):
        folder = tmp_path / f"run-{node}" / "peers" / node
        shard = read_shard_record(folder)
        assert shard is not None
        assert (shard.classes, shard.counts) == (["cat", "dog", "owl"], counts)
        measured = {(r.evaluated_on, r.test_samples) for r in read_rounds(folder) if r.test_accuracy is not None}
        assert measured == {("validation", held)}


def test_a_peer_whose_others_do_not_come_names_them(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    for half in ("train", "test"):
        pictures(tmp_path / "data" / half / "cat", 3, 30)
        pictures(tmp_path / "data" / half / "dog", 3, 90)
    words = pair.words("0", tmp_path / "data", "--partition", "own", "--start-timeout", "1")
    end = commands.run("peer", *words, "--node", "0", "--token-file", token_file(tmp_path))
    assert end.returncode == 1
    (line,) = end.stderr.splitlines()
    assert "no introduction of peer 1 within 1 s (--start-timeout)" in line


def test_folders_by_peer_are_the_shards_of_a_launched_swarm(tmp_path: Path) -> None:
    for peer, name in enumerate(("cat", "dog", "cat")):
        pictures(tmp_path / "data" / str(peer) / "train" / name, 4 + peer, 30 * peer + 20)
    for name in ("cat", "dog"):
        pictures(tmp_path / "data" / "test" / name, 2, 50)
    run_dir = tmp_path / "run"
    words = ["--dataset", f"imagefolder:{tmp_path / 'data'}", "--data-dir", str(tmp_path / "cache"), *TINY]
    words += ["--partition", "own", "--batch-size", "2", "--run-dir", str(run_dir)]
    end = commands.run("gossip", ring(tmp_path), *words)
    assert end.returncode == 0, end.stderr
    found = [read_shard_record(run_dir / "peers" / str(peer)) for peer in range(3)]
    assert [shard.counts for shard in found if shard is not None] == [[4, 0], [0, 5], [6, 0]]
    report = (run_dir / "report.html").read_text()
    assert "A single peer has all training samples of class dog (only 1)" in report


def test_a_file_of_ones_own_is_kept_for_resuming_and_its_mistakes_are_one_line(tmp_path: Path) -> None:
    labels = data.load(data.prepare("digits", None, lambda *_: None)).train_labels
    given = tmp_path / "split.json"
    assignment = {str(peer): list(range(100 * peer, 100 * peer + 100)) for peer in range(3)}
    given.write_text(json.dumps(assignment))
    words = ["--dataset", "digits", *TINY, "--partition", f"file:{given}", "--run-dir", str(tmp_path / "run")]
    end = commands.run("gossip", ring(tmp_path), *words)
    assert end.returncode == 0, end.stderr
    assert f"{len(labels) - 300:,} of {len(labels):,} training samples are not used" in end.stdout + end.stderr
    given.unlink()
    end = commands.run("gossip", "--resume", str(tmp_path / "run"), "--rounds", "2")
    assert end.returncode == 0, end.stderr
    assert read_summary(tmp_path / "run")["rounds_completed"] == 2
    assignment["1"].append(0)
    given.write_text(json.dumps(assignment))
    end = commands.run("gossip", ring(tmp_path), *words[:-1], str(tmp_path / "other"))
    assert end.returncode == 2
    (line,) = end.stderr.splitlines()
    assert line.endswith(f"--partition file:{given}: sample 0 is given to 0 and to 1")
    assert not (tmp_path / "other").exists()
    end = commands.run("gossip", "--resume", str(tmp_path / "run"), "--rounds", "3", "--partition", f"file:{given}")
    assert end.returncode == 2
    assert "was started with another content" in end.stderr


def test_ten_peers_of_very_unequal_shards_are_killed_and_resumed(tmp_path: Path) -> None:
    topology = make_topology("ring", 10)
    save_topology(topology, tmp_path / "ring.graphml")
    options = {"rounds": 8, "local_steps": 2, "batch_size": 8, "lr": 0.01, "eval_every": 1000, "threads": 1}
    options |= {"dataset": "digits", "model": "user_models:linear", "partition": "dirichlet:0.1"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    run = Run(tmp_path, "gossip", str(tmp_path / "ring.graphml"), *words)
    try:
        run.signal_in_round("3", signal.SIGKILL, 2)
        assert run.end()[0] == 1
        assert 2 <= len(run.records("0")) < 8
        run = Run(tmp_path, "gossip", "--resume", str(run.run_dir), fresh=False)
        assert run.end() == (0, "")
    finally:
        run.kill()
    config = RunConfig.of(**options, run_dir=str(tmp_path / "simulated"))
    check_simulated(run.run_dir, topology, config)
