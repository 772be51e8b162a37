"""Run directories of every mode, made up from small vectors, for their readers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import networkx as nx
import numpy as np

from p2pfl.config import RunConfig, to_toml
from p2pfl.model.sketches import sketch
from p2pfl.modes import COORDINATOR, topology_of
from p2pfl.run.records import RoundRecord, append_round
from p2pfl.topology import Topology, is_symmetric, mixing_matrix, save_topology, spectral_gap
from p2pfl.topology.graph import build_topology

SIZE = 10_000  # elements of the made-up models: more than a sketch has buckets
STEPS = 10  # a round
TEST_SET = 500
HOSTILE = "<script>alert(1)</script>"  # as a peer's label


def hostile_topology() -> Topology:
    names = (HOSTILE, "$x^$ $\\foo$", "a&b", '"q"')
    graph = nx.relabel_nodes(nx.cycle_graph(4), dict(enumerate(names)))
    return build_topology(graph, name="names", source="test")


def vectors_apart(n: int, distance: float, seed: int = 0) -> np.ndarray:
    """(n, SIZE) float32 vectors whose consensus distance is `distance`."""
    rng = np.random.default_rng(seed)
    apart = rng.standard_normal((n, SIZE))
    apart -= apart.mean(axis=0)
    apart *= distance / math.sqrt((apart**2).sum(axis=1).mean())
    return (apart + rng.standard_normal(SIZE) * 0.05).astype(np.float32)


def training_distance(number: int) -> float:
    return 3.0 / math.sqrt(number)


def train_record(topology: Topology, peer: int, number: int, rounds: int, message: int) -> RoundRecord:
    evaluated = number % 2 == 0 or number == rounds
    slow = 1.0 + 0.1 * (peer % 3)
    receivers = [topology.names[j] for j in topology.graph.neighbors(peer)]
    parts = {"train_seconds": 2.0 * slow, "exchange_seconds": 0.25, "wait_seconds": 2.5 - 2.0 * slow}
    return RoundRecord(
        round=number,
        phase="train",
        steps=STEPS * number,
        samples=32 * STEPS * number,
        train_loss=2.3 * math.exp(-number / 8) + 0.01 * peer,
        lr=0.02,
        test_accuracy=0.9 - 0.7 * math.exp(-number / 4) - 0.005 * (peer % 4) if evaluated else None,
        test_loss=0.5 if evaluated else None,
        test_samples=(TEST_SET if number == rounds else 100) if evaluated else None,
        elapsed=3.0 * number,
        seconds=3.0,
        **parts,
        evaluate_seconds=0.25 if evaluated else 0.0,
        bytes_sent=message * len(receivers),
        bytes_received=message * len(receivers),
        sent_to=dict.fromkeys(receivers, message),
    )


def consensus_record(topology: Topology, peer: int, k: int, last: RoundRecord, end: bool) -> RoundRecord:
    measured = end and peer == 0
    receivers = [topology.names[j] for j in topology.graph.neighbors(peer)]
    return RoundRecord(
        round=last.round + k,
        phase="consensus",
        steps=last.steps,
        samples=last.samples,
        test_accuracy=0.9125 if measured else None,
        test_loss=0.3125 if measured else None,
        test_samples=TEST_SET if measured else None,
        elapsed=last.elapsed + 0.5 * k + measured,
        seconds=0.5 + measured,
        train_seconds=0.0,
        exchange_seconds=0.4,
        wait_seconds=0.1,
        evaluate_seconds=float(measured),
        bytes_sent=2_000_000 * len(receivers),
        bytes_received=2_000_000 * len(receivers),
        sent_to=dict.fromkeys(receivers, 2_000_000),
    )


def make_run(
    run_dir: Path,
    topology: Topology,
    *,
    rounds: int = 4,
    finished: int | None = None,
    consensus: int = 3,
    message: int = 1_000_000,
) -> Path:
    """Make a run in which every peer finished `finished` rounds.

    By default all of them, and then the consensus phase.
    """
    config = RunConfig.of("topology.graphml", rounds=rounds, dataset="digits", seed=7, name=topology.name)
    folders = _begin(run_dir, config, topology)
    done = rounds if finished is None else finished
    for number in range(1, done + 1):
        vectors = vectors_apart(topology.n, training_distance(number), seed=number)
        for peer, folder in enumerate(folders):
            record = train_record(topology, peer, number, rounds, message)
            append_round(folder, record, sketch(vectors[peer], seed=7))
    if done == rounds:
        _consensus_phase(folders, topology, rounds, consensus, message)
    return run_dir


def _begin(run_dir: Path, config: RunConfig, topology: Topology) -> list[Path]:
    """Write down a run's settings and topology; returns the processes' folders."""
    run_dir.mkdir(parents=True)
    (run_dir / "config.toml").write_text(to_toml(config))
    save_topology(topology, run_dir / "topology.graphml")
    folders = [run_dir / "peers" / topology.node_path(peer) for peer in range(topology.n)]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def make_local(run_dir: Path, topology: Topology, *, rounds: int = 4, finished: int | None = None) -> Path:
    """Peers that train as in `make_run`, and never exchange."""
    config = RunConfig.of("topology.graphml", mode="local", rounds=rounds, dataset="digits", seed=7, name="local")
    folders = _begin(run_dir, config, topology)
    for number in range(1, (rounds if finished is None else finished) + 1):
        vectors = vectors_apart(topology.n, 0.5 * number, seed=number)
        for peer, folder in enumerate(folders):
            record = _silent(train_record(topology, peer, number, rounds, 0))
            append_round(folder, record, sketch(vectors[peer], seed=7))
    return run_dir


def make_sgd(run_dir: Path, *, rounds: int = 4, finished: int | None = None) -> Path:
    """One process that trains as peer 0 of `make_run`."""
    config = RunConfig.of(mode="sgd", rounds=rounds, dataset="digits", seed=7, name="sgd")
    topology = topology_of(config)
    assert topology is not None
    [folder] = _begin(run_dir, config, topology)
    for number in range(1, (rounds if finished is None else finished) + 1):
        record = _silent(train_record(topology, 0, number, rounds, 0))
        append_round(folder, record, sketch(vectors_apart(2, 1.0, seed=number)[0], seed=7))
    return run_dir


def _silent(record: RoundRecord) -> RoundRecord:
    return msgspec.structs.replace(record, exchange_seconds=0.0, wait_seconds=0.0, seconds=record.train_seconds)


def make_centralized(
    run_dir: Path,
    *,
    clients: int = 4,
    selected: int = 2,
    rounds: int = 4,
    finished: int | None = None,
    missing: Mapping[int, Sequence[str]] | None = None,
    message: int = 1_000_000,
) -> Path:
    """Make a centralized run.

    Its coordinator draws the clients in turn (round 1: the first `selected`, and so on).

    `missing`: round -> the clients whose update does not come; they do not record it. A client's n-th training takes
    2 s, and a tenth more for each client before it.
    """
    settings = {"num_clients": clients, "num_selected": selected, "rounds": rounds}
    config = RunConfig.of(mode="centralized", dataset="digits", seed=7, name="FedAvg", **settings)
    topology = topology_of(config)
    assert topology is not None
    folders = _begin(run_dir, config, topology)
    taken = [0] * clients
    for number in range(1, (rounds if finished is None else finished) + 1):
        drawn = sorted((number * selected - selected + k) % clients for k in range(selected))
        gone = [client for client in drawn if str(client) in (missing or {}).get(number, ())]
        for client in drawn:
            if client not in gone:
                taken[client] += 1
                append_round(folders[client], _client_record(client, number, taken[client], message), None)
        record = _coordinator_record(number, drawn, gone, 320 * sum(taken), message)
        append_round(folders[clients], record, None)
    return run_dir


def _client_record(client: int, number: int, taken: int, message: int) -> RoundRecord:
    train = 2.0 * (1 + client / 10)
    return RoundRecord(
        round=number,
        phase="train",
        steps=STEPS * taken,
        samples=32 * STEPS * taken,
        train_loss=2.3 * math.exp(-number / 8) + 0.01 * client,
        lr=0.02,
        elapsed=2.5 * taken,
        seconds=train + 0.375,
        train_seconds=train,
        exchange_seconds=0.25,
        wait_seconds=0.125,
        evaluate_seconds=0.0,
        bytes_sent=message,
        bytes_received=message,
        sent_to={COORDINATOR: message},
    )


def _coordinator_record(number: int, drawn: list[int], gone: list[int], samples: int, message: int) -> RoundRecord:
    labels = [str(client) for client in drawn]
    return RoundRecord(
        round=number,
        phase="train",
        steps=0,
        samples=samples,
        train_loss=2.3 * math.exp(-number / 8),
        test_accuracy=0.9 - 0.8 * 2.0**-number,
        test_loss=2.0**-number,
        test_samples=TEST_SET,
        elapsed=4.0 * number,
        seconds=4.0,
        train_seconds=0.0,
        exchange_seconds=0.5,
        wait_seconds=3.0,
        evaluate_seconds=0.375,
        bytes_sent=message * len(drawn),
        bytes_received=message * (len(drawn) - len(gone)),
        sent_to=dict.fromkeys(labels, message),
        selected=labels,
        missing=[str(client) for client in gone],
    )


def _consensus_phase(folders: list[Path], topology: Topology, rounds: int, consensus: int, message: int) -> None:
    """Consensus phase of a run, Chebyshev-accelerated where the matrix is symmetric."""
    w = mixing_matrix(topology, "metropolis-hastings" if not topology.directed else "uniform")
    rate = max(1 - spectral_gap(w), 1e-9)
    previous = vectors_apart(topology.n, training_distance(rounds), seed=rounds).astype(np.float64)
    now, before, omega = w @ previous, previous, 1.0
    for k in range(1, consensus + 1):
        if k > 1 and is_symmetric(w):
            omega = 1 / (1 - rate**2 / 2) if k == 2 else 1 / (1 - rate**2 * omega / 4)
            now, before = omega * (w @ now - before) + before, now
        elif k > 1:
            now, before = w @ now, now
        for peer, folder in enumerate(folders):
            last = train_record(topology, peer, rounds, rounds, message)
            record = consensus_record(topology, peer, k, last, k == consensus)
            append_round(folder, record, sketch(now[peer].astype(np.float32), seed=7))
