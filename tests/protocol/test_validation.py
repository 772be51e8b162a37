"""Runs with a validation set: its samples, and when the test set is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pfl import RunConfig, data, make_topology
from p2pfl.errors import ConfigError
from p2pfl.modes import assign_roles, topology_of
from p2pfl.report import summarize
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.paths import MODEL_FILE, peer_dirs
from p2pfl.run.records import RoundRecord, read_rounds
from p2pfl.run.settings import resolve
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology
from p2pfl.training import dataset_of_run, split_of_run

PEERS, ROUNDS = 3, 4
PLAIN: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "rounds": ROUNDS,
    "batch_size": 16,
    "local_steps": 2,
    "lr": 0.05,
    "threads": 1,
    "eval_samples": 40,
    "eval_every": 2,
    "validation": 0.1,
}
MODES = ["gossip", "centralized", "local", "sgd"]
HERE = "tests.protocol.test_validation"


def config_of(run_dir: Path, **options: Any) -> RunConfig:
    clients = {"num_clients": PEERS, "num_selected": PEERS} if options.get("mode") == "centralized" else {}
    return RunConfig.of(**{**PLAIN, **clients, **options}, run_dir=str(run_dir))


def topology_for(config: RunConfig) -> Topology:
    return topology_of(config) or make_topology("ring", PEERS)


def run(run_dir: Path, **options: Any) -> Path:
    config = config_of(run_dir, **options)
    Simulation(topology_for(config), config).run()
    return run_dir


def digits() -> data.Dataset:
    return data.load(data.prepare("digits", None, lambda *_: None))


def shards(**options: Any) -> list[list[int]]:
    config = config_of(Path("unused"), **options)
    split = split_of_run(config, assign_roles(config, topology_for(config)), digits())
    return [shard.tolist() for shard in split.shards]


def held_out(**options: Any) -> set[int]:
    found = dataset_of_run(config_of(Path("unused"), **options), digits()).held_out
    assert found is not None
    return set(found.tolist())


def evaluator(run_dir: Path) -> list[RoundRecord]:
    """Evaluations of the process that owns the model, or of the last one."""
    folders = sorted((run_dir / "peers").iterdir())
    chosen = run_dir / "peers" / "coordinator"
    return [r for r in read_rounds(chosen if chosen in folders else folders[0]) if r.test_accuracy is not None]


def by_rank(labels: np.ndarray, peers: int, seed: int) -> list[np.ndarray]:
    """Partition of a user, who knows the whole training set."""
    assert len(labels) == 1438
    return [np.arange(peer, len(labels), peers) for peer in range(peers)]


def owned() -> dict[str, Any]:
    known = digits()
    arrays = {name: getattr(known, name) for name in ("train_images", "train_labels", "test_images", "test_labels")}
    return {**arrays, "train_peers": [str(number % PEERS) for number in range(len(known.train_labels))]}


def other_test() -> dict[str, Any]:
    """The same training samples with quite another test set."""
    arrays = owned()
    del arrays["train_peers"]
    return {**arrays, "test_images": 255 - arrays["test_images"][:50], "test_labels": arrays["test_labels"][:50]}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5", f"{HERE}:by_rank", "file"])
def test_what_is_held_back_is_nobodys_and_the_same_everywhere(tmp_path: Path, mode: str, partition: str) -> None:
    if partition == "file":
        rows = [f"{sample},{sample % PEERS}" for sample in range(1438)]
        (tmp_path / "split.csv").write_text("\n".join(["sample,peer", *rows]))
        partition = f"file:{tmp_path / 'split.csv'}"
    held = held_out(mode=mode, partition=partition)
    assert held == held_out()
    assert len(held) == 144
    dealt = [sample for shard in shards(mode=mode, partition=partition) for sample in shard]
    assert sorted(dealt) == sorted(set(range(1438)) - held)


def test_a_user_s_numbers_are_those_of_the_whole_training_set() -> None:
    for peer, shard in enumerate(shards(partition=f"{HERE}:by_rank")):
        assert {sample % PEERS for sample in shard} == {peer}


def test_a_rule_deals_out_the_rest_evenly() -> None:
    assert [len(shard) for shard in shards()] == [432, 431, 431]


def test_without_validation_shards_are_as_ever() -> None:
    labels = digits().train_labels.numpy()
    plain = data.partition(data.Request("iid", labels, ("0", "1", "2"), 0, 10)).shards
    assert shards(validation=0.0) == [shard.tolist() for shard in plain]


@pytest.mark.parametrize("mode", MODES)
def test_the_test_set_is_read_once_at_the_end(tmp_path: Path, mode: str) -> None:
    run_dir = run(tmp_path / "run", mode=mode)
    *before, last = [r for r in evaluator(run_dir) if r.phase == "train"]
    assert {(r.round, r.evaluated_on, r.test_samples) for r in before} <= {(1, "validation", 40), (2, "validation", 40)}
    assert 2 in {r.round for r in before}
    assert (last.round, last.evaluated_on, last.test_samples) == (ROUNDS, "test", 359)
    summary = summarize(run_dir)
    assert summary["evaluated_on"] == "test"
    assert summary["status"] == "complete"
    if mode == "gossip":
        assert evaluator(run_dir)[-1].evaluated_on == "test", "the consensus model"


@pytest.mark.parametrize("mode", MODES)
def test_no_test_ends_alike_whatever_the_test_set(tmp_path: Path, mode: str) -> None:
    results = []
    for name, dataset in (("one", "digits"), ("other", f"{HERE}:other_test")):
        run_dir = run(tmp_path / name, mode=mode, test=False, dataset=dataset, augment="off")
        found = evaluator(run_dir)
        assert {r.evaluated_on for r in found} == {"validation"}
        assert found[-1].test_samples == 144
        summary = summarize(run_dir)
        assert summary["evaluated_on"] == "validation"
        fields = ("consensus_accuracy", "worst_peer_accuracy", "worst_own_accuracy", "class_accuracy", "test_loss")
        model = run_dir / MODEL_FILE
        results.append(
            (
                [(r.round, r.test_accuracy, r.test_loss, r.class_accuracy) for r in found],
                [summary[field] for field in fields],
                model.read_bytes() if model.exists() else b"",
            )
        )
    assert results[0] == results[1]


@pytest.mark.parametrize("mode", ["gossip", "centralized", "sgd"])
def test_a_stopped_run_ends_with_the_same_evaluations_and_bits(tmp_path: Path, mode: str) -> None:
    whole = run(tmp_path / "whole", mode=mode)
    config = config_of(tmp_path / "stopped", mode=mode)
    stopped = Simulation(topology_for(config), config)
    while not list(stopped.run_dir.glob("peers/*/checkpoint/round-000003.safetensors")):
        assert stopped.step()
    stopped.close()
    Simulation(topology_for(config), config, resume=stopped.run_dir).run()
    assert (whole / MODEL_FILE).read_bytes() == (tmp_path / "stopped" / MODEL_FILE).read_bytes()
    both = (peer_dirs(tmp_path / name, topology_for(config)) for name in ("whole", "stopped"))
    for one, other in zip(*both, strict=True):
        facts = [[(r.round, r.test_accuracy, r.evaluated_on) for r in read_rounds(folder)] for folder in (one, other)]
        assert facts[0] == facts[1]


def test_owners_give_their_share_and_are_measured_on_all_of_it(tmp_path: Path) -> None:
    run_dir = run(tmp_path / "run", partition="own", dataset=f"{HERE}:owned", test=False)
    records = [read_rounds(folder) for folder in peer_dirs(run_dir, make_topology("ring", PEERS))]
    assert [own[ROUNDS - 1].test_samples for own in records] == [144] * PEERS


def test_runs_of_other_validation_are_other_runs() -> None:
    topology = make_topology("ring", PEERS)
    found = set()
    for options in ({}, {"validation": 0.2}, {"test": False}, {"validation": 0.0}):
        config = resolve(config_of(Path("unused"), **options), topology, 1)
        found.add(run_fingerprint(assign_roles(config, topology), config))
    assert len(found) == 4


def test_without_a_test_set_there_must_be_a_validation_set() -> None:
    config = config_of(Path("unused"), validation=0.0, test=False)
    with pytest.raises(ConfigError, match=r"^--no-test: nothing would be left to evaluate on; add --validation 0.1"):
        resolve(config, make_topology("ring", PEERS), 1)


@pytest.mark.parametrize("value", [-0.1, 1.0, 7, float("nan")])
def test_a_fraction_is_at_least_0_and_below_1(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^--validation .*: must be 0 \(none\) or more, and less than 1$"):
        RunConfig.of(validation=value)
