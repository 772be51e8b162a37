"""Public keys written into a topology file, which otherwise stays what it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import networkx as nx

from p2pfl.errors import TopologyError, unwritable
from p2pfl.topology.files import load_topology, raw_format, read_graph
from p2pfl.topology.graph import Topology

_HOLDS_NODES = (".graphml", ".gml", ".gexf", ".json")


def check_publishable(path: Path, renew: bool) -> None:
    """Raises TopologyError where the file's format holds no node attributes, or public keys are there already that
    are not to be renewed."""
    if path.suffix.lower() not in _HOLDS_NODES:
        raise TopologyError(
            f"{path}: {path.suffix or 'this format'} holds no public keys; write the graph as one of "
            f"{' '.join(_HOLDS_NODES)} first"
        )
    topology = load_topology(path)
    there = [name for peer, name in enumerate(topology.names) if "public_key" in topology.graph.nodes[peer]]
    if there and not renew:
        raise TopologyError(f"{path}: has public keys already (node {there[0]!r}); --renew replaces them")


def publish(path: Path, public_keys: Mapping[str, str]) -> None:
    """Give each node, by its label, the attribute `public_key`; all other attributes are kept. The file is replaced at
    once or not at all.

    Raises TopologyError naming the file.
    """
    form, data = raw_format(path)
    graph, labels = read_graph(form, data, str(path))
    names = {node: str((labels or {}).get(node, node)) for node in graph}
    for node, name in names.items():
        graph.nodes[node]["public_key"] = public_keys[name]
    target = path.resolve()  # a link stays one
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        temporary.write_bytes(form.write(nx.relabel_nodes(graph, names)))
        if not _differs_in_keys_only(load_topology(path), load_topology(temporary), public_keys):
            raise TopologyError(f"{path}: its format cannot hold the keys; use .graphml")
        os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except OSError as error:
        raise TopologyError(unwritable(path, error)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _differs_in_keys_only(before: Topology, after: Topology, public_keys: Mapping[str, str]) -> bool:
    if before.names != after.names or before.directed != after.directed:
        return False
    nodes = all(
        {**before.graph.nodes[i], "public_key": public_keys[name]} == after.graph.nodes[i]
        for i, name in enumerate(before.names)
    )
    return nodes and list(before.graph.edges(data=True)) == list(after.graph.edges(data=True))
