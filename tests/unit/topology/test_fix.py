"""`topology fix`: each option fixes its problem, as does a refusal's command."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.commands import run
from tests.support.raw_graphs import raw_graph as raw

from p2pfl.cli import main
from p2pfl.errors import TopologyError
from p2pfl.topology import Topology, load_topology, make_topology, save_topology
from p2pfl.topology.checks import check_graph
from p2pfl.topology.files import difference
from p2pfl.topology.fix import FixOptions, fix
from p2pfl.topology.raw import RawEdge, RawGraph, RawNode

Value = dict[str, Any]
MOST = 20  # peers, in place of the thousands that are too many


def node_link() -> Value:
    """A ring of 5 peers."""
    edges = [{"source": str(i), "target": str((i + 1) % 5)} for i in range(5)]
    return {"directed": False, "nodes": [{"id": str(i)} for i in range(5)], "edges": edges}


def edge(value: Value, source: str, target: str, **more: object) -> None:
    value["edges"].append({"source": source, "target": target, **more})


def add(value: Value, *ids: str, **more: object) -> None:
    value["nodes"] += [{"id": own, **more} for own in ids]


def direct(value: Value) -> None:
    """Edges from the smaller to the larger number only: no way back."""
    value["directed"] = True
    add(value, "7")
    edge(value, "7", "0")
    value["edges"][4].update(source="0", target="4")


def unprintable_id(value: Value) -> None:
    add(value, "\a", label="bell")
    edge(value, "\a", "3")


def long_id(value: Value) -> None:
    add(value, "x" * 300, label="long")
    edge(value, "3", "x" * 300)


def island(value: Value) -> None:
    add(value, "i", "j")
    edge(value, "i", "j")
    edge(value, "j", "i")


def both_ways(value: Value) -> None:
    edge(value, "0", "2", weight=1)
    edge(value, "2", "0", weight=3)


def twins(value: Value) -> None:
    for node in value["nodes"]:
        node.update(host="h", port=1)


MENDABLE: dict[str, Callable[[Value], None]] = {
    "loop": lambda value: edge(value, "1", "1"),
    "heavy loop": lambda value: edge(value, "2", "2", weight=2),
    "parallel": lambda value: edge(value, "1", "2"),
    "weights": lambda value: edge(value, "3", "4", weight=0.5),
    "both ways": both_ways,
    "one way": direct,
    "island": island,
    "unprintable": unprintable_id,
    "long": long_id,
    "crowd": lambda value: add(value, *(f"c{i}" for i in range(MOST))),
    "port": lambda value: value["nodes"][1].update(host="h", port=0),
    "hosts": lambda value: value["nodes"][1].update(host="h", port=1),
    "twins": twins,
}
BY_HAND: dict[str, Callable[[Value], None]] = {
    "undeclared": lambda value: edge(value, "1", "nobody"),
    "repeated": lambda value: add(value, "4"),
}


@pytest.mark.parametrize("kinds", [*((k,) for k in MENDABLE), *itertools.combinations(MENDABLE, 2)], ids="+".join)
def test_the_command_that_a_refusal_names_mends_the_file(
    tmp_path: Path,
    kinds: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("p2pfl.topology.checks.MAX_PEERS", MOST)
    value = node_link()
    for kind in sorted(kinds, key=lambda kind: kind == "one way"):
        MENDABLE[kind](value)
    file = tmp_path / "it's mine.json"
    file.write_text(json.dumps(value))
    with pytest.raises(TopologyError) as caught:
        load_topology(file)
    command = str(caught.value).partition("; fix with: ")[2]
    words = shlex.split(command)
    assert words[:3] == ["p2pfl", "topology", "fix"]
    before = file.read_bytes()
    assert main(words[1:]) == 0, capsys.readouterr().err
    assert file.read_bytes() == before
    assert load_topology(words[words.index("-o") + 1]).n >= 5
    assert "nothing to do" not in capsys.readouterr().out


@pytest.mark.parametrize(("hand", "kind"), [*itertools.product(BY_HAND, ["loop", "island"])])
def test_what_no_option_mends_is_named_and_nothing_written(
    tmp_path: Path, hand: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = node_link()
    BY_HAND[hand](value)
    MENDABLE[kind](value)
    file, new = tmp_path / "t.json", tmp_path / "new.gml"
    file.write_text(json.dumps(value))
    # The edge whose end is unknown may be the one that connects the island: then no option is named.
    undecided = (hand, kind) == ("undeclared", "island")
    named = (
        "that edge may be what is missing" if undecided else "; correct by hand what no option fixes, then fix with: p2"
    )
    with pytest.raises(TopologyError, match=named):
        load_topology(file)
    words = ["topology", "fix", str(file), "-o", str(new), "--drop-self-loops", "--largest-component"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"p2pfl: {file}: ")
    assert captured.err.count("\n") == 1
    assert "fix with" not in captured.err, "options that fix nothing more"
    assert captured.out == ""
    assert sorted(tmp_path.iterdir()) == [file]


def fixed(graph: RawGraph, **options: Any) -> tuple[Topology, str]:
    topology, said = fix(graph, FixOptions(**options), Path("t.gml"), Path("new.gml"))
    return topology, "\n".join(said)


def test_loops() -> None:
    topology, said = fixed(raw("ab aa:2 bb aa"), drop_self_loops=True)
    assert list(topology.graph.edges) == [(0, 1)]
    assert said == "dropped 3 self-loops: 'a' and 'b'"


def test_parallel_edges_keep_the_first_weight() -> None:
    topology, said = fixed(raw("ab ab:2 ba:3 bc"), merge_parallel=True)
    assert list(topology.graph.edges(data="weight")) == [(0, 1, 2.0), (1, 2, None)]
    assert "merged 3 parallel edges into 1 link: 'a' – 'b'" in said
    assert "kept the first weight of 'a' – 'b'" in said
    topology, said = fixed(raw("ab:1 ab:2 bc:3 ca:4 a-c", directed=True), merge_parallel=True)
    assert topology.directed
    assert list(topology.graph.edges(data="weight")) == [(0, 1, 1.0), (0, 2, None), (1, 2, 3.0), (2, 0, 4.0)]
    assert "'a' -> 'b'" in said


def test_undirected_takes_the_mean_of_two_weights() -> None:
    topology, said = fixed(raw("ab:1 ba:2 bc:5 cd dc:7", directed=True), undirected=True)
    assert not topology.directed
    assert list(topology.graph.edges(data="weight")) == [(0, 1, 1.5), (1, 2, 5.0), (2, 3, 7.0)]
    assert "made the graph undirected: 1 link that went one way, 2 that went both ways" in said
    assert "took the mean of the two directions' weights of 'a' – 'b' and 'c' – 'd'" in said
    assert fixed(raw("a-b bc", directed=True), undirected=True)[0].n == 3


def test_the_largest_component() -> None:
    topology, said = fixed(raw("ab cd ce", nodes="abcdef"), largest_component=True)
    assert topology.names == ("c", "d", "e")
    assert said == "kept the largest connected component, 3 peers; dropped 3: 'a', 'b' and 'f'"
    topology, said = fixed(raw("ab ba:2 bc cd dc:2", directed=True, nodes="dcba"), largest_component=True)
    assert topology.names == ("c", "d"), "of equally large ones that of the first node in the file"
    assert "strongly connected component, 2 peers; dropped 2" in said
    with pytest.raises(TopologyError, match=r"fix with: .* --undirected --largest-component$"):
        fixed(raw("ab bc", directed=True), largest_component=True)


def test_labels() -> None:
    graph = raw("ab bc", a="x", b="x", c="y")
    topology, said = fixed(graph, labels="names")
    assert topology.names == ("x", "x (2)", "y")
    assert topology.notes == ()
    assert "named the peers by their labels: 'x', 'x (2)' and 'y'" in said
    assert "numbered 1 label that another peer has: 'x (2)'" in said
    topology, said = fixed(raw("ab bc", a="x", b="y", c="z"), labels="ids")
    assert (topology.names, topology.notes) == (("a", "b", "c"), ())
    assert said == "named the peers by their ids: 'a', 'b' and 'c'"
    assert fixed(graph)[0].names == ("a", "b", "c")


def test_what_has_nothing_to_do_says_so() -> None:
    every = FixOptions(True, True, True, True, True, "names")
    _, said = fix(raw("ab"), every, Path("t.gml"), Path("new.gml"))
    options = ["--drop-addresses", "--drop-self-loops", "--merge-parallel", "--undirected", "--largest-component"]
    options.append("--labels names")
    assert [line.partition(":")[0] for line in said] == options
    assert all("nothing to do" in line for line in said)
    assert fixed(raw("ab"), labels="ids")[1].startswith("--labels ids: nothing to do")


def test_what_remains_is_named_with_all_options_that_it_takes() -> None:
    graph = raw("aa ab ab", nodes="abc")
    with pytest.raises(TopologyError) as caught:
        fixed(graph, merge_parallel=True)
    text = str(caught.value)
    assert "parallel" not in text.partition("; fix")[0]
    options = "--drop-self-loops --merge-parallel --largest-component"
    assert text.endswith(f"fix with: p2pfl topology fix t.gml -o new.gml {options}")


nodes = st.sampled_from("abcdef")
raw_edges = st.builds(
    RawEdge, nodes, nodes, st.sampled_from([None, 0.5, "0.25", "heavy"]), st.sampled_from([None, None, True, False])
)
labels = st.sampled_from([None, "x", "y", "z", "a", "\a"])
raw_nodes = st.builds(RawNode, st.just(""), labels, st.just({}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(raw_nodes, min_size=6, max_size=6), st.lists(raw_edges, max_size=12))
def test_every_graph_is_mended_by_the_options_that_its_troubles_name(
    tmp_path: Path, directed: bool, nodes: list[RawNode], edges: list[RawEdge]
) -> None:
    named = tuple(RawNode(own, node.label) for own, node in zip("abcdef", nodes, strict=True))
    graph = RawGraph(directed, named, tuple(edges))
    options = {problem.option for problem in check_graph(graph).problems}
    if None in options:
        assert not any(edge.source != edge.target for edge in edges)
        return
    wanted = {str(option)[2:].replace("-", "_"): True for option in options}
    topology, said = fixed(graph, **wanted)
    assert "nothing" not in said
    assert 2 <= topology.n <= 6
    save_topology(topology, tmp_path / "t.graphml")
    assert difference(topology, load_topology(tmp_path / "t.graphml")) is None


# Whole files


def test_everything_survives_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topology = make_topology("path", 3)
    for peer in range(3):
        topology.graph.nodes[peer].update(host="10.0.0.1", port=7000 + peer, device="cpu", public_key=f'k<&"{peer}')
    topology.graph.edges[0, 1]["weight"] = 0.25
    save_topology(topology, tmp_path / "t0.graphml")
    formats = [".gml", ".gexf", ".json", ".graphml"]
    for number, extension in enumerate(formats):
        file = next(tmp_path.glob(f"t{number}.*"))
        new = tmp_path / f"t{number + 1}{extension}"
        assert main(["topology", "fix", str(file), "-o", str(new)]) == 0
        captured = capsys.readouterr()
        assert captured.out == (f"converted {file}; no repair was requested\n{new}: 3 peers, 2 edges, undirected\n")
        assert captured.err == ""
        assert difference(topology, load_topology(new)) is None
    for extension, lost in ((".edgelist", "device, host, port, public_key"), (".adjlist", "device")):
        new = tmp_path / f"no{extension}"
        assert main(["topology", "fix", str(tmp_path / "t0.graphml"), "-o", str(new)]) == 2
        error = capsys.readouterr().err
        assert f"{new}: {extension} cannot hold the nodes' {lost}" in error
        assert error.endswith("; write it as .graphml\n")
        assert not list(tmp_path.glob("*no*"))


def test_commands_say_once_how_a_file_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = node_link()
    value["directed"] = True
    value["edges"] += [{"source": e["target"], "target": e["source"]} for e in value["edges"]]
    for node in value["nodes"]:
        node["label"] = f"site {node['id']}"
    file = tmp_path / "t.json"
    file.write_text(json.dumps(value))
    for words in (
        ["topology", "show"],
        ["topology", "fix", "-o", str(tmp_path / "u.gml")],
        ["keys", "-o", str(tmp_path)],
    ):
        tmp_path.chmod(0o700)
        assert main([*words, str(file)]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert all(line.startswith(f"p2pfl: note: {file}: ") for line in lines)
        assert "treated as undirected" in lines[0]
        assert "named by their labels ('site 0', 'site 1', 'site 2' and 2 more), not by their ids" in lines[1]
    keyed = json.loads(file.read_text())["nodes"]
    assert all(len(node["public_key"]) == 40 and node["label"] for node in keyed)
    assert (tmp_path / "site%201.key").exists()
    assert load_topology(file, by_ids=True).names == ("0", "1", "2", "3", "4"), "as a run directory's file is read"


ZOO = """graph [
  node [ id 0 label "North" Internal 1 ]
  node [ id 1 label "East" Internal 1 ]
  node [ id 2 label "None" Internal 1 ]
  node [ id 3 label "None" Internal 0 ]
  node [ id 4 label "Moon" ]
  edge [ source 0 target 1 LinkLabel "10 Gbps" ]
  edge [ source 0 target 1 LinkLabel "1 Gbps" ]
  edge [ source 1 target 2 LinkLabel "10 Gbps" ]
  edge [ source 2 target 3 LinkLabel "155 Mbps" ]
]
"""


@pytest.mark.processes
def test_a_network_map_becomes_a_topology(tmp_path: Path) -> None:
    (tmp_path / "zoo.gml").write_text(ZOO)
    training = ["--dataset", "digits", "--model", "vgg11", "--width", "0.125", "--dry-run"]
    refused = run("gossip", "zoo.gml", *training, cwd=tmp_path)
    assert refused.returncode == 2
    command = refused.stderr.rstrip("\n").partition("fix with: p2pfl ")[2]
    assert command == "topology fix zoo.gml -o zoo-fixed.graphml --merge-parallel --largest-component"
    fixed = run(*command.split(), "--labels", "names", cwd=tmp_path)
    assert fixed.stdout.splitlines() == [
        "merged 2 parallel edges into 1 link: '0' – '1'",
        "kept the largest connected component, 4 peers; dropped 1: '4'",
        "named the peers by their labels: 'North', 'East', 'None' and 1 more",
        "numbered 1 label that another peer has: 'None (2)'",
        "zoo-fixed.graphml: 4 peers, 3 edges, undirected",
    ]
    assert (fixed.returncode, fixed.stderr) == (0, "")
    done = run("gossip", "zoo-fixed.graphml", *training, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "attributes",
    [{"host": "human"}, {"port": "Rotterdam"}, {"host": "h", "port": 5}, {"public_key": "a\tb"}, {"host": "two words"}],
)
def test_addresses_that_are_none_are_dropped_if_asked(
    tmp_path: Path, attributes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    links = [{"source": u, "target": v} for u, v in ("ab", "bc", "ca")]
    value = {"nodes": [{"id": n, **attributes} for n in "abc"], "links": links}
    file, new = tmp_path / "a.json", tmp_path / "b.json"
    file.write_text(json.dumps(value))
    with pytest.raises(TopologyError, match=r"p2pfl topology fix \S+ -o \S+ --drop-addresses"):
        load_topology(file)
    assert main(["topology", "fix", str(file), "-o", str(new), "--drop-addresses"]) == 0
    assert "dropped " in capsys.readouterr().out
    assert [load_topology(new).graph.nodes[i] for i in range(3)] == [{}, {}, {}]
