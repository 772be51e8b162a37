"""Topology files in and out: GraphML, GML, GEXF, node-link JSON, edge list and adjacency list.

All go through networkx's readers and writers. These keep silent about some mistakes (an edge to a node that
was never declared, two nodes with one id, an edge given twice), so what a file declares is also checked here.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import warnings
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from p2pfl.errors import TopologyError, unreadable, unwritable
from p2pfl.topology.graph import Topology, build_topology, check_parallel
from p2pfl.topology.safe_xml import read_xml

MAX_FILE_BYTES = 64 * 2**20

# networkx 3.4 renamed this argument.
_EDGES = "edges" if "edges" in inspect.signature(nx.node_link_graph).parameters else "link"


@dataclass(frozen=True)
class Format:
    """One file format: its name for people, bytes → graph and labels, graph → bytes."""

    title: str
    read: Callable[[bytes, str], tuple[nx.Graph, Mapping[Any, object] | None]]
    write: Callable[[nx.Graph], bytes]


def load_topology(path: str | os.PathLike[str], least: int = 2) -> Topology:
    """Read and check a topology file; its extension says the format (see FORMATS).

    A peer's name is its node id, in GML its label. Edge lists (`a b`, optionally followed by a weight or a
    dictionary) and adjacency lists (`a b c …`; listing an edge on both of its ends' lines is fine) have no
    way to say directions and are read as undirected: a directed graph belongs in any of the other formats.
    Raises TopologyError with one line that names the file and the remedy, also for fewer than `least` peers.
    """
    file = Path(path)
    form = _format(file)
    data = _read_bytes(file)
    source = str(file)
    graph, labels = read_graph(form, data, source)
    return build_topology(graph, name=file.stem, source=source, labels=labels, least=least)


def read_graph(form: Format, data: bytes, source: str) -> tuple[nx.Graph, Mapping[Any, object] | None]:
    """What a file of this format holds, not checked yet. Raises TopologyError where it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):  # networkx and Python's parser, about what is refused or dropped
            return form.read(data, source)
    except TopologyError:
        raise
    except Exception as error:  # networkx's readers raise whatever they stumble over: KeyError, TypeError, …
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TopologyError(f"{source}: not readable as {form.title}: {reason}") from error


def raw_format(path: Path) -> tuple[Format, bytes]:
    """The format that a file's extension names, and the file's content. Raises TopologyError."""
    return _format(path), _read_bytes(path)


def save_topology(topology: Topology, path: str | os.PathLike[str]) -> None:
    """Write a topology in the format that the extension names; directories are not created.

    The labels are what is written, and reading the file again gives the same names, edges and attributes,
    with the limits of the formats: an edge list keeps edge weights but no node attributes; an adjacency list
    keeps neither; both refuse directed graphs and labels with spaces or '#'. GML's label is the peer's name,
    so a different `label` attribute is not written there; GEXF's weights must be numbers.
    Raises TopologyError if the format cannot hold the topology or the file cannot be written.
    """
    file = Path(path)
    form = _format(file)
    graph = nx.relabel_nodes(topology.graph, dict(enumerate(topology.names)))
    try:
        data = form.write(graph)
    except TopologyError as error:
        raise TopologyError(f"{file}: {error}") from None
    try:
        file.write_bytes(data)
    except OSError as error:
        raise TopologyError(unwritable(file, error)) from error


def _format(file: Path) -> Format:
    try:
        return FORMATS[file.suffix.lower()]
    except KeyError:
        shown = f"unknown extension {file.suffix!r}" if file.suffix else "no extension"
        raise TopologyError(f"{file}: {shown}; use one of {' '.join(FORMATS)}") from None


def _read_bytes(file: Path) -> bytes:
    try:
        if not file.exists():
            raise TopologyError(f"{file}: no such file; check the path, or `topology make` writes one")
        if not file.is_file():
            raise TopologyError(f"{file}: not a regular file; give the path of a topology file")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise TopologyError(f"{file}: larger than {MAX_FILE_BYTES // 2**20} MiB; no topology needs that")
        data = file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte, before Python 3.12
        raise TopologyError(unreadable(file, error)) from error
    if not data.strip():
        raise TopologyError(f"{file}: the file has no content; write a graph into it")
    return data


def _text(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TopologyError(f"{source}: not UTF-8 text; save the file again with UTF-8 encoding") from None


def _check_declared(nodes: list[str] | None, edges: list[tuple[str, str]], directed: bool, source: str) -> None:
    """Refuse what networkx merges or invents in silence: repeated nodes, undeclared ends, repeated edges."""
    if nodes is not None:
        for label, count in Counter(nodes).items():
            if count > 1:
                raise TopologyError(f"{source}: duplicate label: {count} nodes have the id {label!r}")
        declared = set(nodes)
        for u, v in edges:
            if u not in declared or v not in declared:
                unknown = v if u in declared else u
                raise TopologyError(
                    f"{source}: the edge {u!r} – {v!r} ends at {unknown!r}, which is not among the nodes; "
                    "declare it or correct the edge"
                )
    check_parallel(edges, directed, source)


def _simple(graph: nx.Graph) -> nx.Graph:
    return nx.DiGraph(graph) if graph.is_directed() else nx.Graph(graph)


def _read_xml(reader: Callable[[io.BytesIO], nx.Graph]) -> Callable[[bytes, str], tuple[nx.Graph, None]]:
    def read(data: bytes, source: str) -> tuple[nx.Graph, None]:
        root, checked = read_xml(data, source)
        graph = reader(io.BytesIO(checked))
        # As the readers do, look at the first graph of the file only.
        scope = next((e for e in root.iter() if _tag(e) == "graph"), root)
        nodes = [e.attrib["id"] for e in scope.iter() if _tag(e) == "node" and "id" in e.attrib]
        edges = [
            (e.attrib["source"], e.attrib["target"])
            for e in scope.iter()
            if _tag(e) == "edge" and "source" in e.attrib and "target" in e.attrib
        ]
        _check_declared(nodes, edges, graph.is_directed(), source)
        return graph, None

    return read


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _read_gml(data: bytes, source: str) -> tuple[nx.Graph, Mapping[Any, object]]:
    try:
        graph = nx.parse_gml(_text(data, source), label="id")
    except nx.NetworkXError as error:
        if str(error).startswith("edge #") and "duplicated" in str(error):
            where = str(error).split(" is duplicated")[0]
            raise TopologyError(f"{source}: parallel edges: {where} is given twice; keep one") from error
        raise
    return graph, {node: data["label"] for node, data in graph.nodes.items() if "label" in data}


def _read_json(data: bytes, source: str) -> tuple[nx.Graph, None]:
    value = json.loads(_text(data, source))
    if isinstance(value, dict) and "links" in value and "edges" not in value:  # networkx before 3.4, D3
        value["edges"] = value.pop("links")
    if not isinstance(value, dict) or not all(isinstance(value.get(k), list) for k in ("nodes", "edges")):
        raise TopologyError(f"{source}: node-link JSON is an object with the lists 'nodes' and 'edges'")
    directed = value.get("directed", False)
    if not isinstance(directed, bool):
        raise TopologyError(f"{source}: 'directed' is {directed!r}; it must be true or false")
    for entry, key in [(e, "id") for e in value["nodes"]] + [
        (e, k) for e in value["edges"] for k in ("source", "target")
    ]:
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str | int | float):
            raise TopologyError(
                f"{source}: {json.dumps(entry)[:80]} has no usable {key!r}; it must be text or a number"
            )
    # As text, because 1 and 1.0 are one key to Python, and so to networkx, but two labels here.
    nodes = [{**e, "id": str(e["id"])} for e in value["nodes"]]
    edges = [{**e, "source": str(e["source"]), "target": str(e["target"])} for e in value["edges"]]
    _check_declared([e["id"] for e in nodes], [(e["source"], e["target"]) for e in edges], directed, source)
    plain = {"directed": directed, "multigraph": False, "graph": {}, "nodes": nodes, "edges": edges}
    return nx.node_link_graph(plain, **{_EDGES: "edges"}), None


def _read_edgelist(data: bytes, source: str) -> tuple[nx.Graph, None]:
    lines, edges = [], []
    for number, raw in enumerate(_text(data, source).splitlines(), start=1):
        fields = raw.partition("#")[0].split()
        if not fields:
            continue
        plain = len(fields) == 3 and not fields[2].startswith("{")
        if len(fields) == 1 or (len(fields) > 3 and not fields[2].startswith("{")):
            raise TopologyError(f"{source}: line {number} is not an edge; write two labels and, if you like, a weight")
        edges.append((fields[0], fields[1]))
        tail = f"{{'weight': {fields[2]!r}}}" if plain else " ".join(fields[2:])
        lines.append(f"{fields[0]} {fields[1]} {tail}")
    _check_declared(None, edges, False, source)
    return nx.parse_edgelist(lines, data=True), None


def _read_adjlist(data: bytes, source: str) -> tuple[nx.Graph, None]:
    lines = _text(data, source).splitlines()
    listed = nx.parse_adjlist(lines, create_using=nx.MultiDiGraph)
    check_parallel(listed.edges(), True, source)
    mutual = sum(1 for u, v in listed.edges() if listed.has_edge(v, u))
    if 0 < mutual < listed.number_of_edges():
        u, v = next((u, v) for u, v in listed.edges() if not listed.has_edge(v, u))
        raise TopologyError(
            f"{source}: {u!r} lists {v!r} but not the other way round, while other edges are listed at both "
            "ends; list every edge once or always twice (directed graphs belong in a .graphml)"
        )
    return nx.Graph(listed), None


def _write_graphml(graph: nx.Graph) -> bytes:
    buffer = io.BytesIO()
    nx.write_graphml_xml(graph, buffer)  # not write_graphml, whose output depends on lxml being installed
    return buffer.getvalue()


def _write_gml(graph: nx.Graph) -> bytes:
    return ("\n".join(nx.generate_gml(graph)) + "\n").encode("ascii")


def _write_gexf(graph: nx.Graph) -> bytes:
    for u, v, weight in graph.edges(data="weight"):
        if isinstance(weight, str):
            raise TopologyError(f"weight {weight!r} of the edge {u!r} – {v!r} is no number, as GEXF needs")
    buffer = io.BytesIO()
    nx.write_gexf(graph, buffer)
    return buffer.getvalue()


def _write_json(graph: nx.Graph) -> bytes:
    data = nx.node_link_data(graph, **{_EDGES: "edges"})
    return (json.dumps(data, indent=2) + "\n").encode()


def _write_lines(generate: Callable[[nx.Graph], Any]) -> Callable[[nx.Graph], bytes]:
    def write(graph: nx.Graph) -> bytes:
        if graph.is_directed():
            raise TopologyError("this format has no directions; write a directed graph as .graphml")
        for label in graph:
            if "#" in label or any(c.isspace() for c in label):
                raise TopologyError(f"the label {label!r} has a space or '#'; write it as .graphml")
        return ("\n".join(generate(graph)) + "\n").encode()

    return write


def _edge_lines(graph: nx.Graph) -> Any:
    return nx.generate_edgelist(graph, data=any(weight is not None for *_, weight in graph.edges(data="weight")))


FORMATS: Mapping[str, Format] = {
    ".graphml": Format("GraphML", _read_xml(nx.read_graphml), _write_graphml),
    ".gml": Format("GML", _read_gml, _write_gml),
    ".gexf": Format("GEXF", _read_xml(nx.read_gexf), _write_gexf),
    ".json": Format("node-link JSON", _read_json, _write_json),
    ".edgelist": Format("an edge list", _read_edgelist, _write_lines(_edge_lines)),
    ".adjlist": Format("an adjacency list", _read_adjlist, _write_lines(nx.generate_adjlist)),
}
