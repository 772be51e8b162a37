"""The same settings end with the same bits in the simulator and on real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.fault_scripts import fault

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run
from p2pfl.modes import topology_of
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology

pytestmark = pytest.mark.processes

OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "model": "vgg11",
    "width": 0.125,
    "batch_size": 8,
    "local_steps": 2,
    "rounds": 2,
    "eval_samples": 20,
    "threads": 1,
    "device": "cpu",
}


@pytest.mark.parametrize("mode", ["gossip", "centralized", "sgd"])
def test_same_settings_same_bits(tmp_path: Path, mode: str) -> None:
    own: dict[str, Any] = {
        "gossip": {"wire_dtype": "bf16", "validation": 0.1, "eval_every": 1},
        "centralized": {"num_clients": 3, "num_selected": 2, "validation": 0.2, "test": False},
        "sgd": {"validation": 0.1, "test": False},
    }[mode]
    real = RunConfig.of(**OPTIONS, **own, mode=mode, run_dir=str(tmp_path / "real"))
    topology = topology_of(real) or make_topology("ring", 4)
    run(real, topology if mode == "gossip" else None)
    simulated = Simulation(topology, RunConfig.of(**OPTIONS, **own, mode=mode, run_dir=str(tmp_path / "simulated")))
    simulated.run()
    check(tmp_path / "real", simulated.run_dir, topology)
    sets = [record.evaluated_on for folder in peer_dirs(simulated.run_dir, topology) for record in read_rounds(folder)]
    assert set(sets) >= ({"validation", "test"} if mode == "gossip" else {"validation"})
    assert ("test" in sets) == (mode == "gossip")


def check(real: Path, simulated: Path, topology: Topology) -> None:
    """Assert the same model, checkpoints, and records but for times and bytes."""
    assert (real / MODEL_FILE).read_bytes() == (simulated / MODEL_FILE).read_bytes()
    for there, here in zip(peer_dirs(real, topology), peer_dirs(simulated, topology), strict=True):
        assert facts(there) == facts(here)
        (one, _), (other, _) = (checkpoint.newest(folder / CHECKPOINTS_FOLDER) for folder in (there, here))
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one.x, other.x)
            assert torch.equal(one.momentum, other.momentum)


def facts(folder: Path) -> list[tuple[object, ...]]:
    trained, measured = ("round", "steps", "samples", "train_loss"), ("test_accuracy", "test_samples", "evaluated_on")
    names = (*trained, *measured, "absent", "missing", "weights_from")
    return [tuple(getattr(record, name) for name in names) for record in read_rounds(folder)]


def test_a_kill_and_a_pause_end_with_the_same_records_and_bits(tmp_path: Path) -> None:
    script = fault(kind="kill", peer="3", round=2, restart=5) + fault(kind="pause", peer="1", round=3, resume=5)
    (tmp_path / "faults.toml").write_text(script)
    topology = make_topology("ring", 5)
    faulty: dict[str, Any] = {**OPTIONS, "model": "user_models:linear", "rounds": 6, "round_timeout": 2.0}
    configs = [
        RunConfig.of(**faulty, faults=str(tmp_path / "faults.toml"), run_dir=str(tmp_path / name))
        for name in ("real", "simulated")
    ]
    run(configs[0], topology)
    simulated = Simulation(topology, configs[1])
    simulated.run()
    check(tmp_path / "real", simulated.run_dir, topology)
    assert [record.round for record in read_rounds(peer_dirs(simulated.run_dir, topology)[3])][:3] == [1, 5, 6]
