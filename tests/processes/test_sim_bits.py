"""The same settings end with the same bits in the simulator and on real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.fault_scripts import fault
from tests.support.same_bits import check_simulated

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run
from p2pfl.modes import topology_of
from p2pfl.run.paths import peer_dirs
from p2pfl.run.records import read_rounds

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
        "gossip": {"wire_dtype": "bf16", "gossip_steps": 2, "validation": 0.1, "eval_every": 1},
        "centralized": {"num_clients": 3, "num_selected": 2, "validation": 0.2, "test": False},
        "sgd": {"validation": 0.1, "test": False},
    }[mode]
    real = RunConfig.of(**OPTIONS, **own, mode=mode, run_dir=str(tmp_path / "real"))
    topology = topology_of(real) or make_topology("ring", 4)
    run(real, topology if mode == "gossip" else None)
    config = RunConfig.of(**OPTIONS, **own, mode=mode, run_dir=str(tmp_path / "simulated"))
    simulated = check_simulated(tmp_path / "real", topology, config)
    sets = [record.evaluated_on for folder in peer_dirs(simulated, topology) for record in read_rounds(folder)]
    assert set(sets) >= ({"validation", "test"} if mode == "gossip" else {"validation"})
    assert ("test" in sets) == (mode == "gossip")


def test_a_schedule_of_graphs_with_a_kill_ends_with_the_same_records_and_bits(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(fault(kind="kill", peer="3", round=3, restart=5))
    topology = make_topology("base-k", 5)
    common: dict[str, Any] = {**OPTIONS, "model": "user_models:linear", "rounds": 6, "mixing": "weights"}
    configs = [
        RunConfig.of(**common, round_timeout=2.0, faults=str(tmp_path / "faults.toml"), run_dir=str(tmp_path / name))
        for name in ("real", "simulated")
    ]
    run(configs[0], topology)
    simulated = check_simulated(tmp_path / "real", topology, configs[1])
    assert [record.round for record in read_rounds(peer_dirs(simulated, topology)[3])][:4] == [1, 2, 5, 6]


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
    simulated = check_simulated(tmp_path / "real", topology, configs[1])
    assert [record.round for record in read_rounds(peer_dirs(simulated, topology)[3])][:3] == [1, 5, 6]
