"""Arrows, groups, hyperedges and weights in files of drawing tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.dialects import XML, gexf

from p2pfl.errors import TopologyError
from p2pfl.topology import load_topology
from p2pfl.topology.files import read_raw
from p2pfl.topology.raw import RawGraph

RING = ("a", "b"), ("b", "c"), ("c", "a")


def read(folder: Path, file: str, content: object) -> RawGraph:
    path = folder / file
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_raw(path)


def edges(raw: RawGraph) -> list[str]:
    ways = [raw.directed if edge.directed is None else edge.directed for edge in raw.edges]
    return [f"{e.source}{'>' if way else '-'}{e.target}" for e, way in zip(raw.edges, ways, strict=True)]


@pytest.mark.parametrize(
    "graph",
    [
        {"nodes": {"a": {}, "b": {}, "c": {}}, "hyperedges": [{"nodes": ["a", "b", "c"]}]},
        {"nodes": ["a", "b", "c"], "edges": [["a", "b"]], "hyperedges": [{"source": ["a"], "target": ["b", "c"]}]},
    ],
)
def test_hyperedges_are_refused(tmp_path: Path, graph: dict[str, object]) -> None:
    for value in (graph, {"graph": graph}):
        with pytest.raises(TopologyError, match="a hyperedge joins any number of nodes; write it as edges between two"):
            read(tmp_path, "a.json", value)


def test_an_edge_of_three_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="has no usable 'source'"):
        read(tmp_path, "a.json", {"nodes": ["a", "b", "c"], "edges": [["a", "b", "c"]]})
    assert read(tmp_path, "a.json", {"nodes": ["a", "b"], "edges": [["a", "b", "0.5"]]}).edges[0].weight == "0.5"


def test_ids_that_are_written_as_fractions_are_the_whole_numbers(tmp_path: Path) -> None:
    value = {"nodes": [{"id": 1.0}, {"id": 2}], "links": [{"source": 1, "target": 2.0}]}
    assert edges(read(tmp_path, "a.json", value)) == ["1-2"]


def yed_gml(graphics: str, creator: str = 'Creator "yFiles"', more: str = "hierarchic 1") -> str:
    nodes = "".join(f'node [ id {i} label "{i}" graphics [ x 1.0 ] ]\n' for i in range(3))
    drawn = [graphics.format(i) for i in range(2)]
    links = "".join(f"edge [ source {i} target {i + 1} {text} ]\n" for i, text in enumerate(drawn))
    return f"{creator}\ngraph [ {more} directed 1\n{nodes}{links}]\n"


@pytest.mark.parametrize(
    ("graphics", "expected"),
    [
        ('graphics [ fill "#000" ]', ["0-1", "1-2"]),
        ('graphics [ fill "#000" targetArrow "standard" ]', ["0>1", "1>2"]),
        ('graphics [ sourceArrow "standard" targetArrow "none" ]', ["1>0", "2>1"]),
        ('graphics [ sourceArrow "delta" targetArrow "standard" ]', ["0-1", "1-2"]),
        ('graphics [ arrow "none" ]', ["0-1", "1-2"]),
        ('graphics [ arrow "first" ]', ["1>0", "2>1"]),
        ("", ["0>1", "1>2"]),
    ],
)
def test_edges_of_gml_point_where_their_arrows_do(tmp_path: Path, graphics: str, expected: list[str]) -> None:
    raw = read(tmp_path, "a.gml", yed_gml(graphics))
    assert edges(raw) == expected
    assert ("arrowhead" in "; ".join(raw.notes)) == ("-" in expected[0])


def test_edges_of_gml_are_drawn_with_arrows_only_where_the_file_says_so(tmp_path: Path) -> None:
    graphics = "graphics [ width 1.0 ]"
    assert edges(read(tmp_path, "a.gml", yed_gml(graphics, "Creator OGDF", ""))) == ["0>1", "1>2"]
    assert edges(read(tmp_path, "b.gml", yed_gml(graphics, "", "hierarchic 1"))) == ["0-1", "1-2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("edge [arrowhead=none]; a -> b", "a-b"),
        ("a -> b [dir=both, arrowtail=none]", "a>b"),
        ("a -> b [dir=both, arrowhead=none]", "b>a"),
        ("a -> b [dir=back, arrowtail=none]", "a-b"),
        ("a -> b [arrowtail=normal]", "a>b"),
    ],
)
def test_edges_of_dot_point_where_their_arrows_do(tmp_path: Path, text: str, expected: str) -> None:
    pytest.importorskip("pydot")
    assert edges(read(tmp_path, "a.dot", f"digraph {{ {text} }}")) == [expected]


def test_parents_of_gexf_are_groups(tmp_path: Path) -> None:
    nodes = '<node id="g"/>' + "".join(
        f'<node id="{node}"><parents><parent for="g"/></parents></node>' for node in "abc"
    )
    links = "".join(f'<edge source="{u}" target="{v}"/>' for u, v in RING)
    raw = read(tmp_path, "a.gexf", gexf("http://gexf.net/1.2draft", None, nodes, links))
    assert [node.id for node in raw.nodes] == ["a", "b", "c"]


def test_a_project_of_pajek_may_hold_partitions(tmp_path: Path) -> None:
    text = "*Network x\n*Vertices 2\n1 a\n2 b\n*Edges\n1 2\n*Partition p\n*Vertices 2\n1\n2\n*Vector v\n1\n"
    raw = read(tmp_path, "a.paj", text)
    assert (edges(raw), [node.label for node in raw.nodes]) == (["1-2"], ["a", "b"])
    first = "*Partition p\n*Vertices 2\n1\n2\n*Network x\n*Vertices 2\n1 a\n2 b\n*Edges\n1 2\n"
    assert edges(read(tmp_path, "b.paj", first)) == ["1-2"]
    with pytest.raises(TopologyError, match="several networks"):
        read(tmp_path, "c.paj", first + "*Network y\n*Vertices 2\n")


def test_weights_in_hexadecimal_are_numbers(tmp_path: Path) -> None:
    links = "".join(
        f'<edge source="{u}" target="{v}"><data key="w">{weight}</data></edge>'
        for (u, v), weight in zip(RING, ("0x1.8p+0", "-0X1P-2", "0x1p+99999"), strict=True)
    )
    nodes = "".join(f'<node id="{node}"/>' for node in "abc")
    (tmp_path / "a.graphml").write_text(
        XML.format(f'<key id="w" for="edge" attr.name="weight"/><graph edgedefault="undirected">{nodes}{links}</graph>')
    )
    graph = load_topology(tmp_path / "a.graphml").graph
    assert [graph.edges[pair]["weight"] for pair in ((0, 1), (1, 2), (0, 2))] == [1.5, -0.25, "0x1p+99999"]
