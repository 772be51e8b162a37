"""Fault scripts: what is refused, what is drawn, and real runs that are played twice to the same bits."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_run import Run
from test_swarm import LIVELY, memory_swarm, saved_vectors, thread_swarm

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.errors import ConfigError
from p2pfl.faults import FaultScript, check_faults, load_faults
from p2pfl.records import read_rounds
from p2pfl.topology import mixing_matrix, save_topology, without_edges
from p2pfl.transport import ZmqTransport

NAMES = [str(peer) for peer in range(6)]
KILL = 'kind = "kill"\npeer = "3"\nround = 4\n'


def written(folder: Path, *faults: str, head: str = "") -> Path:
    path = folder / "faults.toml"
    path.write_text(head + "".join(f"[[fault]]\n{fault}\n" for fault in faults))
    return path


def checked(path: Path, rounds: int = 8, coordinator: str | None = None, overlapped: bool = False) -> FaultScript:
    return check_faults(load_faults(path, 1), str(path), NAMES, rounds, coordinator, overlapped)


BAD = {
    "no file": (None, "cannot be read"),
    "not TOML": ("[[fault", "not TOML"),
    "no faults": ("seed = 3", "missing required field 'fault'"),
    "unknown table": ('[[fault]]\nkind = "kill"\npeer = "1"\nround = 2\n[other]\n', "unknown field 'other'"),
    "unknown kind": ('[[fault]]\nkind = "explode"\n', "fault 1 (explode): kind: invalid value 'explode'"),
    "unknown field": (f"[[fault]]\n{KILL}when = 3\n", "fault 1 (kill): object contains unknown field 'when'"),
    "missing field": (
        '[[fault]]\nkind = "kill"\npeer = "1"\n',
        "(kill): object missing required field 'round'",
    ),
    "round 0": (f"[[fault]]\n{KILL.replace('4', '0')}", "fault 1 (kill): round: expected 'int' >= 1"),
    "point": (f'[[fault]]\n{KILL}at = "noon"\n', "fault 1 (kill): at: invalid enum value 'noon'"),
    "restart before": (f"[[fault]]\n{KILL}restart = 4\n", "fault 1 (kill): restart: 4 must be a later round than 4"),
    "resume at once": (
        '[[fault]]\nkind = "pause"\npeer = "1"\nround = 2\nresume = 3\n',
        "fault 1 (pause): resume: 3 must be at least two rounds after 2",
    ),
    "rounds": (
        '[[fault]]\nkind = "drop"\nedge = ["0", "1"]\nrounds = [3, 2]\nprobability = 0.5\n',
        "fault 1 (drop): rounds: [3, 2] must be [first, last]",
    ),
    "probability": (
        '[[fault]]\nkind = "drop"\nedge = ["0", "1"]\nrounds = [2, 3]\nprobability = 1.5\n',
        "probability: expected 'float' <= 1.0",
    ),
    "one part": ('[[fault]]\nkind = "partition"\nrounds = [2, 3]\nparts = [["0"]]\n', "parts: must be two or more"),
    "twice in parts": (
        '[[fault]]\nkind = "partition"\nrounds = [2, 3]\nparts = [["0"], ["0", "1"]]\n',
        "parts: a node can be in one part only",
    ),
    "unknown peer": (f"[[fault]]\n{KILL.replace('3', '9')}", "peer: there is no node '9'; choose one of 0, 1, 2"),
    "unknown end": (
        '[[fault]]\nkind = "delay"\nedge = ["0", "x"]\nrounds = [2, 3]\nseconds = 1\n',
        "edge: there is no node 'x'",
    ),
    "after the end": (
        f"[[fault]]\n{KILL.replace('4', '40')}",
        "round: 40, but the run has 8 rounds of training",
    ),
    "back after the end": (f"[[fault]]\n{KILL}restart = 40\n", "restart: 40, but the run has 8 rounds"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_with_file_fault_and_field(tmp_path: Path, name: str) -> None:
    text, reason = BAD[name]
    path = tmp_path / "faults.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        checked(path)
    assert f"--faults {path}" in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_mode_cannot_play_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, KILL)
    with pytest.raises(ConfigError, match="needs --order atc"):
        checked(path, overlapped=True)
    with pytest.raises(ConfigError, match="a coordinator can only be killed, for good"):
        checked(path, coordinator="3")
    path = written(tmp_path, 'kind = "attack"\npeer = "3"\nrounds = [1, 4]\nattack = "rude"')
    save_topology(make_topology("ring", 6), tmp_path / "ring.gml")
    words = ["gossip", str(tmp_path / "ring.gml"), "--dataset", "digits", "--rounds", "8", "--faults", str(path)]
    assert main([*words, "--run-dir", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


def test_one_line_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_topology(make_topology("ring", 6), tmp_path / "ring.gml")
    path = written(tmp_path, KILL.replace("3", "9"))
    words = ["gossip", str(tmp_path / "ring.gml"), "--dataset", "digits", "--rounds", "8", "--faults", str(path)]
    assert main([*words, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fault 1 (kill): peer: there is no node '9'" in error


def test_the_shipped_example_fits_the_shipped_ring() -> None:
    path = Path(__file__).parent.parent / "configs" / "faults-ring-8.toml"
    script = check_faults(load_faults(path, 1), str(path), [str(p) for p in range(8)], 40, None, False)
    assert script.seed == 7
    assert script.returns_of(3) == {15}
    assert [script.away(3, round) for round in (9, 10, 11, 14, 15)] == [False, False, True, True, False]
    assert script.settles([3]) == {9}
    assert script.cuts(19) == script.cuts(23) == frozenset()
    assert {(a, b) for a, b in script.cuts(20) if b == a + 1 or (a, b) == (0, 7)} == {(3, 4), (0, 7)}


def test_what_happens_to_a_message_depends_on_where_it_is_and_not_on_time(tmp_path: Path) -> None:
    fault = 'kind = "drop"\nedge = ["0", "1"]\nrounds = [2, 3]\nprobability = 0.5'
    one, same = checked(written(tmp_path, fault)), checked(written(tmp_path, fault))
    other = checked(written(tmp_path, fault, head="seed = 9\n"))
    places = [(0, 1, round, number) for round in (2, 3) for number in range(50)]
    drawn = [one.draw(*place).random() for place in places]
    assert drawn == [same.draw(*place).random() for place in places]
    assert drawn != [other.draw(*place).random() for place in places]
    assert drawn != [one.draw(1, 0, *place[2:]).random() for place in places]
    assert 0.3 < np.mean(np.array(drawn) < 0.5) < 0.7


def test_cut_edges_leave_a_doubly_stochastic_matrix() -> None:
    w = without_edges(mixing_matrix(make_topology("torus", 9)), [(0, 1), (4, 5), (0, 8)])
    assert w[0, 1] == w[1, 0] == w[4, 5] == 0
    assert np.allclose(w.sum(axis=0), 1)
    assert np.allclose(w, w.T)


def run_dir_of(folder: Path, name: str, path: Path, **options: Any) -> RunConfig:
    return RunConfig.of(**{**LIVELY, **options}, faults=str(path), run_dir=str(folder / name))


@pytest.mark.parametrize("kind", ["drop", "corrupt", "delay"])
def test_a_bad_link_changes_no_bit_of_the_result(tmp_path: Path, kind: str) -> None:
    topology = make_topology("ring", 3)
    harm = "seconds = 0.05" if kind == "delay" else "probability = 0.2"
    path = written(tmp_path, f'kind = "{kind}"\nedge = ["0", "1"]\nrounds = [1, 3]\n{harm}')
    options = {"rounds": 3, "width": 0.25, "round_timeout": 20.0, "first_round_timeout": 20.0}
    config = RunConfig.of(**{**LIVELY, **options}, run_dir=str(tmp_path / "plain"))
    plain = memory_swarm(topology, config)
    harmed = thread_swarm(
        topology,
        run_dir_of(tmp_path, "harmed", path, **options),
        binds=[f"ipc://{tmp_path}/{peer}" for peer in range(3)],
        endpoints=[f"ipc://{tmp_path}/{peer}" for peer in range(3)],
        make_transport=ZmqTransport,
    )
    assert torch.equal(saved_vectors(harmed, topology, 3), saved_vectors(plain, topology, 3))
    if kind == "corrupt":
        records = [record for peer in "01" for record in read_rounds(harmed / "peers" / peer)]
        assert any((record.refused or {}).get("version") for record in records)


def test_parts_learn_by_themselves_as_long_as_they_are_apart(tmp_path: Path) -> None:
    topology = make_topology("complete", 4)
    path = written(tmp_path, 'kind = "partition"\nrounds = [1, 2]\nparts = [["0", "1"], ["2", "3"]]')
    config = run_dir_of(tmp_path, "apart", path, rounds=3)
    found = memory_swarm(topology, config)
    apart, together = saved_vectors(found, topology, 2), saved_vectors(found, topology, 3)
    assert not torch.allclose(apart[0], apart[2], atol=1e-4)
    assert torch.allclose(together[0], together[3], atol=1e-6), "a full mesh gives everybody the same"


# Real processes

FAST = shlex.split(
    "--dataset digits --model user_models:linear --batch-size 8 --lr 0.01 --local-steps 5 --rounds 14 --threads 1"
    " --grace-timeout 2 --eval-every 7"
)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., Run]:
    save_topology(make_topology("ring", 6), tmp_path / "ring.graphml")

    def go(name: str, path: Path, *options: str, command: str = "gossip") -> Run:
        (tmp_path / name).mkdir()
        topology = [str(tmp_path / "ring.graphml")] if command == "gossip" else []
        run = Run(tmp_path / name, command, *topology, *FAST, "--faults", str(path), *options)
        try:
            code, err = run.end()
        finally:
            run.kill()
        assert (code, err) == (0, ""), run.lines
        return run

    return go


def facts(run: Run, name: str) -> list[tuple[Any, ...]]:
    """What a record says beside times and bytes."""
    records = run.records(name)
    return [(r.round, r.steps, r.samples, r.train_loss, r.test_accuracy, r.absent, r.missing) for r in records]


@pytest.mark.slow
@pytest.mark.parametrize("at", ["start", "train", "exchange", "evaluate", "checkpoint"])
def test_a_kill_is_played_twice_to_the_same_bits(tmp_path: Path, play: Callable[..., Run], at: str) -> None:
    path = written(tmp_path, f'{KILL}at = "{at}"\nrestart = 9')
    runs = [play(name, path) for name in ("one", "two")]
    for peer in range(6):
        assert facts(runs[0], str(peer)) == facts(runs[1], str(peer))
    weights = [(run.run_dir / "consensus.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    first = 4 if at in ("start", "train", "exchange") else 5
    for watcher in ("2", "4"):
        gone = [record.round for record in runs[0].records(watcher) if record.absent == ["3"]]
        assert gone == list(range(first, 9))
    # The round that it died in is done again only if it comes back in it: its checkpoint is that of the one before.
    assert [record.round for record in runs[0].records("3")][:4] == [1, 2, 3, 9]
    summary = runs[0].summary()
    assert summary["status"] == "complete"
    assert summary["lost_peers"] == []
    assert summary["faults"] == [f"3 killed in round 4 ({at}), back in round 9"]


@pytest.mark.slow
def test_a_pause_is_played_twice_to_the_same_bits(tmp_path: Path, play: Callable[..., Run]) -> None:
    path = written(tmp_path, 'kind = "pause"\npeer = "3"\nround = 4\nresume = 9\nat = "train"')
    runs = [play(name, path, "--round-timeout", "2", "--first-round-timeout", "5") for name in ("one", "two")]
    for peer in range(6):
        assert facts(runs[0], str(peer)) == facts(runs[1], str(peer))
    assert [record.round for record in runs[0].records("3")][:5] == [1, 2, 3, 4, 9]
    for watcher in ("2", "4"):
        assert [r.round for r in runs[0].records(watcher) if r.absent == ["3"]] == [4, 5, 6, 7, 8]


@pytest.mark.slow
def test_a_kill_without_restart_is_for_good_and_not_repeated_on_resume(
    tmp_path: Path, play: Callable[..., Run]
) -> None:
    path = written(tmp_path, KILL)
    run = play("gone", path, "--min-peers", "5")
    assert run.summary()["lost_peers"] == ["3"]
    (tmp_path / "needed").mkdir()
    words = [str(tmp_path / "ring.graphml"), *FAST, "--faults", str(path)]
    failed = Run(tmp_path / "needed", "gossip", *words)
    code, err = failed.end()
    assert code == 1
    assert "peer 3 died" in err
    again = Run(tmp_path / "needed", "gossip", "--resume", str(failed.run_dir), fresh=False)
    assert again.end() == (0, "")
    assert [record.round for record in again.records("3")][:14] == list(range(1, 15))
    assert json.loads((again.run_dir / "summary.json").read_text())["status"] == "complete"


@pytest.mark.slow
def test_a_client_that_is_killed_is_missing_until_it_is_back(tmp_path: Path, play: Callable[..., Run]) -> None:
    path = written(tmp_path, f"{KILL}restart = 9")
    clients = ["--num-clients", "4", "--num-selected", "4", "--deadline", "5"]
    runs = [play(name, path, *clients, command="centralized") for name in ("one", "two")]
    for run in runs:
        missing = [record.missing for record in run.records("coordinator")]
        assert missing == [[]] * 3 + [["3"]] * 5 + [[]] * 6
    assert facts(runs[0], "coordinator") == facts(runs[1], "coordinator")
    assert runs[0].summary()["lost_peers"] == []


@pytest.mark.slow
def test_an_attacker_is_borne_by_a_robust_rule_and_left_out_of_the_mean(
    tmp_path: Path, play: Callable[..., Run]
) -> None:
    save_topology(make_topology("complete", 6), tmp_path / "ring.graphml")
    path = written(tmp_path, 'kind = "attack"\npeer = "3"\nrounds = [1, 14]\nattack = "sign-flip"\nscale = 8.0')
    plain = play("plain", path).summary()
    borne = play("borne", path, "--algorithm", "trimmed-mean", "--byzantine", "1").summary()
    assert plain["mean_peer_accuracy"] < 0.4  # type: ignore[operator]
    assert borne["mean_peer_accuracy"] > 0.8  # type: ignore[operator]
    report = (tmp_path / "borne" / "run" / "report.html").read_text()
    assert "leave out those who attack: 3" in report


@pytest.mark.slow
def test_a_comparison_plays_the_script_in_every_run_that_has_its_peers(tmp_path: Path) -> None:
    for kind in ("ring", "complete"):
        save_topology(make_topology(kind, 4), tmp_path / f"{kind}.graphml")
    edge = 'kind = "drop"\nedge = ["0", "2"]\nrounds = [2, 3]\nprobability = 0.1'
    path = written(tmp_path, f"{KILL}restart = 6", edge)
    topologies = [str(tmp_path / "ring.graphml"), str(tmp_path / "complete.graphml")]
    options = [word for word in FAST if word != "14"]
    options.insert(options.index("--rounds") + 1, "8")
    words = ["compare", *topologies, "--centralized", "--num-selected", "4", "--local", *options]
    run = Run(tmp_path, *words, "--faults", str(path))
    try:
        code, err = run.end(250)
    finally:
        run.kill()
    assert (code, err) == (0, ""), run.lines
    summaries = {p.parent.name: json.loads(p.read_text()) for p in (tmp_path / "run").glob("*/summary.json")}
    assert len(summaries) == 4
    for name, summary in summaries.items():
        assert bool(summary["faults"]) == ("local" not in name), name
        assert summary["status"] == "complete", name
