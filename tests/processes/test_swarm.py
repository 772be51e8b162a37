"""Swarms of real processes and sockets match independent references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.helpers import ring_with_chord
from tests.support.swarms import LIVELY, PLAIN, ROUNDS, Reference, assert_close, memory_swarm, saved_vectors

from p2pfl import RunConfig, make_topology, run_swarm
from p2pfl.model.networks import build_model
from p2pfl.model.vector import Layout, aligned_vector
from p2pfl.run.records import read_rounds
from p2pfl.topology import Topology, consensus_rounds, mixing_matrix, spectral_gap

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.mark.processes
def test_full_mesh_is_one_large_batch(tmp_path: Path) -> None:
    topology = make_topology("complete", 4)
    config = RunConfig.of(**PLAIN, mixing="uniform", run_dir=str(tmp_path / "run"))
    result = run_swarm(topology, config)
    reference = Reference(topology, config)
    x = reference.start.clone()
    for step in range(ROUNDS):
        batches = [peer.batch(step) for peer in reference.batches]
        union = torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
        x -= reference.lr * reference.gradient(x, union)
    assert_close(saved_vectors(result.run_dir, topology, ROUNDS), x.expand(4, -1), reference.start)
    model = build_model("vgg11", num_classes=10, norm="none", width=0.125)
    model.load_state_dict(load_file(result.run_dir / "consensus.safetensors"))
    layout = Layout.of(model)
    consensus = aligned_vector(layout.size)
    layout.bind(model, consensus)
    assert_close(consensus, x, reference.start)


@pytest.mark.processes
@pytest.mark.parametrize("order", ["atc", "overlapped"])
def test_ring_equals_the_dense_formula(tmp_path: Path, order: str) -> None:
    topology = make_topology("ring", 4)
    config = RunConfig.of(**PLAIN, order=order, run_dir=str(tmp_path / "run"))
    run_swarm(topology, config)
    reference = Reference(topology, config)
    w = torch.from_numpy(mixing_matrix(topology, "metropolis-hastings")).float()
    xs = reference.start.repeat(4, 1)
    for step in range(ROUNDS):
        moves = -reference.lr * reference.gradients(xs, step)
        xs = w @ (xs + moves) if order == "atc" else w @ xs + moves
    assert (xs[0] - xs[1]).norm() > 0, "the peers of a ring must differ for this to test anything"
    assert_close(saved_vectors(tmp_path / "run", topology, ROUNDS), xs, reference.start)


@pytest.mark.processes
def test_gradient_tracking_equals_the_dense_formula(tmp_path: Path) -> None:
    """Two vectors of each peer travel."""
    topology = make_topology("ring", 4)
    run_swarm(topology, RunConfig.of(**PLAIN, algorithm="gradient-tracking", run_dir=str(tmp_path / "run")))
    reference = Reference(topology, RunConfig.of(**PLAIN))
    w = torch.from_numpy(mixing_matrix(topology)).float()
    xs, corrections = reference.start.repeat(4, 1), torch.zeros(4, len(reference.start))
    for step in range(ROUNDS):
        tracked = reference.gradients(xs, step) + corrections
        xs, corrections = w @ (xs - reference.lr * tracked), corrections - tracked + w @ tracked
    assert_close(saved_vectors(tmp_path / "run", topology, ROUNDS), xs, reference.start)


@pytest.mark.processes
def test_relayed_sums_equal_the_dense_formula(tmp_path: Path) -> None:
    """Each neighbor gets another vector, and the final merge is exact."""
    topology = make_topology("path", 4)
    result = run_swarm(topology, RunConfig.of(**PLAIN, algorithm="relay-sum", run_dir=str(tmp_path / "run")))
    reference = Reference(topology, RunConfig.of(**PLAIN))
    xs, trained = reference.start.repeat(4, 1), []
    for step in range(ROUNDS):
        trained.append(xs - reference.lr * reference.gradients(xs, step))
        ages = [[max(abs(i - j) - 1, 0) for j in range(4)] for i in range(4)]
        rows = [
            [trained[step - age][j] if age <= step else trained[step][i] for j, age in enumerate(row)]
            for i, row in enumerate(ages)
        ]
        xs = torch.stack([torch.stack(row).mean(0) for row in rows])
    assert_close(saved_vectors(tmp_path / "run", topology, ROUNDS), xs, reference.start)
    assert (result.summary["consensus_rounds"], result.summary["spectral_gap"]) == (3, None)
    assert result.summary["final_consensus_distance"] < 1e-4 * (xs - xs.mean(0)).norm()


@pytest.mark.processes
def test_push_sum_on_a_directed_graph_equals_the_dense_formula(tmp_path: Path) -> None:
    """The final merge brings the peers together, too."""
    topology = ring_with_chord(4)
    config = RunConfig.of(
        **PLAIN, algorithm="push-sum", mixing="column-stochastic", run_dir=str(tmp_path / "run"), name="push"
    )
    result = run_swarm(topology, config)
    reference = Reference(topology, config)
    p = torch.from_numpy(mixing_matrix(topology, "column-stochastic")).float()
    xs, w = reference.start.repeat(4, 1), torch.ones(4, 1)
    for step in range(ROUNDS):
        xs, w = p @ (xs - reference.lr * reference.gradients(xs / w, step)), p @ w
    assert w.max() - w.min() > 0.3
    assert_close(saved_vectors(tmp_path / "run", topology, ROUNDS), xs / w, reference.start)
    assert result.summary["final_consensus_distance"] < 1e-3 * (xs / w - (xs / w).mean(0)).norm()


@pytest.mark.processes
def test_compressed_exchanges_equal_the_dense_formula_and_send_fewer_bytes(tmp_path: Path) -> None:
    topology = make_topology("ring", 4)
    config = RunConfig.of(
        **PLAIN, algorithm="choco", compression="top-k:0.1", consensus_step=0.5, run_dir=str(tmp_path / "run")
    )
    result = run_swarm(topology, config)
    reference = Reference(topology, config)
    w = torch.from_numpy(mixing_matrix(topology)).float()
    xs, known = reference.start.repeat(4, 1), None
    for step in range(ROUNDS):
        xs = xs - reference.lr * reference.gradients(xs, step)
        if known is None:
            known = xs.clone()
        else:
            change = xs - known
            kept = change.abs().topk(-(-change.shape[1] // 10)).indices
            known = known.scatter_add(1, kept, change.gather(1, kept))
        xs = xs + 0.5 * (w @ known - known)
    assert_close(saved_vectors(tmp_path / "run", topology, ROUNDS), xs, reference.start)
    sent = [record.bytes_sent for record in read_rounds(tmp_path / "run" / "peers" / "0")][:ROUNDS]
    assert max(sent[1:]) < 0.21 * sent[0]
    assert result.summary["consensus_accuracy"] is not None


@pytest.mark.processes
def test_mixing_by_samples_reaches_the_weighted_mean(tmp_path: Path) -> None:
    topology = make_topology("path", 4)
    split = {"partition": "quantity:square", "mixing": "samples", "consensus_tolerance": 1e-4}
    config = RunConfig.of(**PLAIN, **split, run_dir=str(tmp_path / "run"))
    result = run_swarm(topology, config)
    reference = Reference(topology, config)
    shares = torch.tensor(reference.sizes) / sum(reference.sizes)
    assert shares.max() > 10 * shares.min()
    matrix = mixing_matrix(topology, "samples", reference.sizes)
    w = torch.from_numpy(matrix).float()
    xs = reference.start.repeat(4, 1)
    for step in range(ROUNDS):
        xs = w @ (xs - reference.lr * reference.gradients(xs, step))
    found = saved_vectors(tmp_path / "run", topology, ROUNDS)
    assert_close(found, xs, reference.start)
    weighted, plain = shares @ found, found.mean(dim=0)
    model = build_model("vgg11", num_classes=10, norm="none", width=0.125)
    model.load_state_dict(load_file(result.run_dir / "consensus.safetensors"))
    layout = Layout.of(model)
    consensus = aligned_vector(layout.size)
    layout.bind(model, consensus)
    assert (consensus - weighted).norm() < 0.01 * (weighted - plain).norm(), "the mean by samples, not the plain one"
    assert result.summary["consensus_rounds"] == consensus_rounds(matrix, 1e-4)
    assert result.summary["spectral_gap"] == pytest.approx(spectral_gap(matrix))


def process_swarm(topology: Topology, config: RunConfig) -> Path:
    return run_swarm(topology, config).run_dir


@pytest.mark.processes
@pytest.mark.parametrize("wire_dtype", ["fp32", "bf16"])
def test_same_seed_same_bits_whatever_carries_them(tmp_path: Path, wire_dtype: str) -> None:
    # A star of six: the middle peer has five neighbors, more than it grants credit at once.
    topology = make_topology("star", 6)
    ways: dict[str, tuple[Callable[[Topology, RunConfig], Path], str]] = {
        "memory": (memory_swarm, "ipc"),
        "ipc": (process_swarm, "ipc"),
        "tcp": (process_swarm, "tcp"),
    }
    results = {}
    for name, (start, transport) in ways.items():
        options = {**LIVELY, "wire_dtype": wire_dtype, "transport": transport, "rounds": 2}
        run_dir = start(topology, RunConfig.of(**options, run_dir=str(tmp_path / name)))
        results[name] = (saved_vectors(run_dir, topology, 2), load_file(run_dir / "consensus.safetensors"))
    vectors, consensus = results["memory"]
    assert not torch.equal(vectors[0], vectors[1])
    for other_vectors, other_consensus in results.values():
        assert torch.equal(other_vectors, vectors)
        assert other_consensus.keys() == consensus.keys()
        assert all(torch.equal(other_consensus[key], consensus[key]) for key in consensus)


@pytest.mark.processes
def test_mixing_keeps_the_mean_and_reaches_the_tolerance(tmp_path: Path) -> None:
    topology = make_topology("path", 4)
    config = RunConfig.of(**LIVELY, wire_dtype="bf16", run_dir=str(tmp_path / "run"), consensus_tolerance=1e-2)
    result = run_swarm(topology, config)
    before = saved_vectors(result.run_dir, topology, ROUNDS)
    model = build_model("vgg11", num_classes=10, norm="batch", width=0.125)
    model.load_state_dict(load_file(result.run_dir / "consensus.safetensors"))
    layout = Layout.of(model)
    consensus = aligned_vector(layout.size)
    layout.bind(model, consensus)
    mean = before.mean(dim=0)
    distance = ((before - mean) ** 2).sum(dim=1).mean().sqrt()
    assert (consensus - mean).norm() <= 1e-2 * distance * topology.n**0.5
    summary = result.summary
    assert summary["consensus_rounds"] == consensus_rounds(mixing_matrix(topology, "metropolis-hastings"), 1e-2)
    assert summary["final_consensus_distance"] <= 1e-2 * summary["consensus_distance"] * 1.1
    assert summary["consensus_distance"] == pytest.approx(float(distance), rel=0.1)


@pytest.mark.processes
def test_every_file_of_the_run_directory_is_there(tmp_path: Path) -> None:
    topology = make_topology("ring", 3)
    result = run_swarm(topology, RunConfig.of(**LIVELY, run_dir=str(tmp_path / "run")))
    names = {path.name for path in result.run_dir.iterdir()}
    assert names >= {"config.toml", "topology.graphml", "peers", "consensus.safetensors", "summary.json"}
    assert names >= {"report.html", "plots"}
    for peer in "012":
        folder = result.run_dir / "peers" / peer
        assert {path.name for path in folder.iterdir()} >= {"rounds.jsonl", "log.txt", "checkpoint"}
        records = read_rounds(folder)
        assert [record.round for record in records] == list(range(1, len(records) + 1))
        parts = [r.train_seconds + r.exchange_seconds + r.wait_seconds + r.evaluate_seconds for r in records]
        assert all(part <= record.seconds + 0.01 for part, record in zip(parts, records, strict=True))
        size = records[0].bytes_sent
        assert size > 0
        assert sum(records[0].sent_to.values()) == size
    assert result.summary["peers"] == 3
    assert result.summary["optimizer_steps_per_peer"] == ROUNDS * LIVELY["local_steps"]


@pytest.mark.processes
def test_a_shorter_demo_learns_the_digits(tmp_path: Path) -> None:
    options = {"dataset": "digits", "model": "vgg11", "width": 0.25, "rounds": 4, "batch_size": 32, "lr": 0.02}
    result = run_swarm(make_topology("ring", 4), RunConfig.of(**options, run_dir=str(tmp_path / "run")))
    assert result.summary["consensus_accuracy"] >= 0.95
    assert np.isfinite(result.summary["test_loss"])
