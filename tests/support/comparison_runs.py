"""Run directories of every mode, made up without training, for comparisons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2pfl.config import Mode, RunConfig, to_toml
from p2pfl.model.sketches import SKETCH_BUCKETS
from p2pfl.modes import COORDINATOR, topology_of
from p2pfl.report import summarize, write_summary
from p2pfl.run.data_record import DataRecord, keep_data_record
from p2pfl.run.records import RoundRecord, append_round
from p2pfl.topology import Topology, make_topology, mixing_matrix, save_topology, spectral_gap

STEPS = 10  # of a peer, in a round
BATCH = 32
MESSAGE = 1_000_000  # bytes of one vector
CONSENSUS = 3  # rounds


@dataclass(frozen=True)
class Recipe:
    """Contents of a made-up run's records."""

    topology: Topology
    config: RunConfig
    accuracy: float
    finished: int
    spread: float = 0.01  # accuracy between neighbors in peer order


def make_run(
    run_dir: Path,
    mode: Mode = "gossip",
    *,
    topology: Topology | None = None,
    accuracy: float = 0.8,
    finished: int | None = None,
    seconds: float = 60.0,
    content: str | None = "0123456789abcdef",
    augmented: bool = False,
    **options: Any,
) -> Path:
    """Make a run directory with its summary.

    `accuracy` is the final model's. `finished` rounds only make it incomplete. `content`: what it records of its data
    set's; None: nothing.
    """
    options = {"dataset": "digits", "rounds": 4, "batch_size": BATCH, **options}
    config = RunConfig.of("topology.graphml", mode, **options)
    graph = topology_of(config) or topology or make_topology("ring", 4)
    config = RunConfig.of("topology.graphml", mode, **{"name": graph.name, **options})
    done = config.training.rounds if finished is None else finished
    for node in range(graph.n):
        (run_dir / "peers" / graph.node_path(node)).mkdir(parents=True)
    (run_dir / "config.toml").write_text(to_toml(config), encoding="utf-8")
    save_topology(graph, run_dir / "topology.graphml")
    if content is not None:
        keep_data_record(run_dir, DataRecord(config.data.dataset, content, augmented))
    recipe = Recipe(graph, config, accuracy, done)
    _MAKERS[mode](run_dir, recipe)
    complete = done == config.training.rounds
    summary = summarize(run_dir, versions={"p2pfl": "0.1.0"}, seconds=seconds if complete else None)
    write_summary(run_dir, summary)
    return run_dir


def _folder(run_dir: Path, recipe: Recipe, node: int) -> Path:
    return run_dir / "peers" / recipe.topology.node_path(node)


def _record(number: int, steps: int, train: float, wait: float, sent: dict[str, int], **values: Any) -> RoundRecord:
    parts = {"train_seconds": train, "exchange_seconds": 0.1, "wait_seconds": wait, "evaluate_seconds": 0.2}
    given: dict[str, Any] = {
        "phase": "train",
        "samples": BATCH * steps,
        "elapsed": number * (train + wait + 0.3),
        **values,
    }
    total = sum(sent.values())
    seconds = train + wait + 0.3
    return RoundRecord(
        round=number,
        steps=steps,
        seconds=seconds,
        bytes_sent=total,
        bytes_received=total,
        sent_to=sent,
        **parts,
        **given,
    )


def _curve(recipe: Recipe, number: int) -> float:
    return recipe.accuracy * (1 - 0.9 * math.exp(-4 * number / recipe.config.training.rounds))


def _measured(recipe: Recipe, number: int, lead: float = 0.0) -> dict[str, Any]:
    """Measurements of every fourth round and of the last one.

    The last accuracy is the final one plus `lead`.
    """
    rounds = recipe.config.training.rounds
    if number % max(rounds // 10, 1) and number != rounds:
        return {}
    accuracy = recipe.accuracy if number == rounds else _curve(recipe, number)
    size = 500 if number == rounds else 100
    return {"test_accuracy": accuracy + lead, "test_loss": 1.0 - accuracy / 2, "test_samples": size}


def _sketches(n: int, distance: float, seed: int) -> np.ndarray:
    """(n, 4096) float64 whose consensus distance is `distance`."""
    apart = np.random.default_rng(seed).standard_normal((n, SKETCH_BUCKETS))
    apart -= apart.mean(axis=0)
    apart *= distance / math.sqrt((apart**2).sum(axis=1).mean())
    return apart


def _peers(run_dir: Path, recipe: Recipe) -> None:
    """Gossip and local: the worst peer first."""
    graph, n, local = recipe.topology.graph, recipe.topology.n, recipe.config.mode == "local"
    seed = recipe.config.record.seed
    for number in range(1, recipe.finished + 1):
        distance = math.sqrt(number) if local else 2.0 / math.sqrt(number) / (1 + 0.1 * graph.degree(0))
        rows = _sketches(n, distance * (1 + 0.05 * seed), 1000 * seed + number)
        for peer in range(n):
            sent = {} if local else {recipe.topology.names[j]: MESSAGE for j in graph.neighbors(peer)}
            lead = recipe.spread * (peer - n)
            values = {"train_loss": 2.0 / number, "lr": 0.02, **_measured(recipe, number, lead)}
            record = _record(number, STEPS * number, 1.0 + 0.02 * peer, 0.0 if local else 0.2, sent, **values)
            append_round(_folder(run_dir, recipe, peer), record, rows[peer].astype(np.float32))
    if not local and recipe.finished == recipe.config.training.rounds:
        _mix(run_dir, recipe, rows)


def _mix(run_dir: Path, recipe: Recipe, start: np.ndarray) -> None:
    """The consensus phase: Chebyshev's recurrence on the sketches."""
    w = mixing_matrix(recipe.topology)
    rate, rounds = max(1 - spectral_gap(w), 1e-9), recipe.config.training.rounds
    now, before, omega = w @ start, start, 1.0
    for k in range(1, CONSENSUS + 1):
        if k > 1:
            omega = 1 / (1 - rate**2 / 2) if k == 2 else 1 / (1 - rate**2 * omega / 4)
            now, before = omega * (w @ now - before) + before, now
        for peer in range(recipe.topology.n):
            sent = {recipe.topology.names[j]: MESSAGE for j in recipe.topology.graph.neighbors(peer)}
            end = k == CONSENSUS and peer == 0
            values: dict[str, Any] = {"phase": "consensus", "elapsed": rounds * 1.6 + 0.2 * k}
            if end:
                values |= {"test_accuracy": recipe.accuracy, "test_loss": 0.5, "test_samples": 500}
            record = _record(rounds + k, STEPS * rounds, 0.0, 0.1, sent, samples=BATCH * STEPS * rounds, **values)
            append_round(_folder(run_dir, recipe, peer), record, now[peer].astype(np.float32))


def _pooled(run_dir: Path, recipe: Recipe) -> None:
    for number in range(1, recipe.finished + 1):
        steps = (
            4 * STEPS * number
            if recipe.config.training.local_steps is None
            else recipe.config.training.local_steps * number
        )
        values = {"train_loss": 1.0 / number, "lr": 0.02, **_measured(recipe, number)}
        record = _record(number, steps, 3.0, 0.0, {}, **values)
        append_round(_folder(run_dir, recipe, 0), record, None)


def _federated(run_dir: Path, recipe: Recipe) -> None:
    """Clients take turns."""
    settings, names = recipe.config.centralized, recipe.topology.names
    clients, selected = settings.num_clients, settings.num_selected
    steps = [0] * clients
    for number in range(1, recipe.finished + 1):
        chosen = [(number * selected + k) % clients for k in range(selected)]
        for client in chosen:
            steps[client] += STEPS
            record = _record(number, steps[client], 1.0, 0.3, {COORDINATOR: MESSAGE}, train_loss=1.0)
            append_round(_folder(run_dir, recipe, client), record, None)
        sent = {names[client]: MESSAGE for client in chosen}
        values = {"samples": number * selected * STEPS * BATCH, "train_loss": 1.0, "missing": []}
        values |= {"selected": [names[client] for client in chosen], **_measured(recipe, number)}
        append_round(_folder(run_dir, recipe, clients), _record(number, 0, 0.0, 1.2, sent, **values), None)


_MAKERS = {"gossip": _peers, "local": _peers, "sgd": _pooled, "centralized": _federated}


FEDERATED: dict[str, Any] = {"mode": "centralized", "num_clients": 4, "num_selected": 4}


def matched(tmp_path: Path, seeds: tuple[int, ...] = (0,)) -> list[Path]:
    """Matched runs: two topologies, FedAvg 4/4 and 3/4, local and SGD.

    All of 4 rounds on 4 shards, or as many samples.
    """
    runs = []
    for seed in seeds:
        apart = 0.01 * seed
        for name, kind in {
            "ring": {"topology": make_topology("ring", 4), "accuracy": 0.7 + apart},
            "mesh": {"topology": make_topology("complete", 4), "accuracy": 0.69},
            "all": {**FEDERATED, "accuracy": 0.72},
            "some": {**FEDERATED, "num_selected": 3, "rounds": 5, "accuracy": 0.71},
            "local": {"mode": "local", "accuracy": 0.6},
            "sgd": {"mode": "sgd", "accuracy": 0.8 + apart},
        }.items():
            runs.append(make_run(tmp_path / f"{name}-{seed}", seed=seed, seconds=60.0 + seed, **kind))
    return runs
