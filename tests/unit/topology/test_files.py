"""Topology files: round trips of every format, and a message for each refusal."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from p2pfl.errors import TopologyError
from p2pfl.topology import FORMATS, Topology, load_topology, make_topology, mixing_matrix, save_topology
from p2pfl.topology.graph import build_topology
from p2pfl.topology.public_keys import publish

LINES = (".edgelist", ".adjlist")
RICH = [extension for extension in FORMATS if extension not in LINES]
same_folder = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

plain_text = st.text(string.ascii_letters + string.digits + "<>&\"'éß中.:-_/[](){}$ ", min_size=1, max_size=8)
plain_text = plain_text.filter(lambda text: text.strip() and text not in ("()", "[]"))

line_text = st.text(string.ascii_letters + string.digits + "éß中.'_/$", min_size=1, max_size=8)


@st.composite
def topologies(draw: st.DrawFn, *, directed: bool | None = None, spaces: bool = True) -> Topology:
    """A connected graph with odd labels, some with attributes and weights."""
    label = plain_text if spaces else line_text
    label = label | st.integers(0, 120).map(str)
    labels = draw(st.lists(label, min_size=2, max_size=6, unique=True))
    n = len(labels)
    directed = draw(st.booleans()) if directed is None else directed
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(labels)
    pairs = [(i, (i + 1) % n) for i in range(n)] if n > 2 or directed else [(0, 1)]
    pairs += draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=5))
    graph.add_edges_from((labels[i], labels[j]) for i, j in pairs if i != j)
    for edge in graph.edges:
        if draw(st.booleans()):
            graph.edges[edge]["weight"] = draw(st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False))
    if draw(st.booleans()):
        for port, node in enumerate(labels, start=7000):
            graph.nodes[node].update(host="10.0.0.1", port=port)
    for node in labels:
        if draw(st.booleans()):
            graph.nodes[node].update(device="cuda:0", public_key=draw(plain_text))
    return build_topology(graph, name="t", source="t")


def facts(topology: Topology, *, nodes: bool = True, edges: bool = True) -> object:
    graph = topology.graph
    return (
        topology.names,
        topology.directed,
        dict(graph.nodes(data=True)) if nodes else None,
        sorted(graph.edges(data=edges), key=lambda edge: edge[:2]),
    )


@pytest.mark.parametrize("extension", RICH)
@same_folder
@given(topology=topologies())
def test_everything_survives(tmp_path: Path, extension: str, topology: Topology) -> None:
    path = tmp_path / f"t{extension}"
    save_topology(topology, path)
    assert facts(load_topology(path)) == facts(topology)


@pytest.mark.parametrize(("extension", "weights"), [(".edgelist", True), (".adjlist", False)])
@same_folder
@given(topology=topologies(directed=False, spaces=False))
def test_lines_keep_labels_and_edges(tmp_path: Path, extension: str, weights: bool, topology: Topology) -> None:
    path = tmp_path / f"t{extension}"
    save_topology(topology, path)
    loaded = load_topology(path)
    assert facts(loaded, nodes=False, edges=weights) == facts(topology, nodes=False, edges=weights)
    assert all(data == {} for _, data in loaded.graph.nodes(data=True))  # as save_topology's docstring says


@pytest.mark.parametrize("extension", [e for e in FORMATS if e not in (".gexf", ".adjlist")])
def test_weight_that_is_no_number_waits_until_weights_are_asked_for(tmp_path: Path, extension: str) -> None:
    graph = nx.path_graph(3)
    graph.edges[0, 1]["weight"] = float("nan")
    graph.edges[1, 2]["weight"] = 0.5
    path = tmp_path / f"t{extension}"
    save_topology(build_topology(graph, name="t", source="t"), path)
    loaded = load_topology(path)
    assert mixing_matrix(loaded).sum() == pytest.approx(3)
    with pytest.raises(TopologyError, match="weight 'nan' of the edge '0' – '1' must be a finite number"):
        mixing_matrix(loaded, "weights")


def test_peers_are_in_natural_order(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    nodes = [{"id": i} for i in (10, "a10", 2, "a2", "b", "02")]
    ids = [node["id"] for node in nodes]
    edges = [{"source": u, "target": v} for u, v in itertools.pairwise(ids)]
    for shuffled in (nodes, nodes[::-1]):
        path.write_text(json.dumps({"nodes": shuffled, "edges": edges}))
        assert load_topology(path).names == ("02", "2", "10", "a2", "a10", "b")


def test_json_numbers_that_python_holds_equal_are_different_labels(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(
        json.dumps(
            {
                "nodes": [{"id": label} for label in (1, 1.0, True, "c")],
                "edges": [{"source": label, "target": 1} for label in (1.0, True, "c")],
            }
        )
    )
    assert load_topology(tmp_path / "t.json").names == ("1", "1.0", "True", "c")


def test_index_names_near_matches() -> None:
    graph = nx.Graph([("alice", "bob"), ("bob", "carol")])
    topology = build_topology(graph, name="lan", source="lan")
    assert topology.index("bob") == 1
    with pytest.raises(TopologyError, match="lan: no peer is labeled 'alise'; did you mean one of 'alice'"):
        topology.index("alise")


def test_paths_are_safe_and_different_even_if_case_is_ignored() -> None:
    labels = [".", "..", "a/b", "a%2Fb", "A", "a", "é", "É", "%41", "plain"]
    topology = build_topology(nx.path_graph(labels), name="t", source="t")
    paths = [topology.node_path(i) for i in range(topology.n)]
    assert topology.node_path(topology.index("plain")) == "plain"
    assert len({path.lower() for path in paths}) == len(labels)
    assert all("/" not in path and path not in (".", "..") and path.isascii() for path in paths)


XML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><graph edgedefault="{}">{}</graph></graphml>'


def xml(nodes: str, edges: str, kind: str = "undirected") -> str:
    body = "".join(f'<node id="{n}"/>' for n in nodes)
    body += "".join(f'<edge source="{u}" target="{v}"/>' for u, v in edges.split())
    return XML.format(kind, body)


def link(nodes: list[object], edges: str = "", **more: object) -> str:
    entries = [n if isinstance(n, dict) else {"id": n} for n in nodes]
    pairs = [{"source": u, "target": v} for u, v in edges.split()]
    return json.dumps({"nodes": entries, "edges": pairs, **more})


def host(label: str, address: object = "h", port: object = 7000) -> dict[str, object]:
    return {"id": label, "host": address, "port": port}


GML_TWICE = 'graph [ node [ id 0 label "a" ] node [ id 1 label "b" ] {0} {0} ]'
GEXF_TWICE = (
    '<gexf xmlns="http://www.gexf.net/1.2draft" version="1.2"><graph defaultedgetype="undirected"><nodes>'
    '<node id="a"/><node id="b"/></nodes><edges><edge id="0" source="a" target="b"/>'
    '<edge id="1" source="a" target="b"/></edges></graph></gexf>'
)
REFUSALS = {
    "nothing.graphml": ("", "has no content"),
    "blank.json": (" \n", "has no content"),
    "empty.graphml": (xml("", ""), "the graph is empty"),
    "empty.edgelist": ("# nobody\n", "the graph is empty"),
    "empty.gml": ("graph [ ]", "the graph is empty"),
    "one.graphml": (xml("a", ""), "only one node"),
    "one.adjlist": ("a\n", "only one node"),
    "many.json": (link(list(range(5000))), "has 5000 nodes; at most 4096"),
    "apart.graphml": (xml("abc", "ab"), "is disconnected: 'c' cannot be reached from 'a'"),
    "apart.adjlist": ("a b\nc d\n", r"is disconnected: 'c' and 1 more cannot be reached"),
    "oneway.graphml": (xml("abc", "ba ca cb", "directed"), "not strongly connected: 'b'"),
    "sink.graphml": (xml("abc", "ab ac bc cb", "directed"), "not strongly connected: 'a' cannot be reached"),
    "loop.graphml": (xml("ab", "ab bb"), "self-loop on node 'b'"),
    "loop.edgelist": ("a b\nb b\n", "self-loop on node 'b'"),
    "twice.graphml": (xml("ab", "ab ab"), "parallel edges: 'a' -- 'b' is given 2 times"),
    "twice-directed.graphml": (xml("ab", "ab ba ab", "directed"), "parallel edges: 'a' -> 'b'"),
    "twice.gexf": (GEXF_TWICE, "parallel edges: 'a' -- 'b'"),
    "twice.json": (link(["a", "b"], "ab ab"), "parallel edges"),
    "twice.gml": (GML_TWICE.format("edge [ source 0 target 1 ]"), "parallel edges: 'a' -- 'b' is given 2 times"),
    "multi.gml": (
        GML_TWICE.format("edge [ source 0 target 1 ]").replace("graph [", "graph [ multigraph 1"),
        "parallel edges: 'a' -- 'b'",
    ),
    "twice.edgelist": ("a b\na b\n", "parallel edges.*; fix with: p2pfl topology fix .* --merge-parallel$"),
    "twice.adjlist": ("a b b\n", "parallel edges"),
    "directed.adjlist": ("a b\nb a c\nc a\n", "'b' lists 'c' but not the other way round"),
    "word.edgelist": ("a b\nc\n", "line 2 is not an edge"),
    "words.edgelist": ("a b c d\n", "line 1 is not an edge"),
    "phantom.graphml": (xml("ab", "ab bc"), "ends at 'c', which is not among the nodes"),
    "phantom.json": (link(["a", "b"], "ab ca"), "ends at 'c', which is not among the nodes"),
    "phantom.gml": ("graph [ node [ id 0 ] edge [ source 0 target 7 ] ]", "ends at '7', which is not among the nodes"),
    "same.json": (link([1, "1"], "11"), "duplicate label: 2 nodes have the id '1'"),
    "same.graphml": (xml("aab", "ab"), "duplicate label"),
    "void.json": (json.dumps({"nodes": [{"id": ""}, {"id": "a"}], "edges": []}), "empty label"),
    "bell.json": (link(["a", "\a"], "a\a"), r"label '\\x07' contains control characters"),
    "half.json": (link(["a", "\ud800"], "a\ud800"), "contains control characters"),
    "long.json": (link(["a", "é" * 50]), "is too long"),
    "port.json": (link([host("a", port=0), host("b")], "ab"), "port 0 of node 'a' must be an integer from 1"),
    "high.json": (link([host("a", port=65536), host("b")], "ab"), "port 65536 of node 'a'"),
    "yes.json": (link([host("a", port=True), host("b")], "ab"), "port True of node 'a'"),
    "float.json": (link([host("a", port=70.5), host("b")], "ab"), "port 70.5 of node 'a'"),
    "host.json": (link([host("a", address=5), host("b")], "ab"), "host 5 of node 'a' must be printable text"),
    "gap.json": (link([host("a", address="my host"), host("b")], "ab"), "without spaces"),
    "device.json": (link([{"id": "a", "device": 0}, "b"], "ab"), "device 0 of node 'a'"),
    "some.json": (
        link([host("a"), "b"], "ab"),
        "'b' has no host and port; give host and port on every node or",
    ),
    "lone.json": (link([{"id": "a", "host": "h"}, {"id": "b", "host": "i"}], "ab"), "'a' has no port "),
    "shared.json": (link([host("a"), host("b", "H")], "ab"), "'a' and 'b' both listen on h:7000"),
    "list.json": ("[1, 2]", "is an object with the lists 'nodes' and 'edges'"),
    "text.json": (
        link(["a", "b"], "ab", directed="false"),
        "'directed' is 'false'; it must be true or false",
    ),
    "key.json": ('{"nodes": [{"x": "a"}], "edges": []}', "has no usable 'id'"),
    "end.json": ('{"nodes": [{"id": "a"}], "edges": [{"source": "a"}]}', "has no usable 'target'"),
    "cut.json": ('{"nodes": [', "not readable as node-link JSON"),
    "deep.json": ("[" * 100_000, "not readable as node-link JSON"),
    "cut.graphml": (xml("ab", "ab")[:-20], "not readable as GraphML"),
    "other.graphml": ("<html><body/></html>", "not readable as GraphML"),
    "cut.gexf": (GEXF_TWICE[:-20], "not readable as GEXF"),
    "cut.gml": ("graph [ node [", "not readable as GML"),
    "data.edgelist": ("a b {'weight': open}\n", "not readable as an edge list"),
    "type.graphml": ("<!DOCTYPE graphml>" + xml("ab", "ab"), "<!DOCTYPE …>"),
    "entity.graphml": ('<!DOCTYPE x [<!ENTITY y "z">]>' + xml("ab", "ab"), "XML document type"),
    "parameter.graphml": ('<!DOCTYPE x [<!ENTITY % y "z"> %y;]>' + xml("ab", "ab"), "XML document type"),
    "outside.gexf": ('<!DOCTYPE x SYSTEM "file:///etc/passwd">' + GEXF_TWICE, "XML document type"),
    "outside.graphml": (
        '<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>' + xml("ab", "ab"),
        "XML document type",
    ),
    "undeclared.graphml": (xml(["a", "&y;"], ""), "undefined entity"),
    "included.graphml": (
        xml("ab", "").replace("<node", '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="/x"/><node', 1),
        "is disconnected",  # an element that means nothing here, and that nobody follows
    ),
    "latin.graphml": ('<?xml version="1.0" encoding="UTF-16"?>' + xml("ab", "ab"), "encoding 'UTF-16' is not accepted"),
    "ebcdic.graphml": ('<?xml version="1.0" encoding="cp037"?>' + xml("ab", "ab"), "encoding 'cp037'"),
    "seven.graphml": ('<?xml version="1.0" encoding="utf-7"?>' + xml("ab", "ab"), "encoding 'utf-7'"),
    "none.graphml": ('<?xml version="1.0" encoding="no-such"?>' + xml("ab", "ab"), "encoding 'no-such'"),
    "accents.graphml": ('<?xml version="1.0" encoding="ISO-8859-1"?>' + xml("éb", "éb"), "encoding 'ISO-8859-1'"),
    "deep.graphml": ("<graphml>" + "<graph>" * 20_000, "not readable as GraphML"),
    "nested.graphml": ("<x>" * 20_000 + "</x>" * 20_000, "not readable as GraphML"),
    "graph.doc": (
        "a b\n",
        "unknown extension '.doc'; use one of .graphml .gml .gexf .json .edgelist .adjlist .edges .txt .csv",
    ),
    "graph": ("a b\n", "no extension; use one of"),
}


@pytest.mark.parametrize("file", REFUSALS)
def test_refused_with_its_own_message(tmp_path: Path, file: str) -> None:
    content, message = REFUSALS[file]
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TopologyError, match=message) as caught:
        load_topology(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="no such file"):
        load_topology(tmp_path / "none.graphml")
    (tmp_path / "folder.gml").mkdir()
    with pytest.raises(TopologyError, match="not a regular file"):
        load_topology(tmp_path / "folder.gml")
    for extension in (".json", ".gml", ".edgelist", ".adjlist"):
        path = tmp_path / f"wide{extension}"
        path.write_bytes("a b\n".encode("utf-16"))
        with pytest.raises(TopologyError, match="not UTF-8 text"):
            load_topology(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp037", "latin-1"])
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="{}"?>'])
def test_entities_pass_in_no_encoding(tmp_path: Path, encoding: str, declared: str) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY e "é">]>' + xml("ab", "ab").replace('id="a"', 'id="&e;"')
    (tmp_path / "bomb.graphml").write_bytes((declared.format(encoding) + bomb).encode(encoding))
    with pytest.raises(TopologyError, match=r"bomb.graphml: (not UTF-8 text|encoding)") as caught:
        load_topology(tmp_path / "bomb.graphml")
    assert "save the file again with UTF-8 encoding" in str(caught.value)


def test_xml_that_says_it_is_latin_1_and_is_ascii_is_read(tmp_path: Path) -> None:
    for encoding in ("ISO-8859-1", "us-ascii", "UTF-8", "windows-1252"):
        (tmp_path / "t.graphml").write_text(f'<?xml version="1.0" encoding="{encoding}"?>' + xml("ab", "ab"))
        assert load_topology(tmp_path / "t.graphml").names == ("a", "b")


def test_comments_instructions_and_nesting_are_no_hindrance(tmp_path: Path) -> None:
    document = '<?xml version="1.0" encoding="us-ascii"?><?pi x?><!-- c -->' + xml("ab", "ab").replace('"a"', '"&#97;"')
    (tmp_path / "t.graphml").write_text(document)
    assert load_topology(tmp_path / "t.graphml").names == ("a", "b")
    deep = "".join(f'<node id="g{i}"><graph>' for i in range(2000)) + "{}" + "</graph></node>" * 2000
    nodes = deep.format('<node id="a"/><node id="b"/>')
    (tmp_path / "t.graphml").write_text(f'<graphml><graph>{nodes}<edge source="a" target="b"/></graph></graphml>')
    assert load_topology(tmp_path / "t.graphml").names == ("a", "b")
    with pytest.raises(TopologyError, match="public keys cannot be inserted"):
        publish(tmp_path / "t.graphml", {"a": "x", "b": "y"})


@pytest.mark.parametrize("extension", FORMATS)
@same_folder
@given(data=st.binary(max_size=60), cut=st.integers(0, 400), at=st.integers(0, 400))
@example(data=b"", cut=0, at=0)
def test_mutated_files_never_end_in_a_traceback(tmp_path: Path, extension: str, data: bytes, cut: int, at: int) -> None:
    path = tmp_path / f"t{extension}"
    save_topology(make_topology("ring", 4), path)
    content = path.read_bytes()
    for mutated in (data, content[:at] + data + content[at + cut :]):
        path.write_bytes(mutated)
        message = f"{path}: "
        try:
            assert load_topology(path).n >= 2
        except TopologyError as error:
            message = str(error)
        assert message.startswith(f"{path}: ")


def test_what_a_format_cannot_hold_is_refused_when_saving(tmp_path: Path) -> None:
    directed = make_topology("exponential", 4)
    spaced = build_topology(nx.path_graph(["a b", "c"]), name="t", source="t")
    for extension in LINES:
        with pytest.raises(TopologyError, match="has no directions; write a directed graph"):
            save_topology(directed, tmp_path / f"t{extension}")
        with pytest.raises(TopologyError, match="the label 'a b' has a space or '#'"):
            save_topology(spaced, tmp_path / f"t{extension}")
    heavy = build_topology(nx.Graph([("a", "b", {"weight": "heavy"})]), name="t", source="t")
    with pytest.raises(TopologyError, match="weight 'heavy' of the edge"):
        save_topology(heavy, tmp_path / "t.gexf")
    with pytest.raises(TopologyError, match="unknown extension"):
        save_topology(directed, tmp_path / "t.png")
    with pytest.raises(TopologyError, match=r"cannot be written \(No such file or directory\)"):
        save_topology(directed, tmp_path / "none" / "t.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("plain.edgelist", "# from, to, weight\na b 0.25\nb c\n"),
        ("dict.edgelist", "a b {'weight': 0.25}\nb c {}\n"),
        ("once.adjlist", "a b\nb c\n"),
        ("both.adjlist", "a b\nb a c\nc b\n"),
        ("links.json", '{"nodes": [{"id": "a"}, {"id": "b"}, {"id": "c"}], "links": '
         '[{"source": "a", "target": "b", "weight": "0.25"}, {"source": "b", "target": "c"}]}'),
        ("bare.gml", "graph [ node [ id 0 label a ] node [ id 1 label b ] node [ id 2 label c ] "
         "edge [ source 0 target 1 weight 0.25 ] edge [ source 1 target 2 ] ]"),
        ("UPPER.GRAPHML", xml("abc", "ab bc")),
    ],
)  # fmt: skip
def test_dialects(tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + content.encode() if "XML" not in file else content.encode())
    topology = load_topology(tmp_path / file)
    assert topology.names == ("a", "b", "c")
    assert topology.name == Path(file).stem
    assert sorted(topology.graph.edges) == [(0, 1), (1, 2)]
    weights = [weight for *_, weight in sorted(topology.graph.edges(data="weight"))]
    assert weights == ([None, None] if "adjlist" in file or "UPPER" in file else [0.25, None])
