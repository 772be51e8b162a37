"""Runs over unequal shards: rounds of steps or epochs, resumed with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2pfl import RunConfig, data, make_topology
from p2pfl.errors import ConfigError
from p2pfl.modes import assign_roles, topology_of
from p2pfl.report import summarize
from p2pfl.run.paths import MODEL_FILE, checkpoint_name, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.run.shard_record import read_shard_record
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology
from p2pfl.training import split_of_run

PEERS, ROUNDS = 4, 3
PLAIN: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "rounds": ROUNDS,
    "batch_size": 32,
    "lr": 0.02,
    "threads": 1,
    "eval_samples": 16,
    "eval_every": ROUNDS,
}
SPECS = [
    *("dirichlet:0.2", "dirichlet-balanced:0.2", "classes:3", "shards:2", "quantity:0.5", "quantity:square"),
    *("real-world", "classes-pc:2"),
]


def config_of(run_dir: Path, **options: Any) -> RunConfig:
    clients = {"num_clients": PEERS, "num_selected": PEERS} if options.get("mode") == "centralized" else {}
    return RunConfig.of(**{**PLAIN, **clients, **options}, run_dir=str(run_dir))


def topology_for(config: RunConfig) -> Topology:
    return topology_of(config) or make_topology("ring", PEERS)


def run(run_dir: Path, **options: Any) -> Simulation:
    config = config_of(run_dir, **options)
    simulation = Simulation(topology_for(config), config)
    simulation.run()
    return simulation


def sizes_of(config: RunConfig) -> list[int]:
    dataset = data.load(data.prepare(config.data.dataset, None, lambda *_: None))
    return split_of_run(config, assign_roles(config, topology_for(config)), dataset).sizes


def results(run_dir: Path, config: RunConfig) -> list[bytes]:
    """The run's model and the weights of every process, as they are on disk."""
    folders = peer_dirs(run_dir, topology_for(config))
    kept = [folder / "checkpoint" / checkpoint_name(ROUNDS) for folder in folders]
    return [path.read_bytes()[-10_000:] for path in (*kept, run_dir / MODEL_FILE) if path.exists()]


def by_label(labels: np.ndarray, peers: int, seed: int) -> list[np.ndarray]:
    """Partition of a user: each peer gets classes, the last one two thirds of all."""
    rank = np.minimum(labels, peers - 1)
    return [np.flatnonzero(rank == peer) for peer in range(peers)]


def owned() -> dict[str, Any]:
    """Digits that belong to somebody."""
    digits = data.load(data.prepare("digits", None, lambda *_: None))
    arrays = {name: getattr(digits, name) for name in ("train_images", "train_labels", "test_images", "test_labels")}
    return {**arrays, "train_peers": [str(min(int(label), PEERS - 1)) for label in digits.train_labels]}


HERE = "tests.protocol.test_splits"
CASES: list[dict[str, Any]] = [{"partition": spec} for spec in SPECS]
CASES += [{"mode": mode, "round_length": how} for mode in ("centralized", "local") for how in ("steps", "epochs")]
CASES += [{"partition": "quantity:square", "round_length": "epochs"}, {"mode": "sgd"}]
CASES += [{"mixing": "samples", "wire_dtype": wire} for wire in ("fp32", "bf16")]
CASES += [{"mode": "centralized", "averaging": "samples"}]
CASES += [{"partition": f"{HERE}:by_label"}]
CASES += [{"partition": "own", "dataset": f"{HERE}:owned", "mode": mode} for mode in ("gossip", "centralized", "sgd")]
CASES += [{"partition": "file:split.csv", "mode": mode} for mode in ("gossip", "centralized", "sgd")]


@pytest.mark.parametrize("chosen", CASES, ids=lambda chosen: "-".join(chosen.values()))
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, chosen: dict[str, Any]) -> None:
    options = {"partition": "dirichlet:0.2", "batch_size": 128, **chosen}  # few steps
    if options["partition"] == "file:split.csv":
        rows = [f"{sample},{min(sample % 7, PEERS - 1)}" for sample in range(1000)]
        (tmp_path / "split.csv").write_text("\n".join(["sample,peer", *rows]))
        options["partition"] = f"file:{tmp_path / 'split.csv'}"
    run(tmp_path / "whole", **options)
    config = config_of(tmp_path / "stopped", **options)
    stopped = Simulation(topology_for(config), config)
    while not list(stopped.run_dir.glob(f"peers/*/checkpoint/{checkpoint_name(2)}")):
        assert stopped.step()
    stopped.close()
    Simulation(topology_for(config), config, resume=stopped.run_dir).run()
    assert results(tmp_path / "stopped", config) == results(tmp_path / "whole", config)
    assert len(results(tmp_path / "whole", config)) > 0


@pytest.mark.parametrize("mode", ["gossip", "centralized", "local"])
def test_every_peer_takes_as_many_steps_as_a_mean_shard_has(tmp_path: Path, mode: str) -> None:
    options = {"partition": "quantity:square", "local_epochs": 2, "mode": mode}
    config = config_of(tmp_path, **options)
    sizes = sizes_of(config)
    assert max(sizes) > 10 * min(sizes)
    run(tmp_path / "run", **options)
    expected = 2 * (sum(sizes) // PEERS // 32)
    for folder in peer_dirs(tmp_path / "run", topology_for(config))[:PEERS]:
        assert [record.steps for record in read_rounds(folder)][:ROUNDS] == [expected * n for n in range(1, ROUNDS + 1)]


@pytest.mark.parametrize("mode", ["gossip", "centralized", "local"])
def test_an_epoch_is_as_long_as_the_shard(tmp_path: Path, mode: str) -> None:
    options = {"partition": "quantity:square", "local_epochs": 2, "mode": mode, "round_length": "epochs"}
    config = config_of(tmp_path, **options)
    run(tmp_path / "run", **options)
    for size, folder in zip(sizes_of(config), peer_dirs(tmp_path / "run", topology_for(config)), strict=False):
        steps = 2 * max(1, size // 32)
        assert [record.steps for record in read_rounds(folder)][:ROUNDS] == [steps * n for n in range(1, ROUNDS + 1)]


def test_equal_shards_have_the_same_rounds_either_way(tmp_path: Path) -> None:
    for length in ("steps", "epochs"):
        run(tmp_path / length, round_length=length)
    assert (tmp_path / "steps" / MODEL_FILE).read_bytes() == (tmp_path / "epochs" / MODEL_FILE).read_bytes()


def test_a_number_of_steps_is_no_number_of_epochs() -> None:
    with pytest.raises(ConfigError, match=r"^--round-length epochs: --local-steps 3 is set too; choose one"):
        RunConfig.of(local_steps=3, round_length="epochs")


def test_peers_are_measured_on_their_own_classes_and_the_model_on_each(tmp_path: Path) -> None:
    options = {"partition": "classes:3", "lr": 0.5}
    run(tmp_path / "run", **options)
    dataset = data.load(data.prepare("digits", None, lambda *_: None))
    config = config_of(tmp_path, **options)
    shards = split_of_run(config, assign_roles(config, topology_for(config)), dataset).shards
    tested = dataset.test_labels.bincount(minlength=10)
    for shard, folder in zip(shards, peer_dirs(tmp_path / "run", topology_for(config)), strict=True):
        recorded = read_shard_record(folder)
        assert recorded is not None
        held = dataset.train_labels[shard].bincount(minlength=10)
        assert recorded.counts == held.tolist()
        last = read_rounds(folder)[ROUNDS - 1]
        by_class = torch.tensor(last.class_accuracy)
        assert last.test_accuracy == pytest.approx(float(by_class @ tested.float() / tested.sum()))
        assert last.own_accuracy == pytest.approx(float(by_class @ held.float() / held.sum()))
        assert last.own_accuracy != last.test_accuracy
    summary = summarize(tmp_path / "run")
    assert list(summary["class_accuracy"]) == [str(digit) for digit in range(10)]
    assert summary["worst_own_accuracy"] <= summary["mean_own_accuracy"]
