"""Return of a peer after five rounds, for algorithms with state by neighbor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.fault_scripts import fault
from tests.support.helpers import ring_with_chord

from p2pfl import RunConfig, make_topology
from p2pfl.algorithms.base import Saved
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology

PEERS, ROUNDS, AWAY, BACK = 4, 12, 3, 8  # away for five rounds
CAUSES = {"killed": {"kind": "kill", "restart": BACK}, "paused": {"kind": "pause", "resume": BACK}}
TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 8,
    "local_steps": 2,
    "rounds": ROUNDS,
    "eval_every": ROUNDS,
    "eval_samples": 16,
    "threads": 1,
    "round_timeout": 2.0,
    "grace_timeout": 2.0,
}


def play(folder: Path, cause: str, topology: Topology, **options: Any) -> list[Saved]:
    """States of the algorithm after the last training round, by peer."""
    (folder / "faults.toml").write_text(fault(peer="2", round=AWAY, at="start", **CAUSES[cause]))
    config = RunConfig.of(**TINY, **options, faults=str(folder / "faults.toml"), run_dir=str(folder / "run"))
    run = Simulation(topology, config)
    run.run()
    assert run.outcome.lost == []
    found = [checkpoint.newest(peer / CHECKPOINTS_FOLDER)[0] for peer in peer_dirs(run.run_dir, topology)]
    states = [one.algorithm for one in found if one is not None and one.round == ROUNDS]
    assert len(states) == PEERS
    records = [record for peer in "013" for record in read_rounds(run.run_dir / "peers" / peer)]
    absent = {record.round for record in records if "2" in (record.absent or ())}
    assert absent == set(range(AWAY, BACK))
    return states


@pytest.mark.parametrize("cause", CAUSES)
def test_push_sum_keeps_all_weight(tmp_path: Path, cause: str) -> None:
    options = {"algorithm": "push-sum", "mixing": "column-stochastic"}
    states = play(tmp_path, cause, ring_with_chord(PEERS), **options)
    held = sum(float(state["weight"]) for state in states)
    owed = sum(float(value) for state in states for name, value in state.items() if name.startswith("owed_weight"))
    assert held + owed == pytest.approx(PEERS, abs=1e-9)


@pytest.mark.parametrize("cause", CAUSES)
def test_replicas_of_choco_agree(tmp_path: Path, cause: str) -> None:
    states = play(tmp_path, cause, make_topology("ring", PEERS), algorithm="choco")
    for me, state in enumerate(states):
        for other in ((me + 1) % PEERS, (me - 1) % PEERS):
            mine, theirs = replica(state, f"mine.{other}"), replica(states[other], f"theirs.{me}")
            assert torch.equal(mine, theirs)


def replica(state: Saved, name: str) -> torch.Tensor:
    assert state[f"{name}.round"] == ROUNDS
    vector = state[f"vector.{int(state[f'{name}.place'])}"]
    assert isinstance(vector, torch.Tensor)
    return vector


@pytest.mark.parametrize("cause", CAUSES)
def test_corrections_of_gradient_tracking_sum_to_zero(tmp_path: Path, cause: str) -> None:
    states = play(tmp_path, cause, make_topology("ring", PEERS), algorithm="gradient-tracking")
    corrections = torch.stack([torch.as_tensor(state["correction"]) for state in states]).double()
    assert corrections.abs().max() > 1e-3
    torch.testing.assert_close(corrections.sum(0), torch.zeros_like(corrections[0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cause", CAUSES)
def test_each_message_of_relay_sum_counts_all_beyond_its_edge_again(tmp_path: Path, cause: str) -> None:
    """As many rounds after the return as the tree's diameter."""
    states = play(tmp_path, cause, make_topology("ring", PEERS), algorithm="relay-sum")
    for state in states:
        counts = [float(value) for name, value in state.items() if name.startswith("count.")]
        assert sum(counts) == PEERS - 1
