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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx

from p2pfl.errors import TopologyError, unreadable, unwritable
from p2pfl.topology.graph import Topology, topology_from
from p2pfl.topology.raw import RawEdge, RawGraph, RawNode
from p2pfl.topology.safe_xml import read_xml

MAX_FILE_BYTES = 64 * 2**20

# networkx 3.4 renamed this argument.
_EDGES = "edges" if "edges" in inspect.signature(nx.node_link_graph).parameters else "link"


@dataclass(frozen=True)
class Format:
    """One file format: its name for people, and graph → bytes."""

    title: str
    write: Callable[[nx.Graph], bytes]


def load_topology(path: str | os.PathLike[str], least: int = 2, *, by_ids: bool = False) -> Topology:
    """Read and check a topology file; its extension says the format (see FORMATS).

    A peer's name is its label where every node has one and all differ, else its node id; `by_ids`: its id, as in the
    files of run directories, which `save_topology` writes. Edge lists (`a b`, optionally followed by a weight or a
    dictionary) and adjacency lists (`a b c …`; listing an edge on both of its ends' lines is fine) have no way to say
    directions and are read as undirected: a directed graph belongs in any of the other formats.
    Raises TopologyError with one line that names the file, all its troubles and the command that mends them, also for
    fewer than `least` peers.
    """
    file = Path(path)
    raw = read_raw(file)
    if by_ids:
        raw = replace(raw, nodes=tuple(replace(node, label=None) for node in raw.nodes))
    return topology_from(raw, name=file.stem, source=str(file), least=least, mendable=True)


def read_raw(file: Path) -> RawGraph:
    """What a topology file declares, unchecked. Raises TopologyError where it cannot be read at all."""
    form = _format(file)
    return _adapted(form, _read_bytes(file), str(file))


def _adapted(form: Format, data: bytes, source: str) -> RawGraph:
    """To be replaced by readers that give raw graphs."""
    suffix = next(key for key, value in FORMATS.items() if value is form)
    try:
        with warnings.catch_warnings(action="ignore"):
            if suffix == ".json":
                value = json.loads(_text(data, source))
                listed = value.get("edges", value.get("links"))
                return RawGraph(
                    value.get("directed", False),
                    tuple(RawNode(str(e["id"]), e.get("label"), e) for e in value["nodes"]),
                    tuple(RawEdge(str(e["source"]), str(e["target"]), e.get("weight")) for e in listed),
                    (), form.title,
                )  # fmt: skip
            if suffix == ".edgelist":
                fields = [line.partition("#")[0].split() for line in _text(data, source).splitlines()]
                edges = tuple(
                    RawEdge(
                        *f[:2],
                        f[2].strip("{}'weight: ") if len(f) == 3 else (f[3].strip("}") if len(f) > 3 else None) or None,
                    )
                    for f in fields
                    if f
                )
                ids = dict.fromkeys(end for e in edges for end in (e.source, e.target))
                return RawGraph(False, tuple(RawNode(i) for i in ids), edges, (), form.title)
            if suffix == ".adjlist":
                graph = nx.parse_adjlist(_text(data, source).splitlines(), create_using=nx.MultiGraph)
            elif suffix == ".gml":
                text = _text(data, source)
                text = text if "multigraph" in text else text.replace("graph [", "graph [ multigraph 1", 1)
                graph = nx.parse_gml(text, label="id")
            elif suffix == ".graphml":
                graph = nx.read_graphml(io.BytesIO(read_xml(data, source)[1]), force_multigraph=True)
            else:
                graph = nx.read_gexf(io.BytesIO(read_xml(data, source)[1]))
            return RawGraph(
                graph.is_directed(),
                tuple(RawNode(str(i), None if d.get("label") is None else str(d.get("label")), d) for i, d in graph.nodes.items()),
                tuple(RawEdge(str(u), str(v), w) for u, v, w in graph.edges(data="weight")),
                (), form.title,
            )  # fmt: skip
    except TopologyError:
        raise
    except Exception as error:
        raise TopologyError(f"{source}: not readable as {form.title}: {error}") from error


def save_topology(topology: Topology, path: str | os.PathLike[str]) -> None:
    """Write a topology in the format that the extension names; directories are not created.

    The names are what is written, as ids, and reading the file again gives the same names, edges and attributes, with
    the limits of the formats: an edge list keeps edge weights but no node attributes; an adjacency list keeps neither;
    both refuse directed graphs and names with spaces or '#'; GEXF's weights must be numbers.
    Raises TopologyError if the format cannot hold the topology or the file cannot be written.
    """
    file = Path(path)
    data = topology_bytes(topology, file)
    try:
        file.write_bytes(data)
    except OSError as error:
        raise TopologyError(unwritable(file, error)) from error


def topology_bytes(topology: Topology, file: Path) -> bytes:
    """What `save_topology` writes into this file. Raises TopologyError if its format cannot hold the topology."""
    form = _format(file)
    graph = nx.relabel_nodes(topology.graph, dict(enumerate(topology.names)))
    try:
        return form.write(graph)
    except TopologyError as error:
        raise TopologyError(f"{file}: {error}") from None


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
    ".graphml": Format("GraphML", _write_graphml),
    ".gml": Format("GML", _write_gml),
    ".gexf": Format("GEXF", _write_gexf),
    ".json": Format("node-link JSON", _write_json),
    ".edgelist": Format("an edge list", _write_lines(_edge_lines)),
    ".adjlist": Format("an adjacency list", _write_lines(nx.generate_adjlist)),
}
