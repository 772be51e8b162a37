"""The same settings end with the same bits in the simulator and on real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from p2pfl import RunConfig, make_topology
from p2pfl.experiment.run import run
from p2pfl.modes import topology_of
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, peer_dirs
from p2pfl.sim.swarm import Simulation

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


@pytest.mark.parametrize("mode", ["gossip", "centralized"])
def test_same_settings_same_bits(tmp_path: Path, mode: str) -> None:
    own = {"num_clients": 3, "num_selected": 2} if mode == "centralized" else {"wire_dtype": "bf16"}
    real = RunConfig.of(**OPTIONS, **own, mode=mode, run_dir=str(tmp_path / "real"))
    topology = topology_of(real) or make_topology("ring", 4)
    run(real, None if mode == "centralized" else topology)
    simulated = Simulation(topology, RunConfig.of(**OPTIONS, **own, mode=mode, run_dir=str(tmp_path / "simulated")))
    simulated.run()
    assert (tmp_path / "real" / MODEL_FILE).read_bytes() == (simulated.run_dir / MODEL_FILE).read_bytes()
    pairs = zip(peer_dirs(tmp_path / "real", topology), peer_dirs(simulated.run_dir, topology), strict=True)
    for there, here in pairs:
        (one, _), (other, _) = (checkpoint.newest(folder / CHECKPOINTS_FOLDER) for folder in (there, here))
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one.x, other.x)
            assert torch.equal(one.momentum, other.momentum)
