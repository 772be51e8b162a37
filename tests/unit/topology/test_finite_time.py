"""Finite-time averaging on one graph: products, growth, order, refusals."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from p2pfl.cli import main
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.topology import (
    FiniteTime,
    Topology,
    build_topology,
    finite_time,
    make_topology,
    mixing_matrices,
    mixing_matrix,
    period_matrix,
    save_topology,
    schedule_convergence,
)

ROUNDS = {"ring-8": 4, "ring-7": 3, "star-9": 2, "chain-6": 5, "hypercube-16": 4, "complete-5": 1, "chain-2": 1}


def graph(name: str) -> Topology:
    kind, _, n = name.rpartition("-")
    return make_topology(kind, int(n))


def grid(rows: int, columns: int) -> Topology:
    return build_topology(nx.grid_2d_graph(rows, columns), name="grid", source="grid")


@pytest.mark.parametrize("name", ROUNDS)
def test_a_period_is_the_exact_mean_along_the_graphs_own_edges(name: str) -> None:
    topology = graph(name)
    n, w = topology.n, mixing_matrix(topology)
    matrices = mixing_matrices(topology, "finite-time")
    assert len(matrices) == ROUNDS[name]
    for one in matrices:
        np.testing.assert_allclose(one.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_array_equal(one, one.T)
        others = ~np.eye(n, dtype=bool)
        np.testing.assert_array_equal(one[others] > 0, w[others] > 0)
    np.testing.assert_allclose(period_matrix(matrices), 1 / n, atol=1e-12)
    later = matrices[1:] + matrices[:1]
    np.testing.assert_allclose(period_matrix(later), 1 / n, atol=1e-12, err_msg="from any round on")


def test_a_grid_with_eigenvalues_of_all_sizes() -> None:
    matrices = mixing_matrices(grid(3, 4), "finite-time")
    assert 3 < len(matrices) <= 11
    np.testing.assert_allclose(period_matrix(matrices), 1 / 12, atol=1e-10)


@pytest.mark.parametrize("topology", [graph("ring-8"), graph("star-9"), grid(3, 3)])
def test_convergence_and_growth_are_norms_of_the_products(topology: Topology) -> None:
    found = finite_time(mixing_matrix(topology))
    matrices, mean = found.matrices, np.full((topology.n, topology.n), 1 / topology.n)
    plain = schedule_convergence(matrices)
    np.testing.assert_allclose(found.convergence.contractions, plain.contractions, atol=1e-10)
    np.testing.assert_allclose(found.convergence.shares, plain.shares, atol=1e-10)
    assert found.convergence.exact == found.rounds == found.convergence.rounds(1e-3)
    assert found.convergence.gap == 1.0
    windows = [
        np.linalg.norm(period_matrix([*matrices, *matrices][start : start + length]) - mean, 2)
        for start in range(found.rounds)
        for length in range(1, found.rounds + 1)
    ]
    assert found.growth == pytest.approx(max(windows))


def test_leja_order_keeps_what_a_period_enlarges_small() -> None:
    found = finite_time(mixing_matrix(graph("ring-16")))
    descending = np.argsort(-found.eigenvalues)
    other = FiniteTime(found.w, found.eigenvalues[descending], found.counts[descending])
    assert (found.growth, max(found.convergence.contractions)) == pytest.approx((25.27, 6.07), abs=0.01)
    assert other.growth > 300


def test_growth_where_peers_are_missing() -> None:
    """Half of the leaves of a star of 16 are lost: eigenvalue 1/2 of I − W."""
    found = finite_time(mixing_matrix(graph("star-16")))
    assert found.growth_with_losses == pytest.approx(abs(1 - 16 / 2) * (1 - 1 / 2), abs=0.05)
    assert finite_time(mixing_matrix(graph("ring-16"))).growth_with_losses == 1.0


def test_the_order_does_not_depend_on_the_last_digits() -> None:
    """Machines that round differently null the eigenvalues in the same order."""
    generator = np.random.default_rng(0)
    for name in ("hypercube-16", "ring-12", "torus-16", "star-9"):
        w = mixing_matrix(graph(name))
        noise = generator.uniform(-1e-14, 1e-14, w.shape)
        one, other = finite_time(w), finite_time(w + noise + noise.T)
        np.testing.assert_allclose(one.eigenvalues, other.eigenvalues, atol=1e-12)
        np.testing.assert_array_equal(one.counts, other.counts)


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (make_topology("exponential", 6), "exponential-6: finite-time weights need an undirected graph; use --mixing"),
        (make_topology("base-k", 5), "base-2-5: finite-time weights are those of one graph, and this is a schedule of"),
        (
            graph("ring-200"),
            "ring-200: finite-time averaging, in 100 rounds, would enlarge .* more than 1,000 times in b",
        ),
    ],
)
def test_refusals(topology: Topology, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        mixing_matrices(topology, "finite-time")


def test_it_has_no_single_matrix() -> None:
    with pytest.raises(ConfigError, match="--mixing finite-time: has a matrix for each round; use mixing_matrices"):
        mixing_matrix(graph("ring-8"), "finite-time")


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ring.graphml"
    save_topology(graph("ring-8"), file)
    assert main(["topology", "show", str(file), "--mixing", "finite-time"]) == 0
    shown = capsys.readouterr().out
    assert "exact average: after 4 rounds, with finite-time weights" in shown
    assert "round   4:      0 % at worst" in shown
    assert "the consensus phase of a run takes 4 rounds and is exact" in shown
    assert "grows up to 5.83 times before it is nulled" in shown
    assert main(["topology", "show", str(file), "--mixing", "auto"]) == 0
    shown = capsys.readouterr().out
    assert "0.1953 with metropolis-hastings weights" in shown
    assert "final merge:   by Chebyshev's recurrence; --final-merge exact takes 4 rounds" in shown
