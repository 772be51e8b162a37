"""Averaged momentum in a whole run: it travels and comes back to the trainers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from p2pfl import RunConfig, make_topology
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, peer_dirs
from p2pfl.sim.swarm import Simulation

ROUNDS = 2
OPTIONS = {
    "dataset": "digits",
    "model": "user_models:linear",
    "rounds": ROUNDS,
    "batch_size": 16,
    "local_steps": 2,
    "partition": "classes:4",
    "threads": 1,
    "eval_samples": 16,
}


def test_on_a_full_mesh_all_peers_continue_with_the_mean_momentum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power cut is simulated
    topology = make_topology("complete", 3)
    simulation = Simulation(topology, RunConfig.of(**OPTIONS, average_momentum=True, run_dir=str(tmp_path / "run")))
    simulation.run()
    for round in (1, ROUNDS):
        folders = [folder / CHECKPOINTS_FOLDER for folder in peer_dirs(simulation.run_dir, topology)]
        saved = [checkpoint.load(folder / f"round-{round:06d}.safetensors") for folder in folders]
        own, mixed = (
            torch.stack(vectors)
            for vectors in ([one.momentum for one in saved], [one.algorithm["momentum"] for one in saved])
        )
        assert (own[0] - own[1]).norm() > 0.1 * own[0].norm(), "the peers' data differ"
        torch.testing.assert_close(mixed, own.mean(0).expand_as(mixed), rtol=1e-4, atol=1e-6)
        assert all(sorted(vectors) == ["m", "x"] for one in saved for vectors in one.sent.values())
