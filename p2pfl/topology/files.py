"""Topology files in and out.

Graphs are read in the dialects of many tools (see `readers`), and written as GraphML, GML, GEXF, node-link JSON, edge
list or adjacency list through networkx's writers.
"""

from __future__ import annotations

import inspect
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx as nx

from p2pfl.errors import TopologyError, unreadable, unwritable
from p2pfl.topology.graph import Topology, topology_from
from p2pfl.topology.raw import RawGraph
from p2pfl.topology.readers import ENDINGS, parse
from p2pfl.util.files import opener, read_file

MAX_FILE_BYTES = 64 * 2**20

# networkx 3.4 renamed this argument.
EDGES = "edges" if "edges" in inspect.signature(nx.node_link_graph).parameters else "link"


@dataclass(frozen=True)
class Format:
    """One file format that is written: its name for people, and graph → bytes."""

    title: str
    write: Callable[[nx.Graph], bytes]


def read_raw(file: Path) -> RawGraph:
    """What a topology file declares, not checked yet.

    Its ending says the format; of .edges, .txt, .csv, .tsv, .net, .dot and others the content does. Raises
    TopologyError with one line that names the file and the remedy where it cannot be parsed at all.
    """
    if file.suffix.lower() not in ENDINGS:
        if not os.path.lexists(file) or file.is_dir():
            _read_bytes(file)  # which says so
        shown = f"unknown extension {file.suffix!r}" if file.suffix else "no extension"
        raise TopologyError(f"{file}: {shown}; use one of {' '.join(ENDINGS)}")
    return parse(_read_bytes(file), file.suffix.lower(), str(file))


def load_topology(path: str | os.PathLike[str], least: int = 2, *, by_ids: bool = False) -> Topology:
    """Read and check a topology file (see `read_raw` for the formats).

    A peer's name is its label where every node has one and all differ, else its node id; `by_ids`: its id, as in the
    files of run directories, which `save_topology` writes. Edge lists and adjacency lists have no way to say
    directions and are read as undirected; an edge may be given at both its ends.
    Raises TopologyError with one line that names the file, all its troubles and the command that mends them, also for
    fewer than `least` peers.
    """
    file = Path(path)
    try:
        raw = read_raw(file)
    except TopologyError as error:
        if not by_ids or isinstance(error.__cause__, OSError):  # whose own remedy fits
            raise
        raise TopologyError(str(error).partition("; ")[0], remedy="put back the file that the run began with") from None
    if by_ids:
        raw = replace(raw, nodes=tuple(replace(node, label=None) for node in raw.nodes))
    return topology_from(raw, name=file.stem, source=str(file), least=least, mendable=True)


def writable_format(path: Path) -> Format:
    """The format that a file's extension names. Raises TopologyError where none that is written does."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        shown = f"unknown extension {path.suffix!r}" if path.suffix else "no extension"
        raise TopologyError(f"{path}: {shown}; use one of {' '.join(FORMATS)}") from None


def save_topology(topology: Topology, path: str | os.PathLike[str]) -> None:
    """Write a topology in the format that the extension names; directories are not created.

    The names are what is written, as ids, and reading the file again gives the same names, edges and attributes, with
    the limits of the formats: an edge list keeps edge weights but no node attributes; an adjacency list keeps neither;
    both refuse directed graphs, and names with spaces or '#' or that they would read as something else; GEXF's weights
    must be numbers.
    Raises TopologyError if the format cannot hold the topology or the file cannot be written.
    """
    file = Path(path)
    data = topology_bytes(topology, file)
    try:
        with open(file, "wb", opener=opener) as opened:
            opened.write(data)
    except OSError as error:
        raise TopologyError(unwritable(file, error)) from error


def topology_bytes(topology: Topology, file: Path) -> bytes:
    """What `save_topology` writes into this file. Raises TopologyError if its format cannot hold the topology."""
    form = writable_format(file)
    graph = nx.relabel_nodes(topology.graph, dict(enumerate(topology.names)))
    try:
        return form.write(graph)
    except TopologyError as error:
        raise TopologyError(f"{file}: {error}") from None


def _read_bytes(file: Path) -> bytes:
    try:
        if not file.exists():
            raise TopologyError(f"{file}: no such file; check the path, or `topology make` writes one")
        if not file.is_file():
            raise TopologyError(f"{file}: not a regular file; give the path of a topology file")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise TopologyError(f"{file}: larger than {MAX_FILE_BYTES // 2**20} MiB; no topology needs that")
        data = read_file(file, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte, before Python 3.12
        raise TopologyError(unreadable(file, error)) from error
    if not data.strip():
        raise TopologyError(f"{file}: the file has no content; write a graph into it")
    return data


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
    data = nx.node_link_data(graph, **{EDGES: "edges"})
    return (json.dumps(data, indent=2) + "\n").encode()


def _write_lines(generate: Callable[[nx.Graph], Any], ending: str) -> Callable[[nx.Graph], bytes]:
    def write(graph: nx.Graph) -> bytes:
        if graph.is_directed():
            raise TopologyError("this format has no directions; write a directed graph as .graphml")
        for label in graph:
            if "#" in label or any(c.isspace() for c in label):
                raise TopologyError(f"the label {label!r} has a space or '#'; write it as .graphml")
        data = ("\n".join(generate(graph)) + "\n").encode()
        if not _reads_back(data, ending, graph):
            raise TopologyError(
                "its labels have quotation marks, commas or words that mean something else in this format; write it as "
                ".graphml"
            )
        return data

    return write


def _reads_back(data: bytes, ending: str, graph: nx.Graph) -> bool:
    """Whether lines mean this graph: a first peer named 'source', say, would be read as a header."""
    try:
        raw = parse(data, ending, ending)
    except TopologyError:
        return False
    edges = Counter(frozenset((edge.source, edge.target)) for edge in raw.edges)
    return edges == Counter(frozenset(edge) for edge in graph.edges) and {node.id for node in raw.nodes} == set(graph)


def _edge_lines(graph: nx.Graph) -> Any:
    return nx.generate_edgelist(graph, data=any(weight is not None for *_, weight in graph.edges(data="weight")))


FORMATS: Mapping[str, Format] = {
    ".graphml": Format("GraphML", _write_graphml),
    ".gml": Format("GML", _write_gml),
    ".gexf": Format("GEXF", _write_gexf),
    ".json": Format("node-link JSON", _write_json),
    ".edgelist": Format("an edge list", _write_lines(_edge_lines, ".edgelist")),
    ".adjlist": Format("an adjacency list", _write_lines(nx.generate_adjlist, ".adjlist")),
}
