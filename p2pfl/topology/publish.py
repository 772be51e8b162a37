"""Public keys written into a topology file, which otherwise stays what it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import networkx as nx

from p2pfl.errors import TopologyError, unreadable
from p2pfl.topology.files import load_topology, read_raw
from p2pfl.topology.graph import Topology
from p2pfl.topology.insert import insert_keys
from p2pfl.topology.naming import name_nodes
from p2pfl.topology.rewrite import difference, write_checked
from p2pfl.util.files import read_file

_HOLDS_NODES = (".graphml", ".gml", ".gexf", ".json")


def check_publishable(path: Path, renew: bool) -> None:
    """Raises TopologyError where a file cannot take public keys, or has some already that are not to be renewed."""
    if path.suffix.lower() not in _HOLDS_NODES:
        raise TopologyError(
            f"{path}: {path.suffix or 'this format'} holds no public keys; write the graph as one of "
            f"{' '.join(_HOLDS_NODES)} first (p2pfl topology fix)"
        )
    topology = load_topology(path)
    there = [name for peer, name in enumerate(topology.names) if "public_key" in topology.graph.nodes[peer]]
    if there and not renew:
        raise TopologyError(f"{path}: has public keys already (node {there[0]!r}); --renew replaces them")


def publish(path: Path, public_keys: Mapping[str, str]) -> None:
    """Give each node, by its name, the attribute `public_key`; all else in the file is kept.

    The file is replaced at once or not at all. Raises TopologyError naming the file.
    """
    raw, before = read_raw(path), load_topology(path)
    by_id = {node.id: public_keys[name] for node, name in zip(raw.nodes, name_nodes(raw).names, strict=True)}
    meant = _with_keys(before, public_keys)
    remedy = "write it as a plain .graphml first (p2pfl topology fix FILE -o NEW.graphml)"
    try:
        data = insert_keys(path.suffix.lower(), read_file(path), str(path), by_id)
    except OSError as error:
        raise TopologyError(unreadable(path, error)) from None
    # A dialect in which keys have no place, or one nested too deep to be written.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TopologyError(f"{path}: public keys cannot be inserted into this dialect", remedy=remedy) from error
    write_checked(path, data, lambda read: difference(meant, read), remedy=remedy)


def _with_keys(topology: Topology, public_keys: Mapping[str, str]) -> Topology:
    """The topology that the file is to hold."""
    graph: nx.Graph = topology.graph.copy()
    for i, name in enumerate(topology.names):
        graph.nodes[i]["public_key"] = public_keys[name]
    return Topology(graph, topology.names, topology.name, topology.source)
