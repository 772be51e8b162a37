"""Schedules in JSON: node-link graphs, one for each round.

Either a list of graphs, or an object with the list `schedule`, whose `nodes` and `directed` are those of all graphs
that have none, and whose `window` is a number of rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from p2pfl.errors import TopologyError
from p2pfl.topology.raw import RawGraph

KEY = "schedule"
MAX_GRAPHS = 4096
_SHARED = ("nodes", "directed")


def is_schedule(value: object) -> bool:
    """Return whether a JSON value is a schedule of graphs."""
    if isinstance(value, dict):
        return KEY in value
    # A list of Cytoscape's elements has `data` in each, and no edges.
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "nodes" in one for one in value)


def read_schedule(value: object, source: str, read_graph: Callable[[object, str], RawGraph]) -> RawGraph:
    """Read the graphs of a schedule; `read_graph` reads one.

    Raises TopologyError where the list, a graph or the window cannot be read.
    """
    head: Mapping[str, Any] = value if isinstance(value, dict) else {}
    graphs = head.get(KEY, value)
    if not isinstance(graphs, list) or not graphs:
        raise TopologyError(f"{source}: {KEY!r} must be a list of graphs, one for each round")
    if lost := sorted(head.keys() & {"edges", "links"}):
        raise TopologyError(f"{source}: {lost[0]!r} stands beside {KEY!r}, whose graphs have the edges; remove one")
    if len(graphs) > MAX_GRAPHS:
        raise TopologyError(f"{source}: lists {len(graphs)} graphs; at most {MAX_GRAPHS} are supported")
    window = head.get("window")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise TopologyError(f"{source}: 'window' is {window!r}; it must be a number of rounds, at least 1")
    shared = {key: head[key] for key in _SHARED if key in head}
    read = []
    for number, graph in enumerate(graphs, start=1):
        own = {**shared, **graph} if isinstance(graph, dict) else graph
        read.append(read_graph(own, f"{source}: graph {number} of {len(graphs)}"))
    first = read[0]
    notes = dict.fromkeys(note for one in read for note in one.notes)
    return RawGraph(
        any(one.directed for one in read),
        first.nodes,
        (),
        notes=tuple(notes),
        format="a schedule of graphs in JSON",
        rounds=tuple(read),
        window=window,
    )
