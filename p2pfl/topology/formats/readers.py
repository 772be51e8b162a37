"""Readers of graph files, chosen by ending or by content."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from p2pfl.errors import TopologyError
from p2pfl.topology.formats import dot, edge_lists, gexf, gml, graphml, json_graphs, json_shapes, matrix_market, pajek
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.raw import RawGraph


@dataclass(frozen=True)
class Reader:
    """Readable file format: title for people, and function from bytes to raw graph."""

    title: str
    read: Callable[[bytes, str], RawGraph]


GRAPHML = Reader(graphml.TITLE, graphml.read_graphml)
GEXF = Reader(gexf.TITLE, gexf.read_gexf)
GML = Reader(gml.TITLE, gml.read_gml)
JSON = Reader(json_shapes.TITLE, json_graphs.read_json)
EDGES = Reader(edge_lists.TITLE, edge_lists.read_edge_list)
NEIGHBORS = Reader(edge_lists.ADJACENCY_TITLE, edge_lists.read_adjacency_list)
LINES = Reader(edge_lists.TITLE, edge_lists.read_lines)
MATRIX_MARKET = Reader(matrix_market.TITLE, matrix_market.read_matrix_market)
PAJEK = Reader(pajek.TITLE, pajek.read_pajek)
DOT = Reader(dot.TITLE, dot.read_dot)

# Endings that name one format. Files of other endings are recognized by content; the default is the format below.
BY_ENDING: Mapping[str, Reader] = {
    ".graphml": GRAPHML,
    ".gml": GML,
    ".gexf": GEXF,
    ".json": JSON,
    ".edgelist": EDGES,
    ".adjlist": NEIGHBORS,
}
BY_CONTENT: Mapping[str, Reader] = {
    ".edges": EDGES,
    ".txt": LINES,
    ".csv": LINES,
    ".tsv": LINES,
    ".net": PAJEK,
    ".paj": PAJEK,
    ".dot": DOT,
    ".gv": DOT,
    ".mtx": MATRIX_MARKET,
    ".cyjs": JSON,
    ".xml": GRAPHML,
}
ENDINGS = (*BY_ENDING, *BY_CONTENT)
_LINES = (EDGES, NEIGHBORS, LINES)


def parse(data: bytes, ending: str, source: str) -> RawGraph:
    """Parse a file's content, without checks of the graph.

    Raises TopologyError where it cannot be read at all.
    """
    usual = BY_ENDING.get(ending) or BY_CONTENT[ending]
    reader = usual
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python's parsers, on refused or dropped content
            reader = _recognize(data, usual, source)
            graph = reader.read(data, source)
    except TopologyError:
        raise
    except Exception as error:  # parsers raise many errors: ValueError, RecursionError, csv.Error, …
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TopologyError(f"{source}: not readable as {reader.title}: {reason}") from error
    if reader is usual or (reader in _LINES and usual in _LINES):
        return graph
    return replace(graph, notes=(f"read as {graph.format}, which its content is", *graph.notes))


def _recognize(data: bytes, usual: Reader, source: str) -> Reader:
    """Recognize the format by content; the usual one of the ending by default."""
    if usual in (GRAPHML, GEXF) and data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"<":
        return usual  # the XML parser names the fault, with encodings too
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        root = re.search(rb"<(?:[\w.-]+:)?(graphml|gexf)[\s>/]", data[:100_000])
        return usual if root is None else GEXF if root[1] == b"gexf" else GRAPHML
    if usual is GML or usual is JSON or usual is NEIGHBORS:
        return usual
    text = decode(data, source)
    begin = text.lstrip()
    if begin[:1] in ("{", "["):
        return JSON
    if begin[: len(matrix_market.BANNER)].lower() == matrix_market.BANNER:
        return MATRIX_MARKET
    if pajek.looks_like_pajek(text):
        return PAJEK
    if dot.looks_like_dot(text):
        return DOT
    if re.search(r"^[ \t]*graph\s*\[", text, re.MULTILINE):
        return GML
    if usual is DOT and "{" in text:
        return DOT  # its parser names the fault
    return usual if usual is EDGES else LINES
