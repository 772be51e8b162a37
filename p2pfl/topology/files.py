"""Topology files: load, save, and replace with a check.

Graphs are read in the dialects of many tools (see `formats.readers`), and written as GraphML, GML, GEXF, node-link
JSON, edge list or adjacency list through networkx's writers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx

from p2pfl.errors import TopologyError, unreadable, unwritable
from p2pfl.topology.formats.readers import ENDINGS, parse
from p2pfl.topology.formats.writers import schedule_bytes, writable_format
from p2pfl.topology.graph import Topology, topology_from
from p2pfl.topology.raw import RawGraph
from p2pfl.util.files import opener, read_file

MAX_FILE_BYTES = 64 * 2**20


def read_raw(file: Path) -> RawGraph:
    """Read a topology file without checking the graph.

    The ending determines the format; for .edges, .txt, .csv, .tsv, .net, .dot and others the content does. Raises
    TopologyError with one line that names the file and the remedy where it cannot be parsed at all.
    """
    if file.suffix.lower() not in ENDINGS:
        if not os.path.lexists(file) or file.is_dir():
            _read_bytes(file)  # raises
        shown = f"unknown extension {file.suffix!r}" if file.suffix else "no extension"
        raise TopologyError(f"{file}: {shown}; use one of {' '.join(ENDINGS)}")
    return parse(_read_bytes(file), file.suffix.lower(), str(file))


def load_topology(path: str | os.PathLike[str], least: int = 2, *, by_ids: bool = False) -> Topology:
    """Read and check a topology file (see `read_raw` for the formats).

    A peer's name is its label where all nodes have different ones, else its node id; `by_ids`: its id, as in the
    files of run directories, which `save_topology` writes. Edge lists and adjacency lists cannot express directions
    and are read as undirected; an edge may be given at both its ends.
    Raises TopologyError with one line that names the file, all its problems and the command that fixes them, also for
    fewer than `least` peers.

    Examples:
        >>> load_topology("topologies/lan-3.graphml").names
        ('alice', 'bob', 'carol')
    """
    file = Path(path)
    try:
        raw = read_raw(file)
    except TopologyError as error:
        if not by_ids or isinstance(error.__cause__, OSError):  # its remedy fits
            raise
        raise TopologyError(str(error).partition("; ")[0], remedy="put back the file that the run began with") from None
    if by_ids:
        raw = replace(raw, nodes=tuple(replace(node, label=None) for node in raw.nodes))
    return topology_from(raw, name=file.stem, source=str(file), least=least, is_fixable=True)


def save_topology(topology: Topology, path: str | os.PathLike[str]) -> None:
    """Write a topology in the format of the extension; directories are not created.

    The names are written as ids, and reading the file again gives the same names, edges and attributes, with
    the limits of the formats: an edge list keeps edge weights but no node attributes; an adjacency list keeps neither;
    both refuse directed graphs, and names with spaces or '#' or that would be read back as something else; GEXF's
    weights must be numbers. A schedule of graphs is written as .json only.
    Raises TopologyError if the format cannot hold the topology or the file cannot be written.

    Examples:
        >>> save_topology(make_topology("torus", 16), "torus.graphml")  # doctest: +SKIP
    """
    file = Path(path)
    data = topology_bytes(topology, file)
    try:
        with open(file, "wb", opener=opener) as opened:
            opened.write(data)
    except OSError as error:
        raise TopologyError(unwritable(file, error)) from error


def topology_bytes(topology: Topology, file: Path) -> bytes:
    """Content of a topology file. Raises TopologyError if its format cannot hold it."""
    form = writable_format(file)
    labels = dict(enumerate(topology.names))
    if topology.is_schedule:
        if file.suffix.lower() != ".json":
            raise TopologyError(f"{file}: only .json can hold a schedule of graphs; choose that extension")
        return schedule_bytes([nx.relabel_nodes(graph, labels) for graph in topology.rounds], topology.window)
    graph = nx.relabel_nodes(topology.graph, labels)
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


def write_checked(path: Path, data: bytes, flaw: Callable[[Topology], str | None], *, remedy: str) -> Topology:
    """Replace a topology file atomically, after reading the new content back.

    Returns the topology as read back. `flaw`: describes what that lacks, None where it is as intended; the file is
    then unchanged. Raises TopologyError with the file's name and the `remedy`.
    """
    target = path.resolve()  # a link stays one
    temporary = target.with_name(f".{target.stem[:40]}.{os.getpid()}{target.suffix}")
    try:
        temporary.write_bytes(data)
        lacking, read = _compared(temporary, flaw)
        if read is None:
            raise TopologyError(f"{path}: {path.suffix} cannot hold {lacking}", remedy=remedy)
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except OSError as error:
        raise TopologyError(unwritable(path, error)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return read


def _compared(file: Path, flaw: Callable[[Topology], str | None]) -> tuple[str, Topology | None]:
    try:
        read = load_topology(file)
    except TopologyError:
        return "this graph", None
    lacking = flaw(read)
    return (lacking, None) if lacking else ("", read)


def difference(expected: Topology, read: Topology) -> str | None:
    """First difference between two topologies, for people; None where there is none."""
    if expected.names != read.names:
        return "these names"
    if expected.directed != read.directed:
        return "the directions"
    nodes = [(expected.graph.nodes[i], read.graph.nodes[i]) for i in range(expected.n)]
    lost = sorted({key for ours, theirs in nodes for key in ours if theirs.get(key) != ours[key]})
    if lost or any(ours != theirs for ours, theirs in nodes):
        return f"the nodes' {', '.join(lost) or 'attributes'}"
    if (len(expected.rounds), expected.window) != (len(read.rounds), read.window):
        return "this schedule"
    pairs = [(expected.graph, read.graph), *zip(expected.rounds, read.rounds, strict=True)]
    if any(sorted(ours.edges) != sorted(theirs.edges) for ours, theirs in pairs):
        return "these edges"
    same = all(
        data.get("weight") == theirs.edges[u, v].get("weight")
        for ours, theirs in pairs
        for u, v, data in ours.edges(data=True)
    )
    return None if same else "the weights"
