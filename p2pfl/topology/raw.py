"""A graph as a file declares it, before any check.

Parallel edges, self-loops and undeclared ends are included. Readers make it; `checks`, `graph` and `mend` use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What the program uses of a node; colors, positions, times and all else are dropped.
NODE_ATTRIBUTES = ("host", "port", "device", "public_key")


@dataclass(frozen=True)
class RawNode:
    """A declared node. `attributes`: those of `NODE_ATTRIBUTES`, as given."""

    id: str
    label: str | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class RawEdge:
    """An edge in the file's words. `directed` None: as the graph says; some formats say it edge by edge."""

    source: str
    target: str
    weight: object = None
    directed: bool | None = None


@dataclass(frozen=True)
class RawGraph:
    """Nodes and edges in file order; ids are text.

    `notes`: what the reader recognized and a user must know, such as a line read as a header. `format`: its title for
    people. `doubt`: what is to be said too where the graph is disconnected. A node that only an edge mentions is among
    the nodes where the format declares none (edge list, DOT).
    """

    directed: bool
    nodes: tuple[RawNode, ...]
    edges: tuple[RawEdge, ...]
    notes: tuple[str, ...] = ()
    format: str = ""
    doubt: str = ""
