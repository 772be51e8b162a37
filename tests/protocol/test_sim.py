"""The simulator: whole runs on virtual time, with real training and the loop of real processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from p2pfl import RunConfig, make_topology
from p2pfl.errors import ConfigError, TransportError
from p2pfl.modes import topology_of
from p2pfl.registry import ALGORITHMS
from p2pfl.run.paths import MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.network import LinkSpeed
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology

TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 16,
    "local_steps": 2,
    "rounds": 3,
    "eval_every": 3,
    "eval_samples": 50,
    "threads": 1,
}
RING = make_topology("ring", 4)


def simulation(run_dir: Path, topology: Topology = RING, speed: LinkSpeed | None = None, **options: Any) -> Simulation:
    return Simulation(topology, RunConfig.of(**{**TINY, **options}, run_dir=str(run_dir)), speed=speed)


def model(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / MODEL_FILE)


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(model(a)[name], tensor) for name, tensor in model(b).items())


def test_slow_links_take_virtual_time_and_change_no_bit(tmp_path: Path) -> None:
    fast = simulation(tmp_path / "fast")
    fast.run()
    slow = simulation(tmp_path / "slow", speed=LinkSpeed(latency=0.5, bandwidth=1e4))
    slow.run()
    assert same(fast.run_dir, slow.run_dir)
    assert fast.clock.now() == 3.0, "three rounds of a second, and nothing else takes time"
    assert slow.clock.now() > 3.0 + 3 * 0.5


SYNCHRONOUS = [name for name, entry in ALGORITHMS.items() if entry.synchronous]


@pytest.mark.parametrize("algorithm", SYNCHRONOUS)
def test_no_algorithm_makes_a_running_variance_negative(tmp_path: Path, algorithm: str) -> None:
    """Twenty rounds of ten steps of a net with batch normalization."""
    robust = {"byzantine": 1} if ALGORITHMS[algorithm].tolerates_byzantine else {}
    options = {
        "model": "user_models:mixed_net",
        "rounds": 20,
        "local_steps": 10,
        "batch_size": 8,
        "algorithm": algorithm,
        **robust,
    }
    swarm = simulation(tmp_path, make_topology("complete", 3), checkpoint=False, **options)
    swarm.run()
    variances = [tensor for name, tensor in model(swarm.run_dir).items() if name.endswith("running_var")]
    assert variances
    assert all(bool((variance >= 0).all()) for variance in variances)


@pytest.mark.parametrize("options", [{"order": "overlapped"}, {"wire_dtype": "bf16"}, {"seed": 1}])
def test_options_reach_the_swarm(tmp_path: Path, options: dict[str, Any]) -> None:
    for name, chosen in (("plain", {}), ("other", options)):
        simulation(tmp_path / name, **chosen).run()
    assert not same(tmp_path / "plain", tmp_path / "other")


def test_a_link_that_is_cut_and_healed_within_the_grace_changes_no_bit(tmp_path: Path) -> None:
    simulation(tmp_path / "whole").run()
    cut = simulation(tmp_path / "cut", speed=LinkSpeed(latency=0.1))
    while cut.clock.now() < 1.05:
        cut.step()
    cut.network.cut(0, 1)
    while cut.clock.now() < 4.0 and cut.step():
        pass
    cut.network.heal(0, 1)
    cut.run()
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_a_link_that_stays_cut_ends_a_run_that_needs_everybody(tmp_path: Path) -> None:
    broken = simulation(tmp_path / "run")
    broken.network.cut(0, 1)
    with pytest.raises(TransportError, match=r"peer [01]"):
        broken.run()
    assert broken.clock.now() >= 10.0, "the grace of a broken connection"


@pytest.mark.parametrize("mode", ["centralized", "sgd", "local"])
def test_every_mode_runs_and_records_its_rounds(tmp_path: Path, mode: str) -> None:
    clients = {"num_clients": 3, "num_selected": 2} if mode == "centralized" else {}
    config = RunConfig.of(**TINY, **clients, mode=mode, run_dir=str(tmp_path / "run"))
    run = Simulation(topology_of(config) or RING, config)
    run.run()
    folders = peer_dirs(run.run_dir, topology_of(config) or RING)
    rounds = [[record.round for record in read_rounds(folder)] for folder in folders]
    assert rounds[-1] == [1, 2, 3]
    assert math.isfinite(read_rounds(folders[-1])[-1].train_loss or math.nan)
    assert (run.run_dir / MODEL_FILE).exists() == (mode != "local")


def test_faults_that_need_processes_are_refused_by_name(tmp_path: Path) -> None:
    script = tmp_path / "faults.toml"
    script.write_text('[[fault]]\nkind = "kill"\npeer = "1"\nround = 2\nrestart = 3\n')
    with pytest.raises(ConfigError, match=r"faults.toml: fault 1 \(kill\): needs real processes"):
        simulation(tmp_path / "run", faults=str(script))
