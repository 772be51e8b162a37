"""Files of other tools: read with the meaning of the tool, or refused by name."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.dialects import ABC, DIALECTS, DOTS, GML, XML, Dialect, gexf
from tests.support.raw_files import check_refused, read

from p2pfl.errors import TopologyError
from p2pfl.topology import make_topology
from p2pfl.topology.files import load_topology, save_topology
from p2pfl.topology.formats.readers import ENDINGS
from p2pfl.topology.graph import build_topology
from p2pfl.topology.raw import RawGraph

same_folder = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shown(raw: RawGraph) -> tuple[list[str], list[str]]:
    """Nodes and edges in the words of `Dialect`; ends of undirected edges in order."""
    names = {node.id: (node.label or node.id).replace(" ", "_") for node in raw.nodes}
    edges = []
    for edge in raw.edges:
        ends = [names.get(edge.source, edge.source), names.get(edge.target, edge.target)]
        directed = raw.directed if edge.directed is None else edge.directed
        edges.append(">".join(ends) if directed else "-".join(sorted(ends)))
    return sorted(names.values()), sorted(edges)


def check(folder: Path, dialect: Dialect) -> None:
    raw = read(folder, dialect.file, dialect.content)
    edges = [edge if ">" in edge else "-".join(sorted(edge.split("-"))) for edge in dialect.edges.split()]
    assert shown(raw) == (sorted(dialect.nodes.split()), sorted(edges))
    assert dialect.note in "; ".join(raw.notes)
    assert (
        not raw.notes
        or dialect.note
        or "read as" in raw.notes[0]
        or "arrowhead" in raw.notes[0]
        or "directed" in raw.notes[0]
    )
    if dialect.weights:
        assert [str(edge.weight) for edge in raw.edges] == dialect.weights.split()


@pytest.mark.parametrize("name", DIALECTS)
def test_what_a_tool_writes_is_read(tmp_path: Path, name: str) -> None:
    check(tmp_path, DIALECTS[name])


@pytest.mark.parametrize("name", DOTS)
def test_dot_is_read(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pydot")
    check(tmp_path, DOTS[name])


def test_dot_without_pydot_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(TopologyError, match=r"a\.dot: DOT files need pydot.*; pip install 'p2pfl-swarm\[graphs\]'"):
        read(tmp_path, "a.dot", "graph { a -- b }")


REFUSALS = {
    "hyper.graphml": (XML.format(f"<graph>{ABC}<hyperedge/></graph>"), "hyperedge joins"),
    "two.graphml": (XML.format(f"<graph>{ABC}</graph><graph>{ABC}</graph>"), "holds 2 graphs"),
    "kind.graphml": (XML.format(f'<graph edgedefault="both">{ABC}</graph>'), "edgedefault 'both'"),
    "way.graphml": (XML.format(f'<graph>{ABC}<edge source="a" target="b" directed="x"/></graph>'), "directed 'x' of"),
    "nameless.graphml": (XML.format("<graph><node/></graph>"), "node 1 of the file has no id"),
    "open.graphml": (XML.format(f'<graph>{ABC}<edge source="a"/></graph>'), "edge 1 of the file has no target"),
    "svg.xml": ("<svg/>", "outermost element is <svg>"),
    "type.gexf": (gexf("http://gexf.net/1.3", "both", "", ""), "defaultedgetype 'both' must be one of"),
    "words.gml": ("graph [ node [ id 0 label New York ] ]", "line 1 has text without quotes: 'New' 'York'"),
    "cut.gml": (GML, "ends before all its lists"),
    "quote.gml": ('graph [ node [ id 0 label "a ] ]', "never closed"),
    "way.gml": ("graph [ directed yes ]", "'directed' is 'yes'"),
    "tree.json": (json.dumps({"name": "a", "children": [{"name": "b"}]}), "a hierarchy"),
    "both.json": (json.dumps({"nodes": ["a", "b"], "edges": [["a", "b"]], "links": [["b", "a"]]}), "both 'edges' and"),
    "outside.json": (json.dumps({"nodes": [{"name": "a"}, {"x": 1}], "links": []}), "has no usable 'id'"),
    "half.json": (json.dumps({"nodes": [{"id": 0}], "adjacency": []}), "one list for each of the 1 nodes"),
    "arrows.json": (
        json.dumps({"nodes": ["a", "b"], "edges": [{"from": "a", "to": "b", "arrows": "end"}]}),
        "'arrows' is",
    ),
    "flag.json": (
        json.dumps({"nodes": ["a", "b"], "edges": [{"source": "a", "target": "b", "directed": "yes"}]}),
        "must be tr",
    ),
    "count.txt": ("5\n0 1\n1 2\n", "line 1 is the number 5 alone, but 3 nodes and 2 edges"),
    "doubt.txt": ("5 4\n1 2\n2 3\n3 4\n4 5\n", "line 1 may be an edge or the numbers of nodes and edges"),
    "metis.txt": ("3 2\n2\n1 3\n2\n", "looks like METIS"),
    "metis.adjlist": ("4 4\n2 4\n1 3\n2 4\n1 3\n", "looks like METIS"),
    "matrix.csv": ("0,1,1\n1,0,1\n1,1,0\n", "looks like an adjacency matrix"),
    "matrix.edgelist": ("0 1 0 1\n1 0 1 0\n0 1 0 1\n1 0 1 0\n", "looks like an adjacency matrix"),
    "parent.csv": ("parent,child\nann,bo\nbo,parent\nchild,bo\n", "line 1 may be a header or an edge"),
    "flag.csv": ("source,target,directed\na,b,maybe\n", "line 2 has 'maybe' where 'directed' is to be true or false"),
    "named.tsv": ("id\tname\n1\tann\n2\tbo\n", "header of a table of nodes"),
    "value.mtx": (
        "%%MatrixMarket matrix coordinate real general\n2 2 1\n2 1 x\n",
        "the value 'x', which is not a number",
    ),
    "header.txt": ("source target\nsource b\nb c\n", "line 1 may be a header or an edge"),
    "unknown.csv": ("person,pet\n1,2\n2,3\n", "looks like a header"),
    "weighed.csv": ("person,friend,cost\na,b,1\nb,a,2\n", "looks like a header"),
    "people.csv": ("Id,Label\n1,Ann\n2,Bo\n", "header of a table of nodes"),
    "metis.edges": ("3 2 001\n2 5\n1 5 3 7\n2 7\n", "looks like METIS"),
    "lists.edges": ("5\n1 4\n0 2\n1 3\n2 4\n3 0\n", "looks like METIS"),
    "counted.txt": ("3\n0 1 2\n1 0 2\n2 0 1\n", "may be edges with weights or lists of neighbors"),
    "four.edgelist": ("0 1 2 3\n1 0 2 3\n2 0 1 3\n3 0 1 2\n", "may be lists of neighbors rather than edges"),
    "escaped.gml": ('graph [ node [ id 0 label "a \\"b\\"" ] ]', "within text; write it as &quot;"),
    "multi.adjlist": ("0 1\n1 {}\n1 1\n2 {}\n2 0\n", "looks like a multi-line adjacency list"),
    "long.txt": ("a " * 2**20 + "\n", "line 1 has 2097152 characters"),
    "long.adjlist": ("a " * 2**20 + "\n", "line 1 has 2097152 characters"),
    "kinds.csv": ("ann,bob,friend\nbob,cy,friend\n", "'friend' is not a weight"),
    "cytoscape.txt": ("a pp b\nb pp c\n", "'b' is not a weight"),
    "prose.txt": ("A graph is a set\nof nodes and edges\n", "line 1 is not an edge"),
    "arrows.txt": ("1 -> 2\n2 -> 3\n", "line 1 has '->' between labels"),
    "colons.adjlist": ("0: 1 2\n1: 2\n", "line 1 has ':' after '0'"),
    "tuples.txt": ("(0, 1)\n(0, 2)\n(1, 2)\n", "brackets around an edge"),
    "named.csv": (",a,b,c\na,0,1,0\nb,1,0,1\nc,0,1,0\n", "looks like an adjacency matrix"),
    "pandas.csv": ("a,b\na,0,1\nb,1,0\n", "looks like an adjacency matrix"),
    "r.txt": ('"from" "to"\n"1" "hub" "a"\n"2" "hub" "b"\n', "more fields than the header"),
    "broken.dot": ("digraph x\n{ a -> b }}\n", "not readable as DOT: '}' follows the end"),
    "arrow.dot": ("graph { a -> b }", "it has '->' in a graph"),
    "ambiguous.txt": ("0 1 2\n1 2 3\n2 3 0\n3 0 1\n", "may be edges with weights or lists of neighbors"),
    "relation.csv": ("a,b,friend\na,c,boss\n", "'friend' is not a weight"),
    "mixed.txt": ("a,b\nc d\n", "line 1 is separated by commas, other lines"),
    "comma.txt": ("a, b\nc d\n", "separated by commas, other lines are not"),
    "spaces.txt": ("0 2,1\n0 1,0.5\n1 2,0.5\n", "both commas and spaces"),
    "half-quote.txt": ('"New York\n"a b\n', "quotation mark without its other half"),
    "dimacs.txt": ("c x\np edge 3 2\ne 1 2\ne 2 3\n", "a file of DIMACS"),
    "ucinet.txt": ("dl n=3 format=edgelist1\ndata:\n1 2\n", "a file of UCINET DL"),
    "guess.txt": ("nodedef>name VARCHAR\na\n", "a file of GDF"),
    "trivial.txt": ("1 Ann\n2 Bo\n#\n1 2\n", "looks like Trivial Graph Format"),
    "bip.edges": ("% bip unweighted\n1 1\n2 1\n", "a bipartite network"),
    "data.txt": ("0 1\n1 {}\n1 0\n", "looks like a multi-line adjacency list"),
    "wide.mtx": ("%%MatrixMarket matrix coordinate pattern general\n2 3 1\n1 2\n", "is square"),
    "short.mtx": ("%%MatrixMarket matrix coordinate pattern general\n2 2 3\n1 2\n", "1 entries instead of 3"),
    "array.mtx": ("%%MatrixMarket matrix array real general\n1 1\n1\n", "of kind array real"),
    "other.net": ("*Vertices 2\n*Matrix\n0 1\n", "has 1 lines for 2 vertices"),
    "vertex.net": ('*Vertices 1\n2 "b"\n', "has the vertex '2'; \\*Vertices counts to 1"),
    "star.net": ("*Node data\na 1\n", "Pajek or UCINET without"),
}


@pytest.mark.parametrize("file", REFUSALS)
def test_what_may_be_misunderstood_is_refused(tmp_path: Path, file: str) -> None:
    content, message = REFUSALS[file]
    check_refused(tmp_path, file, content, message)


ENDLESS = {
    "comment": "/*" * 2**17,
    "quote": 'graph "' + '\\"' * 2**17,
    "blank": "\n" * 2**17 + "a",
    "spaces": "graph" + " " * 2**17 + '"',
    "header": "source " * 2**13,
    "leading": "/**/" * 2**16 + "a",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_not_searched_to_its_end_again_and_again(tmp_path: Path, name: str) -> None:
    """Searches in quadratic time would take longer than the whole suite."""
    for ending in ("txt", "dot"):
        (tmp_path / f"a.{ending}").write_text(ENDLESS[name])
        with pytest.raises(TopologyError, match=rf"a\.{ending}: "):
            load_topology(tmp_path / f"a.{ending}")


WRITERS: dict[str, Callable[[nx.Graph], str | bytes]] = {
    "plain.graphml": lambda graph: "\n".join(nx.generate_graphml(graph)),
    "named.graphml": lambda graph: "\n".join(nx.generate_graphml(graph, named_key_ids=True)),
    "plain.gml": lambda graph: "\n".join(nx.generate_gml(graph)),
    "text.gml": lambda graph: "\n".join(nx.generate_gml(graph, stringizer=str)),
    **{
        f"{version}.gexf": lambda graph, version=version: _gexf(graph, version)
        for version in ("1.1draft", "1.2draft", "1.3")
    },
    "edges.json": lambda graph: json.dumps(nx.node_link_data(graph, edges="edges")),
    "links.json": lambda graph: json.dumps(nx.node_link_data(graph, edges="links")),
    "adjacency.json": lambda graph: json.dumps(nx.adjacency_data(graph)),
    "cytoscape.json": lambda graph: json.dumps(nx.cytoscape_data(graph)),
    "pajek.net": lambda graph: "\n".join(nx.generate_pajek(graph)),
}
LINES: dict[str, Callable[[nx.Graph], str | bytes]] = {
    "data.edgelist": lambda graph: "\n".join(nx.generate_edgelist(graph)),
    "commas.edgelist": lambda graph: "\n".join(nx.generate_edgelist(graph, delimiter=",")),
    "bare.edgelist": lambda graph: "\n".join(nx.generate_edgelist(graph, data=False)),
    "tabs.csv": lambda graph: "\n".join(nx.generate_edgelist(graph, delimiter="\t", data=["weight"])),
    "plain.adjlist": lambda graph: "\n".join(nx.generate_adjlist(graph)),
}


def _gexf(graph: nx.Graph, version: str) -> bytes:
    buffer = io.BytesIO()
    nx.write_gexf(graph, buffer, version=version)
    return buffer.getvalue()


@st.composite
def graphs(draw: st.DrawFn, *, any_kind: bool) -> nx.Graph:
    """Graph of any kind with 2 to 6 named nodes of degree 1 and more.

    With weights and attributes of no use.
    """
    n = draw(st.integers(2, 6))
    kinds = (nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph) if any_kind else (nx.Graph,)
    graph = draw(st.sampled_from(kinds))()
    graph.add_nodes_from((f"p{i}" for i in range(n)), color="red", size=3)
    pairs = [(i, i + 1) for i in range(n - 1)]
    pairs += draw(
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] != p[1]), max_size=5)
    )
    for u, v in pairs:
        graph.add_edge(f"p{u}", f"p{v}", weight=draw(st.sampled_from([0.25, 0.5, 2.0])), kind="x")
    return graph


def expected(graph: nx.Graph) -> Counter[tuple[str, ...]]:
    edges = ((u, v) for u, v in graph.edges())
    return Counter(edge if graph.is_directed() else tuple(sorted(edge)) for edge in edges)


def found(raw: RawGraph) -> Counter[tuple[str, ...]]:
    names = {node.id: node.label or node.id for node in raw.nodes}
    edges = [(names[edge.source], names[edge.target]) for edge in raw.edges]
    return Counter(edge if raw.directed else tuple(sorted(edge)) for edge in edges)


@pytest.mark.filterwarnings("ignore:Node attribute:UserWarning")  # what Pajek cannot hold, says networkx
@pytest.mark.parametrize("file", WRITERS)
@same_folder
@given(graph=graphs(any_kind=True))
def test_what_networkx_writes_is_the_same_graph(tmp_path: Path, file: str, graph: nx.Graph) -> None:
    raw = read(tmp_path, file, WRITERS[file](graph))
    assert raw.directed == graph.is_directed()
    assert sorted(node.label or node.id for node in raw.nodes) == sorted(graph)
    assert found(raw) == expected(graph)
    weights = sorted(float(str(edge.weight)) for edge in raw.edges)
    assert weights == sorted(weight for *_, weight in graph.edges(data="weight"))


@pytest.mark.parametrize("file", LINES)
@same_folder
@given(graph=graphs(any_kind=False))
def test_lines_that_networkx_writes_are_the_same_graph(tmp_path: Path, file: str, graph: nx.Graph) -> None:
    raw = read(tmp_path, file, LINES[file](graph))
    assert found(raw) == expected(graph)
    assert file.startswith(("bare", "plain")) or all(edge.weight is not None for edge in raw.edges)


@pytest.mark.parametrize("ending", [*(e for e in ENDINGS if e not in (".dot", ".gv"))])
@same_folder
@given(
    data=st.binary(max_size=40), cut=st.integers(0, 200), at=st.integers(0, 400), name=st.sampled_from(sorted(DIALECTS))
)
def test_damage_is_read_or_refused_in_one_line(
    tmp_path: Path, ending: str, data: bytes, cut: int, at: int, name: str
) -> None:
    content = DIALECTS[name].content.encode()
    for mutated in (data, content[:at] + data + content[at + cut :]):
        said = f"{tmp_path / 't'}{ending}: "
        try:
            read(tmp_path, f"t{ending}", mutated or b" ")
        except TopologyError as error:
            said = str(error)
        assert said.startswith(f"{tmp_path / 't'}{ending}: ")
        assert "\n" not in said


def test_a_list_that_would_read_as_something_else_is_not_written(tmp_path: Path) -> None:
    for labels in (["source", "target", "x"], ['"a"', "b"], ["a,", "b"], ["%a", "b"]):
        graph = build_topology(nx.path_graph(labels), name="t", source="t")
        with pytest.raises(TopologyError, match=r"t\.edgelist: .*write it as \.graphml"):
            save_topology(graph, tmp_path / "t.edgelist")
    assert not list(tmp_path.iterdir())
    save_topology(make_topology("ring", 5), tmp_path / "t.edgelist")
