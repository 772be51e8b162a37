"""Base-(k+1) graphs: the stated rounds to the exact average, for every n."""

from __future__ import annotations

import numpy as np
import pytest

from p2pfl.topology import make_topology, mixing_matrices, schedule_convergence
from p2pfl.topology.base_graph import base_graph


@pytest.mark.parametrize(
    ("n", "degree", "rounds"),
    [
        *((8, 1, 3), (16, 1, 4), (20, 1, 7), (25, 1, 9), (32, 1, 5), (64, 1, 6), (100, 1, 11)),
        *((8, 2, 3), (16, 2, 4), (20, 2, 5), (25, 2, 6), (32, 2, 5), (64, 2, 6), (100, 2, 8)),
        *((8, 3, 2), (16, 3, 2), (20, 3, 4), (25, 3, 5), (32, 3, 3), (64, 3, 3), (100, 3, 6)),
    ],
)
def test_rounds_to_the_exact_average(n: int, degree: int, rounds: int) -> None:
    found = schedule_convergence(mixing_matrices(make_topology("base-k", n, degree=degree), "weights"))
    assert (found.exact, found.period, found.rounds(1e-3)) == (rounds, rounds, rounds)
    assert found.contractions[-2] > 0.1, "not sooner"


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_every_number_of_peers_averages_exactly_with_few_neighbors(k: int) -> None:
    for n in range(2, 70):
        product = np.eye(n)
        for edges in base_graph(n, k):
            w = np.zeros((n, n))
            for (i, j), weight in edges.items():
                assert i != j
                assert w[i, j] == 0
                w[i, j] = w[j, i] = weight
            assert (w > 0).sum(axis=0).max() <= k
            w[np.diag_indices(n)] = 1 - w.sum(axis=0)
            assert w.min() > -1e-12
            product = w @ product
        np.testing.assert_allclose(product, 1 / n, atol=1e-12)


def test_powers_of_two_give_the_hypercube() -> None:
    assert [sorted(edges) for edges in base_graph(4, 1)] == [[(0, 1), (2, 3)], [(0, 2), (1, 3)]]
    assert base_graph(6, 5) == [{(i, j): 1 / 6 for i in range(6) for j in range(i + 1, 6)}]
