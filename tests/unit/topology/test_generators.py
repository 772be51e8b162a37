"""Generators: exactly n peers, connected, seeded; refusals name a possible value."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.errors import TopologyError
from p2pfl.topology import KINDS, make_topology

RANDOM = ("random-regular", "small-world", "erdos-renyi")


def fits(kind: str, n: int) -> bool:
    smallest = {"ring": 3, "random-regular": 5, "small-world": 5}
    sides = [side for side in range(3, n // 3 + 1) if n % side == 0]
    special = {"torus": bool(sides), "hypercube": bin(n).count("1") == 1}
    return n >= smallest.get(kind, 2) and special.get(kind, True)


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(sorted(KINDS)), n=st.integers(2, 33), seed=st.integers(0, 3))
def test_exactly_n_connected_peers_or_a_reason(kind: str, n: int, seed: int) -> None:
    if not fits(kind, n):
        with pytest.raises(TopologyError, match=f"^{kind}: "):
            make_topology(kind, n, seed=seed)
        return
    topology = make_topology(kind, n, seed=seed)
    assert topology.n == topology.graph.number_of_nodes() == n
    assert topology.name == f"{kind}-{n}"
    assert topology.names == tuple(str(i) for i in range(n))
    assert list(topology.graph) == list(range(n))
    assert topology.directed == (kind == "exponential" and n > 3)  # of 2 or 3 everybody sends to everybody
    connected = nx.is_strongly_connected if topology.directed else nx.is_connected
    assert connected(topology.graph)


@pytest.mark.parametrize(
    ("kind", "n", "edges"),
    [
        ("ring", 4, {(0, 1), (0, 3), (1, 2), (2, 3)}),
        ("path", 3, {(0, 1), (1, 2)}),
        ("chain", 3, {(0, 1), (1, 2)}),
        ("star", 4, {(0, 1), (0, 2), (0, 3)}),
        ("complete", 3, {(0, 1), (0, 2), (1, 2)}),
        ("hypercube", 4, {(0, 1), (0, 2), (1, 3), (2, 3)}),
        ("tree", 5, {(0, 1), (0, 2), (1, 3), (1, 4)}),
        ("double-binary-tree", 2, {(0, 1)}),
        ("double-binary-tree", 4, {(0, 2), (1, 2), (2, 3), (1, 3), (0, 1)}),
        ("exponential", 4, {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 0), (3, 0), (3, 1)}),
    ],
)
def test_edges(kind: str, n: int, edges: set[tuple[int, int]]) -> None:
    assert set(make_topology(kind, n).graph.edges) == edges


@pytest.mark.parametrize("n", [*range(2, 20), 31, 32, 33, 64, 100])
def test_a_double_binary_tree_has_two_shallow_trees_with_other_inner_peers(n: int) -> None:
    """The first tree's edges are those of the rule.

    The second has the inner peers that the first lacks.
    """
    graph = make_topology("double-binary-tree", n).graph
    assert max(degree for _, degree in graph.degree()) <= 4
    parents = {peer: (peer & (peer - 1)) | ((peer & -peer) << 1) for peer in range(1, n)}
    first = nx.Graph((peer, up if up < n else peer & (peer - 1)) for peer, up in parents.items())
    move = (lambda peer: (peer + 1) % n) if n % 2 else (lambda peer: n - 1 - peer)
    second = nx.relabel_nodes(first, {peer: move(peer) for peer in range(n)})
    assert {frozenset(edge) for tree in (first, second) for edge in tree.edges} == {frozenset(e) for e in graph.edges}
    for tree in (first, second):
        assert nx.is_tree(tree)
        assert nx.diameter(tree) <= 2 * n.bit_length()
    roots = {0, move(0)}
    assert all(first.degree(peer) == 1 or second.degree(peer) == 1 for peer in set(range(n)) - roots)


def test_torus_is_the_most_square_grid() -> None:
    graph = make_topology("torus", 24).graph
    assert {degree for _, degree in graph.degree()} == {4}
    assert sorted(graph[0]) == [1, 5, 6, 18]  # 4 rows of 6
    assert nx.is_isomorphic(make_topology("torus", 16).graph, make_topology("hypercube", 16).graph)


@pytest.mark.parametrize("kind", RANDOM)
def test_seeded(kind: str) -> None:
    edges = [set(make_topology(kind, 12, seed=seed).graph.edges) for seed in (1, 1, 2)]
    assert edges[0] == edges[1]
    assert edges[0] != edges[2]


def test_degree_and_probability_are_honored() -> None:
    regular = make_topology("random-regular", 10, degree=3)
    assert {degree for _, degree in regular.graph.degree()} == {3}
    lattice = make_topology("small-world", 10, degree=4, probability=0.0)
    assert set(lattice.graph[0]) == {1, 2, 8, 9}
    assert make_topology("erdos-renyi", 6, probability=1.0).graph.number_of_edges() == 15


@pytest.mark.parametrize(
    ("kind", "n", "options", "message"),
    [
        ("rng", 8, {}, "kind 'rng' is unknown; use one of ring, path"),
        ("path", 1, {}, "n is 1; it must be from 2 to 4096"),
        ("complete", 10**9, {}, "n is 1000000000; it must be from 2"),
        ("ring", 2, {}, "at least 3 peers, not 2; use path"),
        ("torus", 8, {}, "8 is not rows × columns with both at least 3; nearest n: 9$"),
        ("torus", 17, {}, "nearest n: 16 or 18$"),
        ("hypercube", 12, {}, "needs a power of two, not 12; nearest n: 8 or 16$"),
        ("random-regular", 4, {}, "degree is 4; with 4 peers it must be from 1 to 3"),
        ("random-regular", 7, {"degree": 3}, "n × degree must be even, not 7 × 3"),
        ("random-regular", 6, {"degree": 1}, "none of 100 random graphs was connected; take a larger degree"),
        ("small-world", 4, {}, "degree is 4; with 4 peers it must be even and from 2 to 3"),
        ("small-world", 9, {"degree": 3}, "degree is 3; with 9 peers it must be even"),
        ("erdos-renyi", 9, {"probability": 0.0}, "none of 100 random graphs .* larger probability than 0"),
        ("erdos-renyi", 9, {"probability": 1.5}, "probability is 1.5; it must be from 0 to 1"),
    ],
)
def test_refusals(kind: str, n: int, options: dict[str, float], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        make_topology(kind, n, **options)
