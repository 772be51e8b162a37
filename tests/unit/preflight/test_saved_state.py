"""Estimated sizes of checkpoints: those of the files that runs write."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support.helpers import ring_with_chord

from p2pfl import RunConfig, make_topology
from p2pfl.algorithms.base import Algorithm
from p2pfl.model.vector import Layout
from p2pfl.modes import assign_roles, topology_of
from p2pfl.preflight.estimate import checkpoint_sizes
from p2pfl.preflight.saved_state import SavedSize, saved_sizes
from p2pfl.registry import ALGORITHMS
from p2pfl.run.paths import CHECKPOINTS_FOLDER, peer_dirs
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology
from p2pfl.training import initial_model

HEADER = 12_000  # bytes at the most: names, record, statistics
SCHEDULE = make_topology("one-peer-exponential", 5)
PUSHING = {"algorithm": "push-sum", "mixing": "column-stochastic"}
CASES: list[tuple[Topology, dict[str, Any]]] = [
    *(
        (make_topology("star", 4), {"algorithm": name, **({"byzantine": 0} if entry.tolerates_byzantine else {})})
        for name, entry in ALGORITHMS.items()
        if entry.synchronous
    ),
    (make_topology("complete", 3), {"algorithm": "median", "byzantine": 1, "wire_dtype": "bf16"}),
    (make_topology("star", 4), {"algorithm": "gradient-tracking", "wire_dtype": "bf16"}),
    (ring_with_chord(4), {**PUSHING, "wire_dtype": "bf16", "order": "overlapped"}),
    (SCHEDULE, PUSHING),
    (make_topology("ring", 4), {"algorithm": "choco", "compression": "random-k:0.02"}),
    (make_topology("ring", 4), {"algorithm": "choco", "compression": "sign"}),
    (make_topology("ring", 4), {"algorithm": "choco", "compression": "int8"}),
    (make_topology("ring", 3), {"average_momentum": True, "optimizer": "sgd"}),
    (make_topology("ring", 3), {"optimizer": "adamw", "lr": 0.001, "gossip_steps": 2}),
]


@pytest.mark.parametrize(("topology", "options"), CASES, ids=[str(options) for _, options in CASES])
def test_a_checkpoint_is_as_large_as_estimated(tmp_path: Path, topology: Topology, options: dict[str, Any]) -> None:
    check(tmp_path, topology, options)


def test_a_checkpoint_of_a_coordinator_is_as_large_as_estimated(tmp_path: Path) -> None:
    options = {"mode": "centralized", "num_clients": 2, "num_selected": 2}
    topology = topology_of(RunConfig.of(**options))
    assert topology is not None
    check(tmp_path, topology, options)


def check(folder: Path, topology: Topology, options: dict[str, Any]) -> None:
    tiny = {"dataset": "digits", "model": "user_models:linear", "batch_size": 8, "local_steps": 1, "threads": 1}
    rounds = len(topology.by_round) + 4
    config = RunConfig.of(**tiny, **options, rounds=rounds, eval_samples=8, eval_every=rounds, run_dir=str(folder))
    Simulation(topology, config).run()
    estimated = checkpoint_sizes(assign_roles(config, topology), config, Layout.of(initial_model(config, 10)))
    files = [sorted((peer / CHECKPOINTS_FOLDER).iterdir())[-1] for peer in peer_dirs(folder, topology)]
    for file, size in zip(files, estimated, strict=True):
        assert size <= file.stat().st_size <= size + HEADER, file


class Measuring(Algorithm[SimpleNamespace]):
    """A user's algorithm that takes no vector but its model's."""

    def init(self, x, schedule):
        raise ValueError(f"{x.numel()} elements")


def test_a_users_algorithm_that_needs_its_model_counts_what_all_checkpoints_hold() -> None:
    config = RunConfig.of(algorithm=f"{__name__}:Measuring")
    assert saved_sizes(config, [np.full((2, 2), 0.5)], [0, 1]) == [SavedSize(0.0, 1.0)] * 2
