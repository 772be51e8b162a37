"""Finite-time averaging in vectors and simulated runs; runs without a merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.fault_scripts import fault
from tests.support.helpers import disagreement, driven, exchange, random_vectors

from p2pfl import RunConfig, make_topology
from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.errors import P2PFLError
from p2pfl.report import load_run, summarize
from p2pfl.report.warnings import collect_warnings
from p2pfl.run import checkpoint
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, peer_dirs
from p2pfl.run.records import read_rounds
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import Topology, build_topology, mixing_matrices, without_edges

TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "user_models:linear",
    "batch_size": 16,
    "local_steps": 1,
    "rounds": 5,
    "eval_every": 5,
    "eval_samples": 20,
    "threads": 1,
}
RING, SMALL = make_topology("ring", 8), make_topology("ring", 4)
GRID = build_topology(nx.grid_2d_graph(2, 3), name="grid", source="grid")
FINITE: dict[str, Any] = {"mixing": "finite-time"}


def dense(vectors: list[torch.Tensor]) -> np.ndarray:
    return np.stack([x.numpy() for x in vectors]).astype(np.float64)


def simulation(run_dir: Path, resume: Path | None = None, **options: Any) -> Simulation:
    return Simulation(SMALL, RunConfig.of(**{**TINY, **options}, run_dir=str(run_dir)), resume=resume)


def finished(run_dir: Path, **options: Any) -> Simulation:
    made = simulation(run_dir, **options)
    made.run()
    return made


@pytest.mark.parametrize("topology", [RING, make_topology("star", 6), make_topology("chain", 5), GRID])
@pytest.mark.parametrize("algorithm", [DPSGD(), DPSGD(overlapped=True), Chebyshev(0.0)])
def test_all_vectors_are_equal_after_a_period(topology: Topology, algorithm: Any) -> None:
    matrices = np.stack(mixing_matrices(topology, "finite-time"))
    vectors = random_vectors(topology.n, 200)
    mean, peers = dense(vectors).mean(axis=0), driven(algorithm, matrices, vectors)
    for round in range(1, len(matrices) + 1):
        assert disagreement(dense(vectors)) > 1e-3
        exchange(peers, round, vectors)
    np.testing.assert_allclose(dense(vectors), np.tile(mean, (topology.n, 1)), atol=2e-5)


@pytest.mark.parametrize("algorithm", [DPSGD(), Chebyshev(0.0)])
def test_a_missing_peer_leaves_the_mean_of_the_living(algorithm: Any) -> None:
    """The own vectors of its neighbors stand in for it, as without its edges."""
    matrices = np.stack(mixing_matrices(RING, "finite-time"))
    lost, vectors = 3, random_vectors(8, 50)
    expected, peers = dense(vectors), driven(algorithm, matrices, vectors)
    living = [peer for peer in range(8) if peer != lost]
    for round, w in enumerate(matrices, start=1):
        sent = {peer: peers[peer].outgoing(round) for peer in living}
        for me in living:
            for sender in sorted([*peers[me].schedule(round).incoming, me]):
                if sender == lost:
                    algorithm.missing(peers[me].state, sender, {"x": 0})
                else:
                    own = algorithm.own(peers[me].state)
                    peers[me].accumulate(sender, own if sender == me else sent[sender][me])
            vectors[me] = peers[me].finish(round)
        expected = without_edges(w, [(2, 3), (3, 4)]) @ expected
        np.testing.assert_allclose(dense(vectors)[living], expected[living], atol=2e-5)
    before = dense(random_vectors(8, 50))[living].mean(axis=0)
    np.testing.assert_allclose(dense(vectors)[living].mean(axis=0), before, atol=1e-5)
    assert disagreement(dense(vectors)[living]) < disagreement(dense(random_vectors(8, 50))[living])


@pytest.mark.parametrize("overlapped", [False, True])
def test_no_variance_becomes_negative_during_training(overlapped: bool) -> None:
    """Buffers are mixed by weights that are not negative, and keep their mean."""
    matrices, places = np.stack(mixing_matrices(RING, "finite-time")), (slice(0, 40),)
    vectors = [x.abs() ** 3 for x in random_vectors(8, 50)]
    mean, start = dense(vectors).mean(axis=0), disagreement(dense(vectors)[:, :40])
    peers = driven(DPSGD(overlapped, buffers=places), matrices, vectors)
    lowest = []
    for round in range(1, 9):
        exchange(peers, round, vectors)
        lowest.append(dense(vectors).min(axis=0))
        np.testing.assert_allclose(dense(vectors).mean(axis=0), mean, atol=1e-5)
    assert np.min(lowest, axis=0)[:40].min() >= 0.0 > np.min(lowest, axis=0)[40:].min()
    assert disagreement(dense(vectors)[:, :40]) < 0.2 * start, "about as fast as by W: 0.8047 to the power of 8"


def test_a_run_mixes_by_the_matrix_of_the_round(tmp_path: Path) -> None:
    """Five rounds are two periods and a half; the merge begins with the first matrix."""
    run = finished(tmp_path / "run", **FINITE)
    matrices, folders = mixing_matrices(SMALL, "finite-time"), peer_dirs(run.run_dir, SMALL)
    kept = [checkpoint.load(folder / CHECKPOINTS_FOLDER / "round-000005.safetensors") for folder in folders]
    sent = [next(iter(one.sent.values()))["x"] for one in kept]
    for peer, one in enumerate(kept):
        assert set(one.sent) == {(peer + 1) % 4, (peer - 1) % 4}
        expected = sum(matrices[0][peer, other] * sent[other].double() for other in range(4))
        torch.testing.assert_close(one.x.double(), expected, atol=1e-5, rtol=0)
    assert [path.name for path in sorted((folders[0] / CHECKPOINTS_FOLDER).iterdir())] == [
        "round-000004.safetensors",
        "round-000005.safetensors",
    ], "no more than on one graph"
    assert "5 rounds of training, then 2 of mixing only" in run.lines[0]
    assert "which give all peers the exact mean" in run.lines[0]
    found = summarize(run.run_dir)
    assert (found["final_merge"], found["consensus_rounds"], found["spectral_gap"]) == ("exact", 2, 1.0)
    assert found["final_consensus_distance"] < 1e-5 * found["consensus_distance"]


def test_a_period_of_exchanges_after_each_training_is_an_all_reduce(tmp_path: Path) -> None:
    """Along the links of a ring the peers train as on a complete graph."""
    ring = finished(tmp_path / "ring", gossip_steps=2, **FINITE)
    settings = RunConfig.of(**TINY, run_dir=str(tmp_path / "complete"))
    complete = Simulation(make_topology("complete", 4), settings)
    complete.run()
    trained = [
        checkpoint.load(folder / CHECKPOINTS_FOLDER / "round-000005.safetensors").x
        for run in (ring, complete)
        for folder in peer_dirs(run.run_dir, SMALL)
    ]
    for x in trained[1:]:
        torch.testing.assert_close(x, trained[0], atol=1e-5, rtol=0)
    apart = finished(tmp_path / "apart", **FINITE)
    assert summarize(apart.run_dir)["consensus_distance"] > 100 * summarize(ring.run_dir)["consensus_distance"]


def test_an_exact_final_merge_of_ordinary_training(tmp_path: Path) -> None:
    """The training rounds are those of any other final merge."""
    exact, usual = finished(tmp_path / "exact", final_merge="exact"), finished(tmp_path / "usual")
    distances = [summarize(run.run_dir) for run in (exact, usual)]
    assert [found["final_merge"] for found in distances] == ["exact", "chebyshev"]
    assert distances[0]["consensus_distance"] == distances[1]["consensus_distance"] > 0
    assert distances[0]["consensus_rounds"] == 2 < distances[1]["consensus_rounds"]
    assert distances[0]["final_consensus_distance"] < 1e-5 * distances[0]["consensus_distance"]
    models = [load_file(run.run_dir / MODEL_FILE) for run in (exact, usual)]
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [FINITE, {"final_merge": "none"}])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, stopped = finished(tmp_path / "whole", **options), simulation(tmp_path / "stopped", **options)
    while stopped.clock.now() < 2.5:
        assert stopped.step()
    stopped.workers[3].pause()
    while stopped.clock.now() < 5.0:
        assert stopped.step()
    stopped.close()
    resumed = simulation(stopped.run_dir, resume=stopped.run_dir, **options)
    resumed.run()
    for one, other in zip(*(peer_dirs(run.run_dir, SMALL) for run in (whole, resumed)), strict=True):
        vectors = [
            checkpoint.load(folder / CHECKPOINTS_FOLDER / "round-000005.safetensors").x for folder in (one, other)
        ]
        assert torch.equal(*vectors)
    if options == FINITE:
        one, two = (load_file(run.run_dir / MODEL_FILE) for run in (whole, resumed))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_final_merge_is_another_run(tmp_path: Path) -> None:
    stopped = simulation(tmp_path / "run")
    while stopped.clock.now() < 3.5:
        assert stopped.step()
    stopped.close()
    with pytest.raises(P2PFLError, match="of a run with other settings"):
        simulation(stopped.run_dir, resume=stopped.run_dir, final_merge="exact").run()


def test_a_lost_peer_costs_the_exactness_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(fault(kind="kill", peer="3", round=3))
    faulty = {"faults": str(tmp_path / "faults.toml"), "min_peers": 3, "round_timeout": 2.0, "grace_timeout": 2.0}
    found = summarize(finished(tmp_path / "run", **FINITE, **faulty).run_dir, lost_peers=["3"])
    assert found["status"] == "complete"
    assert 1e-6 < found["final_consensus_distance"] < found["consensus_distance"]


def test_no_final_merge(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", final_merge="none")
    assert run.lines[0] == "5 rounds of training, and no final merge"
    found = summarize(run.run_dir)
    expected = {"status": "complete", "final_merge": "none", "consensus_accuracy": None, "consensus_rounds": 0}
    assert {name: found[name] for name in expected} == expected
    assert found["mean_peer_accuracy"] > 0.1
    assert found["consensus_distance"] > 0
    assert found["final_consensus_distance"] is None
    assert not (run.run_dir / MODEL_FILE).exists()
    assert {own[-1].round for own in map(read_rounds, peer_dirs(run.run_dir, SMALL))} == {5}
    warnings = collect_warnings(load_run(run.run_dir), found)
    assert any(line.startswith("There was no final merge (--final-merge none)") for line in warnings)
    assert not any("was not finished" in line for line in warnings)
