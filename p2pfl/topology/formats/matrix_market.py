"""Adjacency matrices in the coordinate format of Matrix Market."""

from __future__ import annotations

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.formats.tables import is_number, is_whole
from p2pfl.topology.raw import RawEdge, RawGraph, RawNode, make_graph

TITLE = "Matrix Market"
BANNER = "%%matrixmarket"


def read_matrix_market(data: bytes, source: str) -> RawGraph:
    """Read the graph of a square matrix.

    Each entry other than zero is an edge from its row to its column, with its value as weight. Raises TopologyError
    for other matrices, and ValueError where the file is not a matrix.
    """
    banner, _, body = decode(data, source).lstrip().partition("\n")
    words = banner.lower().split()
    if len(words) < 5 or words[0] != BANNER or words[1] != "matrix":
        raise ValueError("its first line is not '%%MatrixMarket matrix coordinate …'")
    layout, values, symmetry = words[2:5]
    if layout != "coordinate" or values not in ("pattern", "real", "integer", "double"):
        raise TopologyError(
            f"{source}: a matrix of kind {layout} {values}; only coordinate pattern, real or integer is read"
        )
    if symmetry not in ("general", "symmetric"):
        raise TopologyError(f"{source}: a {symmetry} matrix; only general and symmetric ones are graphs")
    rows = [line.split() for line in body.splitlines() if line.strip() and not line.lstrip().startswith("%")]
    if not rows or len(rows[0]) != 3 or not all(is_whole(field) for field in rows[0]):
        raise ValueError("it has no line with the numbers of rows, columns and entries")
    height, width, count = map(int, rows[0])
    if height != width:
        raise TopologyError(f"{source}: {height} rows and {width} columns; a graph's matrix is square")
    if count != len(rows) - 1:
        raise TopologyError(
            f"{source}: {len(rows) - 1} entries instead of {count}; the file may be cut, fetch it again"
        )
    if height > 10**6:
        raise TopologyError(f"{source}: {height} nodes; no topology needs so many")
    if any(len(row) != (2 if values == "pattern" else 3) for row in rows[1:]):
        raise ValueError(f"an entry does not have {'two' if values == 'pattern' else 'three'} numbers")
    wrong = next((row[2] for row in rows[1:] if len(row) > 2 and not is_number(row[2])), None)
    if wrong is not None:
        raise ValueError(f"an entry has the value {wrong[:40]!r}, which is not a number")
    entries = [row for row in rows[1:] if len(row) < 3 or float(row[2]) != 0]
    edges = [RawEdge(row[0], row[1], row[2] if len(row) > 2 else None) for row in entries]
    zeros = len(rows) - 1 - len(entries)
    notes = [f"{zeros} stored {'zeros are' if zeros > 1 else 'zero is'} no edge{'s' * (zeros > 1)}"] if zeros else []
    nodes = [RawNode(str(i)) for i in range(1, height + 1)]
    return make_graph(symmetry == "general", nodes, edges, notes, TITLE)
