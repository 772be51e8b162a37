"""Topologies from raw graphs: links, directions, names, all problems at once."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.support.raw_graphs import raw_graph as raw

from p2pfl.errors import TopologyError
from p2pfl.topology import Topology, make_topology
from p2pfl.topology.checks import MAX_PEERS, check_graph
from p2pfl.topology.formats.edge_lists import read_adjacency_list, read_edge_list
from p2pfl.topology.graph import topology_from
from p2pfl.topology.links import clean_weight
from p2pfl.topology.naming import name_nodes, unique_names
from p2pfl.topology.raw import RawEdge, RawGraph, RawNode


def built(graph: RawGraph) -> Topology:
    return topology_from(graph, name="t", source="t")


def said(graph: RawGraph) -> str:
    with pytest.raises(TopologyError) as caught:
        built(graph)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("graph", "edges", "directed"),
    [
        (raw("ab ba bc"), [(0, 1, None), (1, 2, None)], False),
        (raw("ab:1 ba:1.0 bc"), [(0, 1, 1.0), (1, 2, None)], False),
        (raw("ab ba bc cb", directed=True), [(0, 1, None), (1, 2, None)], False),
        (raw("ba:.5 ab:0.5", directed=True), [(0, 1, 0.5)], False),
        (raw("ab:.5 ba:.25", directed=True), [(0, 1, 0.5), (1, 0, 0.25)], True),
        (raw("ab:.5 ba", directed=True), [(0, 1, 0.5), (1, 0, None)], True),
        (raw("ab bc ca", directed=True), [(0, 1, None), (1, 2, None), (2, 0, None)], True),
        (raw("a-b b-c", directed=True), [(0, 1, None), (1, 2, None)], False),
        (raw("a-b:2 bc ca", directed=True), [(0, 1, 2.0), (1, 0, 2.0), (1, 2, None), (2, 0, None)], True),
        (raw("a>b b>a"), [(0, 1, None)], False),
        (raw("a>b bc ca"), [(0, 1, None), (0, 2, None), (1, 2, None), (2, 0, None), (2, 1, None)], True),
    ],
)  # fmt: skip
def test_directions(graph: RawGraph, edges: list[tuple[object, ...]], directed: bool) -> None:
    topology = built(graph)
    assert (list(topology.graph.edges(data="weight")), topology.directed) == (edges, directed)
    ways = {graph.directed if edge.directed is None else edge.directed for edge in graph.edges}
    turned = True in ways and not directed
    assert any("treated as undirected" in note for note in topology.notes) == turned


@pytest.mark.parametrize(
    ("graph", "parallel"),
    [
        (raw("ab ab"), "'a' -- 'b' is given 2 times"),
        (raw("ab ba ab"), "'a' -- 'b' is given 3 times"),
        (raw("ab:1 ba:2"), "'a' -- 'b' is given 2 times, with different weights"),
        (raw("ab:1 ba"), "'a' -- 'b' is given 2 times, with different weights"),
        (raw("ab ab ba", directed=True), "'a' -> 'b' is given 2 times"),
        (raw("a-b ab", directed=True), "'a' -> 'b' is given 2 times"),
        (raw("ab ab bc cb bc"), "'a' -- 'b' is given 2 times (and 1 more link)"),
    ],
)
def test_parallel_edges(graph: RawGraph, parallel: str) -> None:
    assert [(problem.text, problem.option) for problem in check_graph(graph).problems] == [
        (f"parallel edges: {parallel}", "--merge-parallel")
    ]


def test_all_troubles_are_named_at_once() -> None:
    text = said(raw("aa ab ab cc de", nodes="abcd"))
    for part in ("self-loops on nodes 'a' and 'c'", "'a' -- 'b' is given 2 times", "ends at 'e'", "is disconnected"):
        assert part in text
    many = raw(" ".join(f"{node}{node}" for node in "abcdef") + " ab bc cd de ef")
    assert "self-loops on nodes 'a', 'b', 'c' and 3 more" in said(many)


@pytest.mark.parametrize(
    ("graph", "options"),
    [
        (raw("ab bc", directed=True), {"--undirected"}),
        (raw("ab ba bc cb de", directed=True), {"--largest-component"}),
        (raw("ab bc de ed", directed=True), {"--largest-component", "--undirected"}),
        (raw("aa bb", nodes="ab"), {"--drop-self-loops", None}),
        (raw("", nodes="ab"), {None}),
        (raw("", nodes="a"), {None}),
        (raw("ab bc cD", nodes="abcd"), {None}),  # a misspelled name: no reason to drop a peer
        (raw("ab bc cA", nodes="abc", directed=True), {None}),
    ],
)
def test_what_mends_a_graph_that_is_not_connected(graph: RawGraph, options: set[str | None]) -> None:
    assert {problem.option for problem in check_graph(graph).problems} == options


def test_a_first_line_that_joins_no_other_may_be_a_header() -> None:
    hint = (
        r"line 1 \('Alpha Beta'\) names two nodes that no other line has: if it is a header, delete it or write source"
    )
    for lines in ("Alpha Beta\nann bo\nbo cy\n", "ann bo\nbo cy\nAlpha Beta\n", "1 2\n3 4\n"):
        texts = " ".join(problem.text for problem in check_graph(read_edge_list(lines.encode(), "t")).problems)
        assert "disconnected" in texts
        assert bool(re.search(hint, texts)) == lines.startswith("Alpha")
    listed = read_adjacency_list(b"node neighbors\nann bo cy\n", "t")
    assert "line 1 ('node neighbors') names two nodes that no other line has" in check_graph(listed).problems[0].text


def test_an_empty_weight_is_none() -> None:
    assert [clean_weight(value) for value in ("", " ", None, "x", "2")] == [None, None, None, "x", 2.0]


def test_too_many_nodes_are_mended_if_the_largest_component_is_small_enough() -> None:
    alone = tuple(RawNode(f"n{i}") for i in range(MAX_PEERS))
    small = raw("ab bc")
    assert {t.option for t in check_graph(replace(small, nodes=small.nodes + alone)).problems} == {
        "--largest-component"
    }
    nodes = tuple(RawNode(str(i)) for i in range(MAX_PEERS + 1))
    path = tuple(RawEdge(str(i), str(i + 1)) for i in range(MAX_PEERS))
    assert [t.option for t in check_graph(RawGraph(False, nodes, path)).problems] == [None]
    assert check_graph(RawGraph(False, nodes[:-1], path[:-1])).problems == ()


# Names


@pytest.mark.parametrize(
    ("labels", "names", "note"),
    [
        ({"a": "Bo", "b": "Ann"}, ("Ann", "Bo"), "named by their labels ('Bo' and 'Ann'), not by their ids"),
        ({"a": "10", "b": "2"}, ("2", "10"), "named by their labels"),
        ({"a": "b", "b": "a"}, ("a", "b"), "named by their labels"),
        ({"a": "North\nWest", "b": "b"}, ("North West", "b"), "named by their labels"),
        ({"a": "a", "b": "b"}, ("a", "b"), ""),
        ({}, ("a", "b"), ""),
        ({"a": "x", "b": "x"}, ("a", "b"), "by their ids, not by their labels: 2 nodes are labeled 'x'"),
        ({"a": "x"}, ("a", "b"), "by their ids, not by their labels: node 'b' has none"),
        ({"a": "x", "b": " \n"}, ("a", "b"), "node 'b' has none"),
        ({"a": "x", "b": "y\a"}, ("a", "b"), "contains control characters"),
        ({"a": "x", "b": "é" * 50}, ("a", "b"), "is too long"),
    ],
)
def test_names(labels: dict[str, str], names: tuple[str, ...], note: str) -> None:
    topology = built(raw("ab", **labels))
    assert topology.names == names
    assert len(topology.notes) == bool(note)
    assert note in "".join(topology.notes)


def test_the_ids_of_gml_are_nobodys_names() -> None:
    naming = name_nodes(replace(raw("ab", a="Ann", b="Bo"), format="GML"))
    assert (naming.names, naming.note) == (("Ann", "Bo"), None)


def test_labels_are_made_unique() -> None:
    graph = raw("ab bc cd de ef", a="x", b="x", c="x (2)", d="x", f="é" * 33)
    assert unique_names(graph) == ("x", "x (3)", "x (2)", "x (4)", "e", "é" * 33)
    names = unique_names(raw("ab bc", a="é" * 33, b="é" * 33, c="\a"))
    assert names[1] == "é" * 31 + " (2)"
    assert names[2] == "c"


def test_peers_keep_their_order_whatever_the_order_in_the_file() -> None:
    graph = raw("ab bc cd", a="p10", b="p9", c="q", d="P1")
    backwards = replace(graph, nodes=graph.nodes[::-1], edges=graph.edges[::-1])
    for topology in (built(graph), built(backwards)):
        assert topology.names == ("P1", "p9", "p10", "q")
        assert list(topology.graph.edges) == [(0, 3), (1, 2), (1, 3)]


def test_paths_of_all_peers_are_found_in_one_pass() -> None:
    topology = make_topology("path", MAX_PEERS)
    assert len({topology.node_path(peer) for peer in range(topology.n)}) == MAX_PEERS


def test_unusable_attributes_are_all_named() -> None:
    nodes = (
        RawNode("a", attributes={"port": "x", "host": "my host"}),
        RawNode("b", attributes={"device": 3}),
        RawNode("c"),
    )
    text = said(RawGraph(False, nodes, (RawEdge("a", "b"), RawEdge("b", "c"), RawEdge("c", "c"))))
    spaced = RawNode("b", attributes={"device": "\n cpu \n", "public_key": " "})
    topology = built(RawGraph(False, (RawNode("a"), spaced), (RawEdge("a", "b"),)))
    assert topology.graph.nodes[1] == {"device": "cpu"}
    for part in ("port 'x' of node 'a'", "host 'my host' of node 'a'", "device 3 of node 'b'", "self-loop on node 'c'"):
        assert part in text
