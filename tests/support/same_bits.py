"""Comparison of a real run with the same run in the simulator, bit by bit."""

from __future__ import annotations

from pathlib import Path

import torch

from p2pfl import RunConfig
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology


def check_simulated(real: Path, topology: Topology, config: RunConfig) -> Path:
    """Simulate a real run, and assert that both end the same.

    `config` names the simulated run's directory, which is returned.
    """
    simulated = Simulation(topology, config)
    simulated.run()
    check_same_bits(real, simulated.run_dir, topology)
    return simulated.run_dir


def check_same_bits(one: Path, other: Path, topology: Topology) -> None:
    """Assert the same model, checkpoints, and records but for times and bytes."""
    assert (one / MODEL_FILE).read_bytes() == (other / MODEL_FILE).read_bytes()
    for there, here in zip(peer_dirs(one, topology), peer_dirs(other, topology), strict=True):
        assert facts(there) == facts(here)
        (first, _), (second, _) = (checkpoint.newest(folder / CHECKPOINTS_FOLDER) for folder in (there, here))
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert torch.equal(first.x, second.x)
            assert torch.equal(first.momentum, second.momentum)
            assert first.optimizer.keys() == second.optimizer.keys()
            assert all(torch.equal(tensor, second.optimizer[name]) for name, tensor in first.optimizer.items())


def facts(folder: Path) -> list[tuple[object, ...]]:
    """Fields of the records in a process's folder, without times and bytes."""
    trained, measured = ("round", "steps", "samples", "train_loss"), ("test_accuracy", "test_samples", "evaluated_on")
    names = (*trained, *measured, "absent", "missing", "weights_from")
    return [tuple(getattr(record, name) for name in names) for record in read_rounds(folder)]
