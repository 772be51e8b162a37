"""Writing of a topology file that is read again before it takes its place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from p2pfl.errors import TopologyError, unwritable
from p2pfl.topology.files import load_topology
from p2pfl.topology.graph import Topology


def write_checked(path: Path, data: bytes, flaw: Callable[[Topology], str | None], *, remedy: str) -> Topology:
    """Replace a topology file at once, or leave it as it was; returns what is read from it.

    `flaw`: what the new content lacks, as it is read; None where it is what was meant. Raises TopologyError naming the
    file, and then the `remedy`.
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


def difference(meant: Topology, read: Topology) -> str | None:
    """What a file does not hold of a topology, for people; None where it holds everything that counts."""
    if meant.names != read.names:
        return "these names"
    if meant.directed != read.directed:
        return "the directions"
    nodes = [(meant.graph.nodes[i], read.graph.nodes[i]) for i in range(meant.n)]
    lost = sorted({key for ours, theirs in nodes for key in ours if theirs.get(key) != ours[key]})
    if lost or any(ours != theirs for ours, theirs in nodes):
        return f"the nodes' {', '.join(lost) or 'attributes'}"
    if sorted(meant.graph.edges) != sorted(read.graph.edges):
        return "these edges"
    same = all(
        data.get("weight") == read.graph.edges[u, v].get("weight") for u, v, data in meant.graph.edges(data=True)
    )
    return None if same else "the weights"
