"""Public keys written into a topology file, which otherwise stays what it was."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from p2pfl.errors import TopologyError, unreadable, unwritable
from p2pfl.topology.files import EDGES, load_topology, writable_format
from p2pfl.topology.graph import Topology
from p2pfl.topology.safe_xml import read_xml

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
    form = writable_format(path)
    before = load_topology(path)
    graph = _read_all(path)
    names = _names_of(graph, public_keys, path)
    for node, name in names.items():
        graph.nodes[node]["public_key"] = public_keys[name]
    try:
        data = form.write(nx.relabel_nodes(graph, names))
    except Exception as error:  # networkx's writers stumble over attributes that only the reader put up with
        raise _unwritable_dialect(path) from error
    target = path.resolve()  # a link stays one
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        temporary.write_bytes(data)
        if not _differs_in_keys_only(before, load_topology(temporary), public_keys):
            raise TopologyError(f"{path}: its format cannot hold the keys; use .graphml")
        os.chmod(temporary, target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except OSError as error:
        raise TopologyError(unwritable(path, error)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read_all(path: Path) -> nx.Graph:
    """The graph with all attributes, those that mean nothing here included, as networkx's own reader finds it.

    Raises TopologyError where that reader refuses the dialect.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TopologyError(unreadable(path, error)) from None
    try:
        with warnings.catch_warnings(action="ignore"):  # about what it drops; nothing that is used here is
            return _read_as(path.suffix.lower(), data, str(path))
    except TopologyError:
        raise
    except Exception as error:  # networkx's readers raise whatever they stumble over: KeyError, TypeError, …
        raise _unwritable_dialect(path) from error


def _read_as(ending: str, data: bytes, source: str) -> nx.Graph:
    if ending in (".graphml", ".gexf"):
        reader = nx.read_graphml if ending == ".graphml" else nx.read_gexf
        return reader(io.BytesIO(read_xml(data, source)[1]))
    text = data.decode("utf-8-sig")
    if ending == ".gml":
        return nx.parse_gml(text, label="id")
    value = json.loads(text)
    if "links" in value and "edges" not in value:  # networkx before 3.4, D3
        value["edges"] = value.pop("links")
    value = {"directed": False, "graph": {}, **value, "multigraph": False}
    return nx.node_link_graph(value, **{EDGES: "edges"})


def _names_of(graph: nx.Graph, public_keys: Mapping[str, str], path: Path) -> dict[Any, str]:
    """Each node's name as a peer: its id or its label, whichever the keys are for."""
    ids = {node: str(node) for node in graph}
    labels = {node: str(data.get("label", node)) for node, data in graph.nodes(data=True)}
    for names in (ids, labels):
        if set(names.values()) == set(public_keys) and len(set(names.values())) == len(graph):
            return names
    raise _unwritable_dialect(path)


def _unwritable_dialect(path: Path) -> TopologyError:
    return TopologyError(
        f"{path}: public keys cannot be added to this dialect of the format; write it again with `topology fix "
        f"{path} -o NEW.graphml` and make keys for that file"
    )


def _differs_in_keys_only(before: Topology, after: Topology, public_keys: Mapping[str, str]) -> bool:
    if before.names != after.names or before.directed != after.directed:
        return False
    nodes = all(
        {**before.graph.nodes[i], "public_key": public_keys[name]} == after.graph.nodes[i]
        for i, name in enumerate(before.names)
    )
    return nodes and list(before.graph.edges(data=True)) == list(after.graph.edges(data=True))
