"""Running statistics of batch normalization in gossip runs, in the simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import user_models
from safetensors.torch import load_file
from tests.support.one_peer import CONTEXT
from torch import nn

from p2pfl import RunConfig, data, make_topology
from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.data import Batches
from p2pfl.faults import FaultScript
from p2pfl.model.statistics import RunningStatistics
from p2pfl.model.vector import Layout
from p2pfl.modes import assign_roles
from p2pfl.node.scripted import schedule_of
from p2pfl.protocol.mixer import Mixer, Phases
from p2pfl.protocol.statistics import StatisticsRule
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Neighborhood, Topology, mixing_matrices
from p2pfl.training import split_of_run

ROUNDS = 3
TINY: dict[str, Any] = {
    "dataset": "digits",
    "partition": "classes:3",
    "model": "user_models:input_norm",
    "batch_size": 16,
    "local_steps": 4,
    "rounds": ROUNDS,
    "eval_every": ROUNDS,
    "eval_samples": 20,
    "threads": 1,
}
RING = make_topology("ring", 4)


def simulation(run_dir: Path, topology: Topology = RING, **options: Any) -> Simulation:
    return Simulation(topology, RunConfig.of(**{**TINY, **options}, run_dir=str(run_dir)))


def run(run_dir: Path, topology: Topology = RING, **options: Any) -> Path:
    made = simulation(run_dir, topology, **options)
    made.run()
    return made.run_dir


def trained(run_dir: Path) -> torch.Tensor:
    """Running means and variances of all peers after the last training round."""
    slots = [slot for slot in Layout.of(user_models.input_norm(10)).slots if not slot.is_parameter]
    assert len(slots) == 2
    found = []
    for folder in peer_dirs(run_dir, RING):
        saved, _ = checkpoint.newest(folder / CHECKPOINTS_FOLDER)
        assert saved is not None
        assert saved.round == ROUNDS
        found.append(torch.stack([slot.view(saved.x) for slot in slots]))
    return torch.stack(found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Statistics of peers that never exchange anything."""
    statistics = trained(run(tmp_path_factory.mktemp("alone") / "run", mode="local"))
    assert (statistics[0] - statistics[1]).abs().max() > 0.01
    return statistics


# A mix that is a new vector, one that is added to the trained one, and those of which training is the last part.
WAYS: list[dict[str, Any]] = [
    {},
    {"wire_dtype": "bf16"},
    {"order": "overlapped"},
    {"algorithm": "choco"},
    {"algorithm": "push-sum", "order": "overlapped"},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())) or "plain")
def test_local_statistics_are_never_mixed_in_training(tmp_path: Path, alone: torch.Tensor, way: dict[str, Any]) -> None:
    """To the bit those of peers alone; the consensus phase pools them."""
    run_dir = run(tmp_path, **way, batch_norm_statistics="local")
    assert torch.equal(trained(run_dir), alone)
    model = load_file(run_dir / MODEL_FILE)
    means, variances = alone.unbind(1)
    mean, second_moment = means.mean(0), (variances + means**2).mean(0)
    torch.testing.assert_close(model["0.running_mean"], mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model["0.running_var"], second_moment - mean**2, rtol=1e-3, atol=1e-3)


def test_averaged_statistics_are_mixed(tmp_path: Path, alone: torch.Tensor) -> None:
    assert not torch.allclose(trained(run(tmp_path)), alone, rtol=1e-2)


def pooled(run_dir: Path, options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and variance of all samples before the norm, and the mean of the variances."""
    config = RunConfig.of(**options)
    dataset = data.load(data.prepare("digits", None, lambda *_: None))
    split = split_of_run(config, assign_roles(config, RING), dataset)
    model = user_models.feature_norm(10)
    model.load_state_dict(load_file(run_dir / MODEL_FILE))
    before = nn.Sequential(*list(model)[:2])
    means, variances = [], []
    for peer, shard in enumerate(split.shards):
        batches = Batches(dataset, shard, config.training.batch_size, torch.device("cpu"), config.record.seed, peer)
        with torch.no_grad():
            seen = [before(images) for images in batches.images_of_epoch(0)]
        means.append(torch.stack([x.mean(0) for x in seen]).mean(0))
        variances.append(torch.stack([x.var(0) for x in seen]).mean(0))
    mean, variance = torch.stack(means), torch.stack(variances)
    return mean.mean(0), (variance + mean**2).mean(0) - mean.mean(0) ** 2, variance.mean(0)


PLAIN = {**TINY, "model": "user_models:feature_norm"}
REESTIMATED = {**PLAIN, "batch_norm_statistics": "reestimated", "consensus_tolerance": 1e-5}


@pytest.fixture(scope="module")
def reestimated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Undisturbed run whose statistics are re-estimated."""
    return run(tmp_path_factory.mktemp("reestimated") / "run", **REESTIMATED)


def test_reestimated_statistics_are_those_of_all_samples_under_the_merged_weights(reestimated: Path) -> None:
    model = load_file(reestimated / MODEL_FILE)
    mean, variance, mean_of_variances = pooled(reestimated, REESTIMATED)
    torch.testing.assert_close(model["2.running_mean"], mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model["2.running_var"], variance, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(mean_of_variances, variance, rtol=0.05), "the peers' means differ"


def test_reestimation_doubles_the_consensus_phase(reestimated: Path) -> None:
    mixed = [record for record in read_rounds(peer_dirs(reestimated, RING)[0]) if record.phase == "consensus"]
    once = assign_roles(RunConfig.of(**{**REESTIMATED, "batch_norm_statistics": "local"}), RING).consensus_rounds
    assert len(mixed) == 2 * once > 2
    assert all(record.train_loss is None and record.steps == ROUNDS * TINY["local_steps"] for record in mixed)


def in_second_merge(made: Simulation) -> bool:
    """Whether peer 3 has re-estimated its statistics and mixed them once."""
    merges = assign_roles(RunConfig.of(**REESTIMATED), RING).consensus_rounds
    return len(read_rounds(peer_dirs(made.run_dir, RING)[3])) > ROUNDS + merges // 2


def test_a_run_that_is_stopped_in_the_second_merge_ends_with_the_same_bits(tmp_path: Path, reestimated: Path) -> None:
    stopped = simulation(tmp_path, **REESTIMATED)
    while not in_second_merge(stopped):
        assert stopped.step()
    stopped.close()
    config = RunConfig.of(**REESTIMATED, run_dir=str(tmp_path))
    Simulation(RING, config, resume=tmp_path).run()
    assert (tmp_path / MODEL_FILE).read_bytes() == (reestimated / MODEL_FILE).read_bytes()


def test_a_peer_that_is_back_in_the_second_merge_takes_its_neighbors_statistics(tmp_path: Path) -> None:
    made = simulation(tmp_path, **REESTIMATED, restart=1)
    while not in_second_merge(made):
        assert made.step()
    made.workers[3].kill()
    made.run()
    assert made.outcome.restarts == {"3": 1}
    back = read_rounds(peer_dirs(made.run_dir, RING)[3])[-1]
    assert any(record.weights_from for record in read_rounds(peer_dirs(made.run_dir, RING)[3]))
    assert back.round == read_rounds(peer_dirs(made.run_dir, RING)[0])[-1].round
    mean, variance, _ = pooled(made.run_dir, REESTIMATED)  # peer 3's part in it was lost
    model = load_file(made.run_dir / MODEL_FILE)
    assert ((model["2.running_mean"] - mean).abs() < variance.sqrt()).all()
    assert (model["2.running_var"] / variance - 1).abs().max() < 0.5


def test_moments_that_are_taken_in_the_last_round_become_variances() -> None:
    layout = Layout.of(nn.BatchNorm1d(2))
    running = RunningStatistics.of(nn.BatchNorm1d(2), layout)
    x, moments = torch.zeros(layout.size), torch.zeros(layout.size)
    running.write(moments, (torch.tensor([2.0, 3.0]), torch.tensor([5.0, 10.0])))
    mixer = Mixer(
        Phases(DPSGD(), Chebyshev(0.0), 4),
        x,
        lambda round: Neighborhood(0, 1.0, {}, {}),
        (),
        None,
        StatisticsRule(running, pooled=(5, 6)),
    )
    mixer.replace([(slice(0, layout.size), moments)], 5)
    assert running.copies(mixer.x)[1].tolist() == [5.0, 10.0]
    mixer.replace([(slice(0, layout.size), moments)], 6)
    assert running.copies(mixer.x)[1].tolist() == [1.0, 1.0]


def test_each_merge_on_a_schedule_begins_with_its_first_graph() -> None:
    """Only from there on are its averages exact."""
    matrices = mixing_matrices(make_topology("one-peer-exponential", 8), "uniform")
    assert len(matrices) == 3
    rule = StatisticsRule(estimated_in=7)
    names = [str(peer) for peer in range(8)]
    context = replace(CONTEXT, names=names, training_rounds=4, consensus_rounds=4, statistics=rule)
    schedule = schedule_of(context, matrices, matrices, FaultScript(names=tuple(names)))
    assert schedule(1) == schedule(4) == schedule(5) == schedule(7) != schedule(2) == schedule(6) == schedule(8)


@pytest.mark.parametrize("algorithm", ["relay-sum", "push-sum"])
def test_reestimation_under_other_final_merges(tmp_path: Path, algorithm: str) -> None:
    options = {**REESTIMATED, "algorithm": algorithm}
    run_dir = run(tmp_path, **options)
    model = load_file(run_dir / MODEL_FILE)
    mean, variance, _ = pooled(run_dir, options)
    torch.testing.assert_close(model["2.running_mean"], mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model["2.running_var"], variance, rtol=1e-3, atol=1e-3)
