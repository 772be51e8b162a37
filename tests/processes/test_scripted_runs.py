"""Fault scripts in real processes: the same events every time."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support import commands
from tests.support.fault_scripts import CUT, DROP, fault
from tests.support.helpers import ring_with_chord
from tests.support.paths import ROOT
from tests.support.real_run import Run
from tests.support.same_bits import check_simulated, facts
from tests.support.swarms import PLAIN, Reference, assert_close, memory_swarm, saved_vectors

from p2pfl import RunConfig, make_topology
from p2pfl.modes import topology_of
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, peer_dirs
from p2pfl.topology import mixing_matrix, save_topology

TINY = "--dataset digits --model user_models:linear --batch-size 8 --lr 0.01 --local-steps 4 --threads 1"
RING = shlex.split(f"gossip {ROOT}/topologies/ring-4.graphml --rounds 8 {TINY}")
CLIENTS = shlex.split(f"centralized --num-clients 3 --num-selected 3 --num-rounds 8 {TINY}")

SIMULATED: dict[str, Any] = {
    "mode": "centralized",
    "num_clients": 3,
    "num_selected": 3,
    "rounds": 8,
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 8,
    "lr": 0.01,
    "local_steps": 4,
    "threads": 1,
}


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(script: str, *words: str) -> Run:
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        (folder / "script.toml").write_text(script)
        runs.append(Run(folder, *words, "--faults", str(folder / "script.toml")))
        return runs[-1]

    yield begin
    for run in runs:
        run.kill()


def told(run: Run) -> dict[str, list[tuple[object, ...]]]:
    """Facts in the records of all processes, except times and bytes."""
    return {folder.name: facts(folder) for folder in sorted((run.run_dir / "peers").iterdir())}


def ended(run: Run) -> Run:
    code, err = run.end(200.0)
    assert code == 0, (err, run.lines)
    return run


def rounds_of(run: Run, name: str) -> list[int]:
    return [record.round for record in run.records(name) if record.phase == "train"]


@pytest.mark.processes
@pytest.mark.parametrize("at", ["train", "exchange", "evaluate"])
def test_a_client_that_is_killed_and_back(play: Callable[..., Run], at: str) -> None:
    run = ended(play(fault(kind="kill", peer="1", round=3, restart=6, at=at), *CLIENTS))
    config = RunConfig.of(
        **SIMULATED, faults=str(run.run_dir.parent / "script.toml"), run_dir=str(run.run_dir.parent / "simulated")
    )
    topology = topology_of(config)
    assert topology is not None
    check_simulated(run.run_dir, topology, config)
    missing = {record.round: record.missing for record in run.records() if record.missing}
    first = 4 if at == "evaluate" else 3  # its update of round 3 had been taken
    assert missing == {round: ["1"] for round in range(first, 6)}
    assert rounds_of(run, "1") == [1, 2, 6, 7, 8]
    assert run.summary()["lost_peers"] == []


@pytest.mark.processes
def test_a_client_behind_a_bad_link_takes_part_as_if_it_were_a_good_one(play: Callable[..., Run]) -> None:
    edge = {"edge": ["1", "coordinator"], "rounds": [2, 4]}
    bad = fault(kind="drop", probability=0.1, **edge) + fault(kind="corrupt", probability=0.1, **edge)
    good = fault(kind="delay", seconds=0.001, **edge)
    patient = [*CLIENTS, "--round-timeout", "2", "--deadline", "100"]
    runs = [ended(play(script, *patient)) for script in (bad, good)]
    model = "consensus.safetensors"
    assert (runs[0].run_dir / model).read_bytes() == (runs[1].run_dir / model).read_bytes()
    assert all(record.missing == [] for record in runs[0].records())
    assert any(record.refused for record in [*runs[0].records("1"), *runs[0].records("coordinator")])


@pytest.mark.processes
def test_a_coordinator_that_is_killed_ends_the_run_which_can_be_resumed(
    play: Callable[..., Run], tmp_path: Path
) -> None:
    run = play(fault(kind="kill", peer="coordinator", round=3, at="checkpoint"), *CLIENTS)
    code, err = run.end()
    assert code == 1
    assert "--resume" in err
    whole = ended(play(fault(kind="delay", edge=["0", "coordinator"], rounds=[1, 1], seconds=0.001), *CLIENTS))
    folder = tmp_path / "resumed"
    folder.mkdir()
    again = Run(folder, "centralized", "--resume", str(run.run_dir), fresh=False)
    try:
        code, err = again.end()
    finally:
        again.kill()
    assert code == 0, err
    model = "consensus.safetensors"
    assert (run.run_dir / model).read_bytes() == (whole.run_dir / model).read_bytes(), "and it is not killed again"


@pytest.mark.processes
def test_the_saved_settings_play_the_script_again(play: Callable[..., Run], tmp_path: Path) -> None:
    run = ended(play(fault(kind="kill", peer="2", round=2, restart=4), *RING))
    (run.run_dir.parent / "script.toml").unlink()
    folder = tmp_path / "again"
    folder.mkdir()
    again = Run(folder, "gossip", "--config", str(run.run_dir / "config.toml"))
    try:
        assert told(ended(again)) == told(run)
    finally:
        again.kill()
    assert rounds_of(again, "2") == [1, 4, 5, 6, 7, 8]


@pytest.mark.processes
def test_a_peer_that_is_away_for_five_rounds_costs_push_sum_no_weight(play: Callable[..., Run], tmp_path: Path) -> None:
    topology = ring_with_chord(4)
    save_topology(topology, tmp_path / "chord.graphml")
    words = f"gossip {tmp_path / 'chord.graphml'} --rounds 10 --algorithm push-sum --mixing column-stochastic {TINY}"
    run = ended(play(fault(kind="kill", peer="2", round=3, restart=8), *shlex.split(words)))
    assert rounds_of(run, "2") == [1, 2, 8, 9, 10]
    found = [checkpoint.newest(peer / CHECKPOINTS_FOLDER)[0] for peer in peer_dirs(run.run_dir, topology)]
    numbers = [item for one in found if one is not None for item in one.algorithm.items()]
    held = [float(value) for name, value in numbers if name == "weight" or name.startswith("owed_weight")]
    assert sum(held) == pytest.approx(4.0, abs=1e-9)


def test_a_partition_equals_the_dense_formula_with_the_cut_matrix(tmp_path: Path) -> None:
    (tmp_path / "script.toml").write_text(fault(**{**CUT, "rounds": [2, 2]}))
    topology = make_topology("ring", 4)
    config = RunConfig.of(**PLAIN, faults=str(tmp_path / "script.toml"), run_dir=str(tmp_path / "run"))
    memory_swarm(topology, config)
    reference = Reference(topology, config)
    whole = torch.from_numpy(mixing_matrix(topology, "metropolis-hastings")).float()
    cut = torch.tensor([[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 2, 1], [0, 0, 1, 2]]) / 3.0
    xs = reference.start.repeat(4, 1)
    for step, w in enumerate((whole, cut, whole)):
        xs = w @ (xs - reference.lr * reference.gradients(xs, step))
    assert_close(saved_vectors(tmp_path / "run", topology, 3), xs, reference.start)


@pytest.mark.processes
def test_compare_plays_a_script_in_every_run_and_resumes_it(tmp_path: Path) -> None:
    script = fault(kind="kill", peer="2", round=3, restart=5) + fault(**{**DROP, "edge": ["0", "2"], "rounds": [2, 2]})
    (tmp_path / "script.toml").write_text(script)
    command = shlex.split(
        f"compare {ROOT}/topologies/ring-4.graphml {ROOT}/topologies/mesh-4.graphml --centralized --local --rounds 6"
        f" {TINY} --faults {tmp_path / 'script.toml'} --run-dir {tmp_path / 'runs'}"
    )
    for lines in ("run 1 of", "complete already"):
        found = commands.run(*command, timeout=300)
        assert found.returncode == 0, found.stderr
        assert lines in found.stdout
    faults = {
        path.parent.name: json.loads(path.read_text())["faults"] for path in (tmp_path / "runs").glob("*/summary.json")
    }
    played = ["2 killed in round 3 (train), back in round 5", "round 2: 10 % of messages between 0–2 lost"]
    assert {name: found for name, found in faults.items() if found} == {
        "gossip-ring-4-seed-0": played,
        "gossip-mesh-4-seed-0": played,
        "centralized-4-of-4-seed-0": played,
    }
    assert faults["local-seed-0"] == []
