"""Schedules of graphs: files, checks with reasons, generators, convergence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from p2pfl.cli import main
from p2pfl.errors import TopologyError
from p2pfl.topology import (
    SCHEDULES,
    FixOptions,
    build_schedule,
    check_publishable,
    exact_by_weights,
    fix_file,
    influence_rounds,
    load_topology,
    make_topology,
    mean_keeping,
    mixing_matrices,
    publish,
    save_topology,
    schedule_convergence,
)
from p2pfl.topology.files import difference
from p2pfl.topology.formats.writers import EDGES

NODES = [{"id": name} for name in "abcd"]
PAIRS = [[["a", "b"], ["c", "d"]], [["b", "c"]]]


def written(folder: Path, value: Any) -> Path:
    path = folder / "s.json"
    path.write_text(json.dumps(value))
    return path


def listed(pairs: list[list[list[Any]]] = PAIRS, **head: Any) -> dict[str, Any]:
    return {"nodes": NODES, "schedule": [{"edges": edges} for edges in pairs], **head}


# Files


def test_nodes_once_and_the_edges_of_each_round(tmp_path: Path) -> None:
    found = load_topology(written(tmp_path, listed()))
    assert found.names == ("a", "b", "c", "d")
    assert [sorted(graph.edges) for graph in found.rounds] == [[(0, 1), (2, 3)], [(1, 2)]]
    assert sorted(found.graph.edges) == [(0, 1), (1, 2), (2, 3)]
    assert (found.is_schedule, found.directed) == (True, False)
    assert [one.source for one in found.by_round] == [f"{tmp_path / 's.json'}: graph {n} of 2" for n in (1, 2)]


def test_a_list_of_graphs_as_networkx_writes_them(tmp_path: Path) -> None:
    first, second = nx.Graph([("a", "b", {"weight": 0.25})]), nx.DiGraph([("b", "c"), ("c", "a"), ("a", "b")])
    first.add_nodes_from("abc", device="cpu")
    value = [nx.node_link_data(graph, **{EDGES: "edges"}) for graph in (first, second)]
    found = load_topology(written(tmp_path, value))
    assert [graph.is_directed() for graph in found.rounds] == [False, True]
    assert found.rounds[0].edges[0, 1]["weight"] == 0.25
    assert (found.directed, found.graph.number_of_edges()) == (True, 4)
    assert found.graph.nodes[2] == {"device": "cpu"}


@pytest.mark.parametrize(
    ("kind", "n", "options"),
    [
        ("one-peer-exponential", 12, {}),
        ("one-peer-exponential", 2, {}),
        ("base-k", 7, {"degree": 2}),
        ("random-matching", 7, {"period": 9, "seed": 4}),
        ("random-regular", 8, {"period": 3, "degree": 3}),
    ],
)
def test_a_written_schedule_is_read_back_and_its_kind_is_seeded(
    tmp_path: Path, kind: str, n: int, options: dict[str, int]
) -> None:
    topology = make_topology(kind, n, **options)
    save_topology(topology, tmp_path / "s.json")
    assert difference(topology, load_topology(tmp_path / "s.json")) is None
    assert difference(topology, make_topology(kind, n, **options)) is None
    assert topology.n == n
    if kind.startswith("random"):
        assert difference(topology, make_topology(kind, n, **{**options, "seed": 99})) == "these edges"
        assert len(topology.rounds) == options["period"]


def test_one_peer_exponential_graphs() -> None:
    rounds = make_topology("one-peer-exponential", 8).rounds
    assert [sorted(graph.edges)[:2] for graph in rounds] == [[(0, 1), (1, 2)], [(0, 2), (1, 3)], [(0, 4), (1, 5)]]
    assert len(make_topology("one-peer-exponential", 100).rounds) == 7


def test_random_graphs_of_each_round() -> None:
    matching = make_topology("random-matching", 9, period=20)
    assert {graph.number_of_edges() for graph in matching.rounds} == {4}
    assert all(max(degree for _, degree in graph.degree()) == 1 for graph in matching.rounds)
    assert len(make_topology("random-matching", 9).rounds) == 32
    regular = make_topology("random-regular", 10, degree=3, period=4)
    assert {degree for graph in regular.rounds for _, degree in graph.degree()} == {3}
    assert not make_topology("random-regular", 10, degree=3, period=1).is_schedule


@pytest.mark.parametrize(
    ("kind", "n", "options", "message"),
    [
        ("base-k", 8, {"degree": 8}, "base-k: degree is 8; with 8 peers it must be from 1 to 7"),
        ("random-matching", 8, {"period": 0}, "period is 0; it must be from 1 to 4096 graphs"),
        (
            "random-matching",
            8,
            {"period": 1},
            "none of 100 draws of 1 graph connected all peers; take a longer period",
        ),
        ("ring", 8, {"period": 3}, "ring: has no period; random-matching and random-regular draw a graph"),
        ("random-regular", 7, {"degree": 3, "period": 3}, "n × degree must be even, not 7 × 3"),
        ("sequence", 8, {}, "use one of ring, .*, one-peer-exponential, base-k, random-matching$"),
    ],
)
def test_refused_generators(kind: str, n: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        make_topology(kind, n, **options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"schedule": []}, "'schedule' must be a list of graphs, one for each round"),
        ({"schedule": {"edges": []}}, "'schedule' must be a list of graphs"),
        ({"nodes": [0, 1], "edges": [[0, 1]], "schedule": [{"edges": [[0, 1]]}]}, "'edges' stands beside 'schedule'"),
        ({"schedule": [{"edges": []}] * 4097}, "lists 4097 graphs; at most 4096 are supported"),
        ({"schedule": [{"edges": []}]}, "graph 1 of 1: node-link JSON is an object with the lists 'nodes' and 'edges'"),
        (listed([[["a", "b"]], [["c"]]]), r"graph 2 of 2: \[\"c\"\] has no usable"),
        (listed(window=0), "'window' is 0; it must be a number of rounds, at least 1"),
        (listed([[["a", "b"]], [["c", "d"]]]), "the union of the 2 graphs is disconnected: 'c' and 1 more cannot be"),
        (listed([[], []]), "the union of the 2 graphs is disconnected: no edge joins two nodes"),
        (
            listed([[["a", "b"], ["b", "c"]], [["c", "d"], ["d", "b"]]], directed=True),
            "the union of the 2 graphs is not strongly connected: 'a' cannot be reached from 'b'",
        ),
        (listed([*PAIRS, [["a", "a"]]]), "graph 3: self-loop on node 'a'.*repairs single graphs only: correct the sch"),
        (listed([*PAIRS, [["a", "z"]]]), "graph 3: the edge 'a' – 'z' ends at 'z', which is not among the nodes"),
        (listed([*PAIRS, [["a", "b"], ["a", "b"]]]), "graph 3: parallel edges: 'a' -- 'b' is given 2 times"),
        (listed([PAIRS[0], PAIRS[1], *[[["a", "a"]]] * 5]), "graph 5: self-loop.*; 2 more problems of single graphs"),
        (
            [{"nodes": NODES, "edges": PAIRS[0] + PAIRS[1]}, {"nodes": NODES[:3], "edges": []}],
            "graph 2 lacks the node 'd', unlike graph 1: all graphs need the same nodes",
        ),
        (
            [{"nodes": NODES[:3], "edges": [["a", "b"], ["b", "c"]]}, {"nodes": NODES, "edges": []}],
            "graph 2 has the node 'd', unlike graph 1",
        ),
        (
            [{"nodes": NODES, "edges": PAIRS[0] + PAIRS[1]}, {"nodes": [{**n, "port": 5} for n in NODES], "edges": []}],
            "graph 2: port of node 'a' is not that of graph 1: give it once, in the first graph",
        ),
        (
            {"nodes": [{**NODES[0], "host": "x"}, *NODES[1:]], "schedule": [{"edges": PAIRS[0] + PAIRS[1]}]},
            "node 'a' has no port",
        ),
        (
            listed([PAIRS[0], PAIRS[1], PAIRS[0]], window=2),
            "the window of 2 rounds from graph 3 on is disconnected: 'c' and 1 more cannot be reached from 'a'",
        ),
    ],
)
def test_refused_files(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(TopologyError, match=message) as refused:
        load_topology(written(tmp_path, value))
    assert str(refused.value).startswith(str(tmp_path / "s.json"))
    assert "topology fix " not in str(refused.value)


def test_a_schedule_that_keeps_its_window(tmp_path: Path) -> None:
    found = load_topology(written(tmp_path, listed(window=2)))
    assert found.window == 2
    save_topology(found, tmp_path / "t.json")
    assert difference(found, load_topology(tmp_path / "t.json")) is None


def test_more_numbers_than_a_process_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.topology.checks.MAX_ENTRIES", 100)
    with pytest.raises(TopologyError, match="4 graphs of 16 peers are more than one process can hold"):
        make_topology("one-peer-exponential", 16)


def test_only_json_holds_a_schedule_and_nothing_repairs_one(tmp_path: Path) -> None:
    topology = make_topology("base-k", 5)
    with pytest.raises(TopologyError, match=r"s.graphml: only .json can hold a schedule"):
        save_topology(topology, tmp_path / "s.graphml")
    save_topology(topology, tmp_path / "s.json")
    with pytest.raises(TopologyError, match="a schedule of 5 graphs, of which none is repaired or converted"):
        fix_file(tmp_path / "s.json", tmp_path / "new.json", FixOptions())
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("shape", ["shared", "within", "list"])
def test_public_keys_are_written_into_every_shape(tmp_path: Path, shape: str) -> None:
    graphs = [{"nodes": [dict(node) for node in NODES], "edges": edges} for edges in PAIRS]
    value = {"shared": listed(), "within": {"schedule": graphs}, "list": graphs}[shape]
    path = written(tmp_path, value)
    check_publishable(path, renew=False)
    before = load_topology(path)
    publish(path, {name: f"key of {name}" for name in "abcd"})
    after = load_topology(path)
    assert after.graph.nodes[3]["public_key"] == "key of d"
    assert [list(graph.edges) for graph in after.rounds] == [list(graph.edges) for graph in before.rounds]


# Mixing and convergence


def test_each_graph_has_its_own_matrix() -> None:
    first, second = mixing_matrices(
        build_schedule([nx.Graph([(0, 1), (1, 2)]), graph_of([(0, 2)], 3)], name="s", source="s")
    )
    np.testing.assert_allclose(first[0], [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(second, [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])


def graph_of(edges: list[tuple[int, int]], n: int) -> nx.Graph:
    graph = nx.Graph(edges)
    graph.add_nodes_from(range(n))
    return graph


def test_a_mixing_that_does_not_fit_names_the_graph() -> None:
    schedule = make_topology("one-peer-exponential", 8)
    with pytest.raises(TopologyError, match="one-peer-exponential-8: graph 1 of 3: metropolis-hastings needs an und"):
        mixing_matrices(schedule)


@pytest.mark.parametrize(
    ("kind", "n", "mixing"),
    [
        ("one-peer-exponential", 8, "uniform"),
        ("one-peer-exponential", 12, "uniform"),
        ("base-k", 6, "metropolis-hastings"),
        ("random-matching", 7, "metropolis-hastings"),
    ],
)
def test_mixing_that_keeps_the_mean_in_every_round(kind: str, n: int, mixing: str) -> None:
    topology = make_topology(kind, n)
    assert mean_keeping(topology) == mixing
    for w in mixing_matrices(topology, mixing):
        np.testing.assert_allclose([w.sum(axis=0), w.sum(axis=1)], 1, atol=1e-12)


def test_mixing_of_graphs_of_several_kinds() -> None:
    balanced = nx.DiGraph([(0, 1), (1, 2), (2, 0), (0, 3), (3, 0)])
    pairs = graph_of([(0, 1)], 4)
    assert mean_keeping(build_schedule([balanced, pairs], name="s", source="s")) == "max-degree"
    assert (
        mean_keeping(
            build_schedule([nx.DiGraph([(0, 1), (1, 2), (2, 0)]), graph_of([(0, 1)], 3)], name="s", source="s")
        )
        == "max-degree"
    )
    one_way = nx.DiGraph([(0, 1), (1, 2), (2, 0), (1, 0)])
    assert mean_keeping(build_schedule([one_way, graph_of([], 3)], name="s", source="s")) is None


@pytest.mark.parametrize("n", [4, 8, 16, 64])
def test_one_peer_exponential_graphs_average_exactly_for_powers_of_two(n: int) -> None:
    found = schedule_convergence(mixing_matrices(make_topology("one-peer-exponential", n), "uniform"))
    assert found.exact == found.period == n.bit_length() - 1
    assert found.gap == 1.0


def test_the_weights_of_the_file_are_needed_where_n_is_not_smooth() -> None:
    five, eight = make_topology("base-k", 5), make_topology("base-k", 8)
    assert (exact_by_weights(five), exact_by_weights(eight)) == (5, 3)
    assert schedule_convergence(mixing_matrices(five)).exact is None
    assert schedule_convergence(mixing_matrices(eight)).exact == 3
    assert exact_by_weights(make_topology("random-matching", 5)) is None


@pytest.mark.parametrize("tolerance", [0.3, 1e-3, 1e-7])
@pytest.mark.parametrize("mixing", ["metropolis-hastings", "samples"])
def test_predicted_rounds_are_enough(mixing: str, tolerance: float) -> None:
    sizes = [3, 50, 7, 100, 20, 20, 9] if mixing == "samples" else None
    matrices = mixing_matrices(make_topology("random-matching", 7, period=8), mixing, sizes)
    found = schedule_convergence(matrices)
    rounds = found.rounds(tolerance)
    left = np.eye(7)
    for number in range(rounds):
        left = matrices[number % 8] @ left
        assert np.linalg.norm(left - left.mean(axis=0), 2) <= found.ratio * found.bound(number + 1) * (1 + 1e-6)
    assert np.linalg.norm(left - left.mean(axis=0), 2) <= tolerance * (1 + 1e-6)
    if sizes is not None:
        np.testing.assert_allclose(left.mean(axis=0), np.array(sizes) / sum(sizes), atol=10 * tolerance)
    assert found.bound(rounds - 1) * found.ratio > tolerance * (1 - 1e-6)


def test_graphs_that_never_bring_peers_together() -> None:
    swap = nx.Graph()
    swap.add_edge(0, 1, weight=1.0)
    found = schedule_convergence(mixing_matrices(build_schedule([swap], name="s", source="s"), "weights"))
    with pytest.raises(TopologyError, match="never bring the peers together"):
        found.rounds(1e-3)


def test_rounds_in_which_each_vector_reaches_all() -> None:
    ring = mixing_matrices(make_topology("ring", 8))
    assert influence_rounds(ring) == 4
    assert influence_rounds(mixing_matrices(make_topology("one-peer-exponential", 8), "uniform")) == 3
    alternating = build_schedule([graph_of([(0, 1)], 3), graph_of([], 3), graph_of([(1, 2)], 3)], name="s", source="s")
    assert influence_rounds(mixing_matrices(alternating)) == 5, "0 to 2 from the second graph on"


# Commands


def test_make_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "base.json", tmp_path / "base.png"
    assert main(["topology", "make", "base-k", "-n", "5", "-o", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: a schedule of 5 graphs, 5 peers, 5 edges\n"
    assert main(["topology", "show", str(file), "-o", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "base: 5 peers, a schedule of 5 graphs, undirected\n" in printed
    assert "neighbors:     0 to 1 in a round, 1 to 3 in all rounds together\n" in printed
    assert "exact average: after 5 rounds, with the file's weights\n" in printed
    assert "round   5:      0 % at worst,      0 % of random vectors\n" in printed
    assert "the consensus phase of a run takes 5 rounds and is exact\n" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["topology", "show", str(file), "--mixing", "metropolis-hastings"]) == 0
    assert "not within the 5 rounds of a period, with metropolis-hastings weights" in capsys.readouterr().out


def test_a_long_schedule_is_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.json"
    assert main(["topology", "make", "random-matching", "-n", "26", "--period", "30", "-o", str(file)]) == 0
    assert main(["topology", "show", str(file), "-o", str(tmp_path / "m.svg")]) == 0
    printed = capsys.readouterr().out
    assert "round  15:" in printed
    assert "round  16:" not in printed
    assert "round  30:" in printed
    assert (tmp_path / "m.svg").stat().st_size > 0


def test_one_way_edges_without_weights_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edges = [[["a", "b"], ["b", "c"], ["c", "d"]], [["d", "a"]]]
    assert main(["topology", "show", str(written(tmp_path, listed(edges, directed=True)))]) == 0
    assert "no weights computed from the edges preserve the mean" in capsys.readouterr().out


def test_every_schedule_is_described() -> None:
    assert all(function.__doc__ for function in SCHEDULES.values())
