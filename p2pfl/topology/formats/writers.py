"""Writers of graph files, through networkx."""

from __future__ import annotations

import inspect
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.readers import parse

# networkx 3.4 renamed this argument.
EDGES = "edges" if "edges" in inspect.signature(nx.node_link_graph).parameters else "link"


@dataclass(frozen=True)
class Format:
    """Writable file format: title for people, and function from graph to bytes."""

    title: str
    write: Callable[[nx.Graph], bytes]


def writable_format(path: Path) -> Format:
    """Writable format of a file's extension. Raises TopologyError if there is none."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        shown = f"unknown extension {path.suffix!r}" if path.suffix else "no extension"
        raise TopologyError(f"{path}: {shown}; use one of {' '.join(FORMATS)}") from None


def _write_graphml(graph: nx.Graph) -> bytes:
    buffer = io.BytesIO()
    nx.write_graphml_xml(graph, buffer)  # not write_graphml, whose output depends on lxml being installed
    return buffer.getvalue()


def _write_gml(graph: nx.Graph) -> bytes:
    return ("\n".join(nx.generate_gml(graph)) + "\n").encode("ascii")


def _write_gexf(graph: nx.Graph) -> bytes:
    for u, v, weight in graph.edges(data="weight"):
        if isinstance(weight, str):
            raise TopologyError(f"weight {weight!r} of the edge {u!r} – {v!r} is not a number, which GEXF requires")
    buffer = io.BytesIO()
    nx.write_gexf(graph, buffer)
    return buffer.getvalue()


def _write_json(graph: nx.Graph) -> bytes:
    data = nx.node_link_data(graph, **{EDGES: "edges"})
    return (json.dumps(data, indent=2) + "\n").encode()


def schedule_bytes(graphs: Sequence[nx.Graph], window: int | None) -> bytes:
    """JSON of a schedule: the nodes once, and the edges of each round's graph."""
    listed = [nx.node_link_data(graph, **{EDGES: "edges"}) for graph in graphs]
    head = {"nodes": listed[0]["nodes"], **({} if window is None else {"window": window})}
    lines = [json.dumps({"directed": one["directed"], "edges": one["edges"]}) for one in listed]
    # A line for each graph: a schedule of many is still read by people.
    text = json.dumps(head, indent=2)[:-2] + ',\n  "schedule": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"
    return text.encode()


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
    """Return whether lines are read back as this graph.

    A first peer named 'source', say, would be read as a header.
    """
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
