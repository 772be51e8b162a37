"""Pajek networks: *Vertices with *Edges, *Arcs, *Edgeslist, *Arcslist or *Matrix."""

# networkx's reader takes *Edgeslist for *Edges, arcs after edges for edges, and merges vertices of one label; all of
# them in silence. It also fails on vertices that are counted but not listed, and on matrices of fractions.

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.formats.tables import is_number, is_whole
from p2pfl.topology.raw import RawEdge, RawGraph, RawNode, as_label, make_graph

TITLE = "Pajek"
_FIELD = re.compile(r'"([^"]*)"|(\S+)')
_SECTION = re.compile(r"\*\s*([A-Za-z]+)")
_IGNORED = ("vector", "partition", "permutation", "cluster", "hierarchy", "events")


@dataclass
class _Network:
    source: str
    labels: dict[str, str | None] = field(default_factory=dict)
    repeated: list[RawNode] = field(default_factory=list)
    edges: list[RawEdge] = field(default_factory=list)
    directed: bool = False
    counted: int | None = None
    row: int = 0


def looks_like_pajek(text: str) -> bool:
    """Return whether a line starts the vertices of a Pajek network."""
    return re.search(r"^[ \t]*\*[ \t]*vertices\b", text, re.IGNORECASE | re.MULTILINE) is not None


def read_pajek(data: bytes, source: str) -> RawGraph:
    """Read the network of a Pajek file.

    Raises TopologyError, and ValueError where the file is not a Pajek network.
    """
    network = _Network(source)
    section, skipped = "", set[str]()
    for number, line in enumerate(decode(data, source).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("%"):
            continue
        fields = [match[1] if match[2] is None else match[2] for match in _FIELD.finditer(line)]
        begins = _SECTION.match(line.strip())
        if begins:
            begun = begins[1].lower()
            if section in _IGNORED and begun == "vertices":  # the vertices of a partition or vector
                continue
            section = begun
            _begin(section, fields, network)
            if section in _IGNORED:
                skipped.add(section)
            continue
        _read_line(section, fields, number, network)
    if network.counted is None:
        raise ValueError("it has no *Vertices")
    if network.row and network.row != network.counted:
        raise TopologyError(f"{source}: *Matrix has {network.row} lines for {network.counted} vertices; complete it")
    nodes = [RawNode(node, label) for node, label in network.labels.items()] + network.repeated
    notes = [f"*{name} is not used" for name in sorted(skipped)]
    return make_graph(network.directed, nodes, network.edges, notes, TITLE)


def _begin(section: str, fields: Sequence[str], network: _Network) -> None:
    """Start a section; the one of the vertices has their number."""
    if section == "vertices":
        if network.counted is not None:
            raise TopologyError(f"{network.source}: holds several networks (*Vertices twice); keep one in each file")
        if len(fields) < 2 or not is_whole(fields[1]) or int(fields[1]) > 10**6:
            raise ValueError("*Vertices is not followed by a number of up to a million")
        network.counted = int(fields[1])
        network.labels = {str(i): None for i in range(1, network.counted + 1)}
    elif section in ("arcs", "arcslist", "matrix"):
        network.directed = True
    elif section not in ("network", "edges", "edgeslist", *_IGNORED):
        raise ValueError(f"*{section[:40]} is an unknown section")


def _read_line(section: str, fields: Sequence[str], number: int, network: _Network) -> None:
    if section == "vertices":
        _add_vertex(fields, number, network)
    elif section in ("edges", "arcs"):
        if len(fields) < 2:
            raise TopologyError(f"{network.source}: line {number} is not an edge; write two vertices' numbers")
        weight = fields[2] if len(fields) > 2 and is_number(fields[2]) else None
        network.edges.append(RawEdge(fields[0], fields[1], weight, section == "arcs"))
    elif section in ("edgeslist", "arcslist"):
        network.edges += [RawEdge(fields[0], target, None, section == "arcslist") for target in fields[1:]]
    elif section == "matrix":
        network.row += 1
        if len(fields) != (network.counted or 0) or not all(is_number(value) for value in fields):
            raise TopologyError(
                f"{network.source}: line {number} has {len(fields)} values instead of {network.counted or 0} numbers"
            )
        network.edges += [
            RawEdge(str(network.row), str(column), value, True)
            for column, value in enumerate(fields, start=1)
            if float(value) != 0
        ]
    elif section not in _IGNORED:
        raise ValueError(f"line {number} is in no section")


def _add_vertex(fields: Sequence[str], number: int, network: _Network) -> None:
    """Add a vertex with its label; shape and position are not used.

    A number given twice is kept, to be refused by the checks.
    """
    vertex = fields[0]
    label = as_label(fields[1]) if len(fields) > 1 else None
    if vertex not in network.labels:
        raise TopologyError(
            f"{network.source}: line {number} has the vertex {vertex[:40]!r}; *Vertices counts to {network.counted}"
        )
    if network.labels[vertex] is not None:
        network.repeated.append(RawNode(vertex, label))
    else:
        network.labels[vertex] = label
