"""Mixing matrices of push-sum: a file's column-stochastic weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

from p2pfl.cli import main
from p2pfl.cli.describe import describe_run
from p2pfl.config import RunConfig
from p2pfl.errors import TopologyError
from p2pfl.mixing import mixing_note
from p2pfl.modes import assign_roles
from p2pfl.preflight.mixing import mixing_notes
from p2pfl.topology import Topology, build_schedule, build_topology, make_topology, mixing_matrix, weights_text

PUSH: dict[str, Any] = {"algorithm": "push-sum", "mixing": "weights"}
SHARES = [("a", "b", 0.5), ("a", "c", 0.25), ("b", "c", 0.75), ("c", "a", 0.5)]


def weighted(edges: list[tuple[str, str, float]], source: str = "w.json") -> Topology:
    graph = nx.DiGraph()
    graph.add_weighted_edges_from(edges)
    return build_topology(graph, name="w", source=source)


def test_what_remains_of_a_senders_weights_is_its_own() -> None:
    w = mixing_matrix(weighted(SHARES), "weights", push_sum=True)
    np.testing.assert_allclose(w, [[0.25, 0, 0.5], [0.5, 0.25, 0], [0.25, 0.75, 0.5]])
    np.testing.assert_allclose(assign_roles(RunConfig.of(**PUSH), weighted(SHARES)).matrix, w)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (
            [("a", "b", 0.5), ("b", "c", 0.9), ("c", "a", 0.7), ("c", "b", 0.4)],
            r"the weights out of 'c' add up to 1.1, and push-sum needs less than 1, .* \(those into each peer do not "
            r"exceed 1: these seem to be weights of averages",
        ),
        ([("a", "b", 1.5), ("b", "a", 0.5)], "the weights out of 'a' add up to 1.5, and .* self-weight; make those"),
        ([("a", "b", 0.5), ("b", "a", 1.0)], "peer 'b' has no self-weight, and with --algorithm push-sum would"),
        ([("a", "b", -0.5), ("b", "a", 0.5)], "weight -0.5 of the edge 'a' – 'b' must be a finite number"),
        ([("a", "b", 0.5), ("b", "a", 0.0)], "the edge 'b' – 'a' has the weight 0, by which nothing travels; leave it"),
    ],
)
def test_refused_weights(edges: list[tuple[str, str, float]], message: str) -> None:
    with pytest.raises(TopologyError, match=message) as refused:
        assign_roles(RunConfig.of(**PUSH), weighted(edges))
    assert "\n" not in str(refused.value)


def test_edges_without_a_weight_are_refused() -> None:
    graph = nx.DiGraph([("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"), ("c", "a")])
    with pytest.raises(TopologyError, match="the edge 'a' – 'b' has no weight; give every edge one"):
        assign_roles(RunConfig.of(**PUSH), build_topology(graph, name="w", source="w"))


def test_a_graph_of_a_schedule_is_refused_by_its_number() -> None:
    one, two = nx.DiGraph(), nx.DiGraph()
    one.add_weighted_edges_from([("a", "b", 0.5)])
    two.add_weighted_edges_from([("b", "a", 1.0)])
    schedule = build_schedule([one, two], name="s", source="s.json")
    with pytest.raises(TopologyError, match=r"^s\.json: graph 2 of 2: peer 'b' has no self-weight"):
        assign_roles(RunConfig.of(**PUSH), schedule)
    assign_roles(RunConfig.of(algorithm="push-sum", mixing="column-stochastic"), schedule)


def test_other_algorithms_refuse_them_and_name_push_sum() -> None:
    with pytest.raises(TopologyError, match=r"instead of 1, so the mean .* drift; .*, or use --algorithm push-sum$"):
        assign_roles(RunConfig.of(mixing="weights"), weighted([("a", "b", 0.5), ("b", "a", 0.25)]))
    edges = [("a", "c", 0.4), ("b", "c", 0.7), ("c", "a", 0.4), ("c", "b", 0.5)]
    with pytest.raises(TopologyError, match=r"the weights into 'c' add up to 1\.1.*, or use --algorithm push-sum$"):
        assign_roles(RunConfig.of(mixing="weights"), weighted(edges))


def test_auto_takes_them_for_push_sum_and_fits_every_graph() -> None:
    auto = RunConfig.of(algorithm="push-sum", mixing="auto")
    assert mixing_notes(auto, weighted(SHARES))[0] == "--mixing auto takes the file's weights"
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")])
    plain = build_topology(graph, name="p", source="p")
    assert mixing_notes(auto, plain)[0] == "--mixing auto takes column-stochastic weights"
    np.testing.assert_array_equal(assign_roles(auto, plain).matrix, mixing_matrix(plain, "column-stochastic"))
    assert weights_text(make_topology("ring", 4), "auto", push_sum=True) == "metropolis-hastings weights"


def test_a_note_says_between_which_weights_peers_move_on_a_schedule() -> None:
    config = RunConfig.of(algorithm="push-sum", mixing="column-stochastic")
    assert mixing_note(config, make_topology("one-peer-exponential", 6)) is None
    graphs = [nx.DiGraph([("a", "b")]), nx.DiGraph([("b", "a")])]
    note = mixing_note(config, build_schedule(graphs, name="s", source="s"))
    assert note is not None
    assert note.startswith("the peers' weights of push-sum approach 0.667 to 1.33; a model moves by")


def written(folder: Path) -> Path:
    nodes = [{"id": name} for name in "abc"]
    edges = [{"source": u, "target": v, "weight": weight} for u, v, weight in SHARES]
    path = folder / "shares.json"
    path.write_text(json.dumps({"directed": True, "nodes": nodes, "edges": edges}))
    return path


def test_topology_show_describes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "show", str(written(tmp_path)), "--mixing", "weights"]) == 0
    printed = capsys.readouterr().out
    assert "with the file's weights" in printed
    assert "rounds of push-sum" in printed
    assert "final merge:   by push-sum" in printed
    assert main(["topology", "show", str(written(tmp_path))]) == 0
    expected = "file weights:  not used here; --algorithm push-sum --mixing weights uses them"
    assert expected in capsys.readouterr().out


def test_topology_show_describes_a_schedule_of_push_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, rounds = ["a", "b", "c"], [[["a", "b"]], [["b", "c"], ["c", "a"], ["b", "a"]]]
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"directed": True, "nodes": nodes, "schedule": [{"edges": one} for one in rounds]}))
    assert main(["topology", "show", str(path)]) == 0
    assert "push-sum:      --algorithm push-sum --mixing column-stochastic needs neither" in capsys.readouterr().out
    assert main(["topology", "show", str(path), "--mixing", "column-stochastic"]) == 0
    printed = capsys.readouterr().out
    assert "not within the 2 rounds of a period, with column-stochastic weights" in printed
    assert "rounds of push-sum, which the consensus phase of a run takes" in printed


def test_a_dry_run_says_that_the_merge_is_exact() -> None:
    config = RunConfig.of(dataset="digits", width=0.0625, algorithm="push-sum", mixing="column-stochastic")
    text = describe_run(make_topology("one-peer-exponential", 8), config)
    assert "8 peers, a schedule of 3 graphs, exact average after 3 rounds" in text
    assert "3 more rounds of mixing only" in text
    assert "; the exact mean, by push-sum on the schedule's graphs" in text
