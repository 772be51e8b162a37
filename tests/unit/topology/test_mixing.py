"""Mixing matrices: doubly stochastic or refused; spectral gap, predicted rounds."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.helpers import ring_with_chord

from p2pfl.cli import main
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.registry import MIXINGS
from p2pfl.topology import (
    KINDS,
    Topology,
    consensus_rounds,
    is_reversible,
    is_symmetric,
    load_topology,
    make_topology,
    mean_keeping,
    mixing_bounds,
    mixing_matrix,
    mixing_rounds,
    neighborhood,
    push_weights,
    spectral_gap,
    stationary,
    without_edges,
)
from p2pfl.topology.graph import build_topology


def topology(*edges: tuple[object, ...], directed: bool = False) -> Topology:
    graph = nx.DiGraph() if directed else nx.Graph()
    for u, v, *weight in edges:
        graph.add_edge(u, v, **({"weight": weight[0]} if weight else {}))
    return build_topology(graph, name="t", source="t")


@pytest.mark.parametrize(
    ("kind", "n", "mixing", "gap"),
    [
        ("ring", 8, "metropolis-hastings", 0.1953),
        ("ring", 16, "metropolis-hastings", 0.0507),
        ("torus", 16, "metropolis-hastings", 0.4),
        ("hypercube", 8, "metropolis-hastings", 0.5),
        ("hypercube", 16, "metropolis-hastings", 0.4),
        ("star", 8, "metropolis-hastings", 0.125),
        ("complete", 8, "metropolis-hastings", 1.0),
        ("exponential", 16, "uniform", 0.4),
    ],
)
def test_spectral_gap(kind: str, n: int, mixing: str, gap: float) -> None:
    assert spectral_gap(mixing_matrix(make_topology(kind, n), mixing)) == pytest.approx(gap, abs=5e-5)


def test_max_degree_weighs_all_edges_alike() -> None:
    w = mixing_matrix(make_topology("star", 4), "max-degree")
    np.testing.assert_allclose(w[0], [0.25, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(w[1], [0.25, 0.75, 0, 0])
    path = topology((0, 1), (1, 2), (2, 3))
    np.testing.assert_allclose(mixing_matrix(path, "max-degree"), mixing_matrix(path))


@pytest.mark.parametrize(
    ("network", "same_as"),
    [
        (topology((0, 1, 0.5), (1, 2, 0.25)), "weights"),
        (topology((0, 1, 5.0), (1, 2, 7.5)), "metropolis-hastings"),
        (topology((0, 1, 0.5), (1, 2)), "metropolis-hastings"),
        (make_topology("exponential", 8), "uniform"),
        (topology((0, 1), (1, 2), (2, 0), (0, 3), (3, 0), directed=True), "max-degree"),
    ],
)
def test_automatic_weights(network: Topology, same_as: str) -> None:
    np.testing.assert_array_equal(mixing_matrix(network, "auto"), mixing_matrix(network, same_as))


def test_automatic_weights_of_a_graph_that_no_weights_fit() -> None:
    with pytest.raises(TopologyError, match="uniform mixing needs equal degrees"):
        mixing_matrix(topology((0, 1), (1, 2), (2, 0), (1, 0), directed=True), "auto")


def test_max_degree_keeps_the_mean_of_a_balanced_directed_graph() -> None:
    cycle_and_detour = topology((0, 1), (1, 2), (2, 0), (0, 3), (3, 0), directed=True)
    w = mixing_matrix(cycle_and_detour, "max-degree")
    np.testing.assert_allclose(w.sum(axis=0), 1)
    np.testing.assert_allclose(w.sum(axis=1), 1)
    assert (w[1, 0], w[0, 1], w[1, 1]) == (pytest.approx(1 / 3), 0.0, pytest.approx(2 / 3))
    assert mean_keeping(cycle_and_detour) == "max-degree"
    for mixing in ("uniform", "metropolis-hastings"):
        with pytest.raises(TopologyError, match="use --mixing max-degree, each peer sends to as many"):
            mixing_matrix(cycle_and_detour, mixing)


def test_spectral_gap_of_the_undirected_exponential_graph() -> None:
    graph = make_topology("exponential", 16).graph.to_undirected()
    w = mixing_matrix(build_topology(graph, name="t", source="t"))
    assert spectral_gap(w) == pytest.approx(0.5)


def usable(kind: str, n: int, seed: int) -> Topology:
    try:
        return make_topology(kind, n, seed=seed)
    except TopologyError:
        assume(False)
        raise AssertionError from None


networks = st.builds(usable, st.sampled_from(sorted(KINDS)), st.integers(2, 20), st.integers(0, 9))


def matrix(network: Topology) -> np.ndarray:
    return mixing_matrix(network, "uniform" if network.directed else "metropolis-hastings")


@settings(deadline=None, max_examples=60)
@given(network=networks)
def test_mixing_is_doubly_stochastic_and_follows_the_edges(network: Topology) -> None:
    w = matrix(network)
    assert w.dtype == np.float64
    assert w.min() >= 0
    np.testing.assert_allclose(w.sum(axis=0), 1, atol=1e-12)  # columns: the mean of the peers is preserved
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-12)
    assert is_symmetric(w) == (not network.directed or is_symmetric(nx.to_numpy_array(network.graph)))
    for i in range(network.n):
        local = neighborhood(w, i)
        receives_from = network.graph.predecessors(i) if network.directed else network.graph.neighbors(i)
        assert list(local.incoming) == sorted(receives_from)
        assert list(local.outgoing) == sorted(network.graph.neighbors(i))
        assert local.self_weight + sum(local.incoming.values()) == pytest.approx(1)
        assert local.self_weight + sum(local.outgoing.values()) == pytest.approx(1)


def mixed_plainly(w: np.ndarray, x: np.ndarray, rounds: int) -> np.ndarray:
    return np.linalg.matrix_power(w, rounds) @ x


def mixed_with_chebyshev(w: np.ndarray, x: np.ndarray, rounds: int) -> np.ndarray:
    """x_k = T_k(W/λ) x / T_k(1/λ), by the three-term recurrence of both."""
    rate = 1 - spectral_gap(w)
    if rate == 0:
        return mixed_plainly(w, x, rounds)
    before, now = x, w @ x
    scale_before, scale = 1.0, 1 / rate
    for _ in range(rounds - 1):
        scale_next = 2 / rate * scale - scale_before
        before, now = now, (2 / rate * scale * (w @ now) - scale_before * before) / scale_next
        scale_before, scale = scale, scale_next
    return now


def shrunk(w: np.ndarray, mix: object, rounds: int) -> float:
    """The factor by which the worst disagreement has shrunk after these rounds."""
    x = np.eye(len(w)) - 1 / len(w)
    return float(np.linalg.norm(mix(w, x, rounds), 2)) if rounds else 1.0  # type: ignore[operator]


@settings(deadline=None, max_examples=60)
@given(network=networks, tolerance=st.sampled_from([0.3, 1e-2, 1e-3, 1e-5]))
def test_predicted_rounds_are_enough_and_one_less_is_not(network: Topology, tolerance: float) -> None:
    w = matrix(network)
    mix = mixed_with_chebyshev if is_symmetric(w) else mixed_plainly
    rounds, plain = consensus_rounds(w, tolerance), mixing_rounds(w, tolerance)
    assert rounds <= plain
    assert shrunk(w, mixed_plainly, plain) <= tolerance * (1 + 1e-6)
    assert shrunk(w, mix, rounds) <= tolerance * (1 + 1e-6)
    if is_symmetric(w) and rounds > 1:
        assert shrunk(w, mixed_plainly, plain - 1) > tolerance * (1 - 1e-6)
        # T_k is 1 at the end of the spectrum where λ is attained, so the bound is exact there.
        assert shrunk(w, mix, rounds - 1) > tolerance * (1 - 1e-6)


undirected = networks.filter(lambda network: not network.directed)


@settings(deadline=None, max_examples=60)
@given(network=undirected, seed=st.integers(0, 99), tolerance=st.sampled_from([0.3, 1e-2, 1e-3]))
def test_mixing_by_samples_preserves_the_weighted_mean(network: Topology, seed: int, tolerance: float) -> None:
    sizes = np.random.default_rng(seed).integers(1, 400, network.n)
    w, shares = mixing_matrix(network, "samples", sizes.tolist()), sizes / sizes.sum()
    assert w.min() >= 0
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(shares @ w, shares, atol=1e-12)
    np.testing.assert_allclose(stationary(w), shares, rtol=1e-6)
    assert is_reversible(w)
    edges = {(i, j) for i, j in network.graph.edges} | {(j, i) for i, j in network.graph.edges}
    assert {(int(i), int(j)) for i, j in zip(*np.nonzero(w), strict=True) if i != j} == edges
    # The second eigenvalue of W itself, whose eigenvalues are those of the symmetrized matrix.
    second = sorted(np.abs(np.linalg.eigvals(w)))[-2] if network.n > 1 else 0.0
    assert spectral_gap(w) == pytest.approx(1 - second, abs=1e-7)
    rounds, plain = consensus_rounds(w, tolerance), mixing_rounds(w, tolerance)
    assert rounds <= plain
    for mix, number in ((mixed_plainly, plain), (mixed_with_chebyshev, rounds)):
        apart = mix(w, np.eye(network.n) - 1 / network.n, number)
        assert np.linalg.norm(apart - apart.mean(axis=0), 2) <= tolerance * (1 + 1e-6)
    bounds = mixing_bounds(w, rounds)
    assert bounds["plain"][0] >= 1
    if "chebyshev" in bounds:
        assert bounds["chebyshev"][-1] <= tolerance * max(bounds["plain"][0], 1) * (1 + 1e-6)


@settings(deadline=None, max_examples=20)
@given(network=undirected, size=st.integers(1, 50))
def test_equal_shards_mix_as_without_weights(network: Topology, size: int) -> None:
    plain = mixing_matrix(network, "metropolis-hastings")
    for sizes in (None, [size] * network.n):
        np.testing.assert_allclose(mixing_matrix(network, "samples", sizes), plain, atol=1e-12)


def test_edges_that_are_cut_keep_the_weighted_mean() -> None:
    sizes = [3, 50, 7, 100]
    w = without_edges(mixing_matrix(make_topology("complete", 4), "samples", sizes), [(0, 1), (2, 3)])
    np.testing.assert_allclose(np.array(sizes) @ w, sizes)


def test_mixing_by_samples_needs_an_undirected_graph() -> None:
    with pytest.raises(TopologyError, match="samples needs an undirected graph"):
        mixing_matrix(make_topology("exponential", 8), "samples", [1] * 8)


@pytest.mark.parametrize(
    ("kind", "n", "plain", "accelerated"),
    [("ring", 8, 32, 12), ("ring", 16, 133, 24), ("complete", 4, 1, 1), ("path", 2, 1, 1)],
)
def test_rounds(kind: str, n: int, plain: int, accelerated: int) -> None:
    w = mixing_matrix(make_topology(kind, n))
    assert (mixing_rounds(w, 1e-3), consensus_rounds(w, 1e-3)) == (plain, accelerated)


def test_whole_numbers_of_rounds_are_not_rounded_up() -> None:
    w = mixing_matrix(make_topology("hypercube", 8))  # shrinks by exactly 1/2
    assert [mixing_rounds(w, 0.5**k) for k in (1, 2, 3, 10)] == [1, 2, 3, 10]


def test_tiny_tolerance_and_bad_tolerance() -> None:
    w = mixing_matrix(make_topology("ring", 8))
    assert 0 < consensus_rounds(w, 5e-324) < mixing_rounds(w, 5e-324)
    for tolerance in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            consensus_rounds(w, tolerance)


def test_weights_from_the_file() -> None:
    w = mixing_matrix(topology((0, 1, 0.5), (1, 2, 0.25)), "weights")
    np.testing.assert_allclose(w, [[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]])


def test_directed_weights_are_with_the_receiver() -> None:
    edges = [(0, 1, 0.3), (1, 2, 0.3), (2, 0, 0.3), (0, 2, 0.1), (2, 1, 0.1), (1, 0, 0.1)]
    w = mixing_matrix(topology(*edges, directed=True), "weights")
    np.testing.assert_allclose(w, [[0.6, 0.1, 0.3], [0.3, 0.6, 0.1], [0.1, 0.3, 0.6]])
    assert neighborhood(w, 0).incoming == pytest.approx({1: 0.1, 2: 0.3})
    assert neighborhood(w, 0).outgoing == pytest.approx({1: 0.3, 2: 0.1})
    assert consensus_rounds(w, 1e-3) == mixing_rounds(w, 1e-3)  # not symmetric: no acceleration


def test_weights_that_add_up_almost_exactly_leave_nothing_negative() -> None:
    third = 0.3333334
    w = mixing_matrix(
        topology((0, 1, third), (1, 2, third), (2, 0, third), (0, 3, third), (1, 3, third), (2, 3, third)),
        "weights",
    )
    assert w.diagonal().min() == 0.0


@pytest.mark.parametrize(
    ("network", "mixing", "message"),
    [
        (make_topology("ring", 4), "magic", "--mixing magic: choose one of metropolis-hastings"),
        (make_topology("star", 4), "uniform", "needs equal degrees.*; use --mixing metropolis-hastings"),
        (make_topology("exponential", 8), "metropolis-hastings", "undirected graph; use --mixing uniform"),
        (
            topology((0, 1), (1, 2), (2, 0), (1, 0), directed=True),
            "metropolis-hastings",
            "give all peers equal in- and out-degrees and use --mixing uniform, or make it undirected",
        ),
        (
            topology((0, 1), (1, 2), (2, 0), (1, 0), directed=True),
            "uniform",
            "give all peers equal in- and out-degrees, or make it undirected",
        ),
        (
            topology((0, 1), (1, 2), (2, 0), (1, 0), directed=True),
            "max-degree",
            "needs peers that send to as many as they receive from, .*; add edges, or make it undirected",
        ),
        (topology((0, 1, 0.5), (1, 2)), "weights", "the edge '1' – '2' has no weight"),
        (topology((0, 1, -0.5)), "weights", "weight -0.5 of the edge '0' – '1' must be a finite number"),
        (topology((0, 1, "heavy")), "weights", "weight 'heavy' of the edge '0' – '1' must be a finite"),
        (topology((0, 1, True)), "weights", "weight 'True' of the edge"),
        (topology((0, 1, 0.6), (1, 2, 0.6)), "weights", "the weights into '1' add up to 1.2; at most 1"),
        (
            topology((0, 1, 0.5), (1, 2, 0.5), (2, 0, 0.4), directed=True),
            "weights",
            "the self-weight of '0' and the weights out of it add up to 1.1 instead of 1",
        ),
    ],
)
def test_refusals(network: Topology, mixing: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixing_matrix(network, mixing)


def test_weights_that_never_mix_have_no_number_of_rounds() -> None:
    w = mixing_matrix(topology((0, 1, 1.0)), "weights")  # the two swap without end
    assert spectral_gap(w) == 0.0
    for rounds in (mixing_rounds, consensus_rounds):
        with pytest.raises(TopologyError, match="never brings the peers together"):
            rounds(w, 1e-3)


def test_every_mixing_agrees_on_a_regular_graph() -> None:
    graph = nx.cycle_graph(5)
    nx.set_edge_attributes(graph, 1 / 3, "weight")
    network = build_topology(graph, name="t", source="t")
    for mixing in (name for name, entry in MIXINGS.items() if not entry.by_round):
        np.testing.assert_allclose(mixing_matrix(network, mixing), mixing_matrix(network), atol=1e-12)


@pytest.mark.parametrize("directed", [False, True])
def test_the_gap_of_many_peers_is_that_of_all_eigenvalues(directed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gap of a larger graph is computed without the other eigenvalues.

    Unless the graph mixes too slowly for that, as a ring.
    """
    monkeypatch.setattr("p2pfl.topology.spectrum.DENSE", 10)
    monkeypatch.setattr("p2pfl.topology.spectrum.STEPS", 40)
    for jumps in ([1], [1, 7, 20, 31], range(1, 90)):
        graph = nx.circulant_graph(90, jumps, create_using=nx.DiGraph if directed else nx.Graph)
        w = mixing_matrix(build_topology(graph, name="t", source="t"), "uniform")
        assert spectral_gap(w) == pytest.approx(1 - np.linalg.norm(w - 1 / 90, 2), abs=1e-10)


def test_the_rounds_of_push_sum_are_the_first_after_which_peers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once for few peers, one after the other for many, with estimates."""
    p = mixing_matrix(ring_with_chord(24), "column-stochastic")
    power, expected = np.eye(24), 0
    while np.linalg.norm(power / power.sum(1, keepdims=True) - 1 / 24) > 1e-3:
        power, expected = p @ power, expected + 1
    assert mixing_rounds(p, 1e-3) == consensus_rounds(p, 1e-3) == expected
    bounds = mixing_bounds(p, expected)["plain"]
    assert bounds[expected] <= 1e-3 < bounds[expected - 1]
    gap = 1 - np.sort(np.abs(np.linalg.eigvals(p)))[-2]
    assert spectral_gap(p) == pytest.approx(gap)
    assert push_weights(p).sum() == pytest.approx(24)
    np.testing.assert_allclose(p @ push_weights(p), push_weights(p))
    monkeypatch.setattr("p2pfl.topology.push_spectrum.DENSE", 10)
    assert mixing_rounds(p, 1e-3) == pytest.approx(expected, rel=0.1)
    assert spectral_gap(p) == pytest.approx(gap, rel=0.1)
    monkeypatch.setattr("p2pfl.topology.push_spectrum.MAX_ROUNDS", expected // 2)
    assert mixing_rounds(p, 1e-3) == pytest.approx(expected, rel=0.1)


def uneven(folder: Path) -> Path:
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")])
    nx.write_graphml(graph, folder / "a.graphml")
    return folder / "a.graphml"


def test_a_directed_graph_of_unequal_degrees_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = uneven(tmp_path), tmp_path / "a.png"
    assert main(["topology", "show", str(file), "-o", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "3 peers, 4 edges, directed" in printed
    assert f"p2pfl topology fix {file} -o {tmp_path / 'a-fixed.graphml'} --undirected" in printed
    assert picture.stat().st_size > 0
    assert "push-sum:      --algorithm push-sum --mixing column-stochastic needs neither" in printed
    assert main(["topology", "show", str(file), "--mixing", "uniform"]) == 2
    assert main(["topology", "show", str(file), "--mixing", "column-stochastic"]) == 0
    assert "rounds of push-sum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((None, None, None), ""),
        ((0.25, 0.25, 0.25), "not used here; --mixing weights uses them"),
        (
            (1.0, 1.0, 1.0),
            "not used here, and unusable with --mixing weights: the weights into 'a' add up to 2; at most",
        ),
        ((0.25, None, 0.25), "not used here, and unusable with --mixing weights: the edge 'b' – 'c' has no weight;"),
    ],
    ids=["none", "usable", "too large", "of some edges"],
)
def test_show_says_what_the_weights_in_a_file_are_good_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: tuple[float | None, ...], said: str
) -> None:
    file = tmp_path / "t.json"
    ends = [("a", "b"), ("b", "c"), ("c", "a")]
    edges = [
        {"source": u, "target": v, **({} if weight is None else {"weight": weight})}
        for (u, v), weight in zip(ends, weights, strict=True)
    ]
    file.write_text(json.dumps({"nodes": [{"id": name} for name in "abc"], "edges": edges}))
    assert main(["topology", "show", str(file)]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("file weights: ")]
    assert [line.startswith(f"file weights:  {said}") for line in shown] == [True] * bool(said), shown
    assert main(["topology", "show", str(file), "--mixing", "metropolis-hastings"]) == 0
    assert "file weights" not in capsys.readouterr().out, "another mixing was asked for"


@pytest.mark.parametrize("mixing", ["uniform", "metropolis-hastings"])
def test_a_refused_mixing_of_a_directed_graph_names_the_command(tmp_path: Path, mixing: str) -> None:
    file = uneven(tmp_path)
    with pytest.raises(TopologyError, match=r"p2pfl topology fix \S+ -o \S+ --undirected"):
        mixing_matrix(load_topology(file), mixing)
