"""Public keys of peers, written into a topology file; all else in it is kept."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import networkx as nx

from p2pfl.errors import TopologyError, unreadable
from p2pfl.topology.files import difference, load_topology, read_raw, write_checked
from p2pfl.topology.formats.decoding import local_name, read_xml
from p2pfl.topology.formats.json_schedules import is_schedule
from p2pfl.topology.graph import Topology
from p2pfl.topology.naming import name_nodes
from p2pfl.util.files import read_file

_HOLDS_NODES = (".graphml", ".gml", ".gexf", ".json")
KEY = "public_key"
_PREFIXES = re.compile(r"""\bxmlns(?::([\w.-]+))?\s*=\s*["']([^"']+)["']""")
_GML = re.compile(r'"[^"]*"|#[^\n]*|[\[\]]|[^\s\[\]"#]+')


def check_publishable(path: Path, renew: bool) -> None:
    """Check that a file can take public keys.

    Raises TopologyError where it cannot, or has some already that are not to be renewed.
    """
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
    """Set the attribute `public_key` of each node, by its name.

    The file is replaced atomically; all else in it is kept. Raises TopologyError naming the file.
    """
    raw, before = read_raw(path), load_topology(path)
    by_id = {node.id: public_keys[name] for node, name in zip(raw.nodes, name_nodes(raw).names, strict=True)}
    expected = _with_keys(before, public_keys)
    remedy = "write it as a plain .graphml first (p2pfl topology fix FILE -o NEW.graphml)"
    try:
        data = insert_keys(path.suffix.lower(), read_file(path), str(path), by_id)
    except OSError as error:
        raise TopologyError(unreadable(path, error)) from None
    # A dialect in which keys have no place, or one nested too deep to be written.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TopologyError(f"{path}: public keys cannot be inserted into this dialect", remedy=remedy) from error
    write_checked(path, data, lambda read: difference(expected, read), remedy=remedy)


def _with_keys(topology: Topology, public_keys: Mapping[str, str]) -> Topology:
    """Topology that the file must hold afterwards."""
    graph: nx.Graph = topology.graph.copy()
    for i, name in enumerate(topology.names):
        graph.nodes[i]["public_key"] = public_keys[name]
    return replace(topology, graph=graph)


def insert_keys(suffix: str, data: bytes, source: str, public_keys: Mapping[str, str]) -> bytes:
    """Insert the attribute `public_key` of nodes, by their ids, into a file's content.

    Old keys are replaced. Raises TopologyError, ValueError or ParseError where that cannot be done.
    """
    if suffix == ".json":
        return _json(data, public_keys)
    if suffix == ".gml":
        return _gml(data.decode("utf-8-sig"), public_keys).encode()
    root = read_xml(data, source)
    prefixes = _PREFIXES.findall(data.decode("utf-8-sig"))
    (_gexf if local_name(root) == "gexf" else _graphml)(root, public_keys)
    _keep_prefixes(root, prefixes)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _json(data: bytes, public_keys: Mapping[str, str]) -> bytes:
    value = json.loads(data.decode("utf-8-sig"))
    graphs = [value]
    if is_schedule(value) and "nodes" not in value:
        graphs = value if isinstance(value, list) else value["schedule"]
    for graph in graphs:
        elements = graph.get("elements")
        nodes = graph["nodes"] if elements is None else elements["nodes"]
        for position, node in enumerate(nodes):
            inner = node if elements is None else node["data"]
            own = str(inner.get("id", position))  # D3 names nodes by their places
            if own in public_keys:
                inner[KEY] = public_keys[own]
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _graphml(root: ElementTree.Element, public_keys: Mapping[str, str]) -> None:
    space = root.tag.rpartition("}")[0] + "}" if "}" in root.tag else ""
    keys = list(_named(root, "key"))
    found = [e for e in keys if e.get("attr.name") == KEY and e.get("for", "all") in ("node", "all")]
    if found:
        ours = found[0].get("id", "")
    else:
        ours = _unused("public_key", {e.get("id", "") for e in keys})
        declared = {"id": ours, "for": "node", "attr.name": KEY, "attr.type": "string"}
        root.insert(0, root.makeelement(f"{space}key", declared))
    for node in _named(root, "node"):
        if node.get("id") in public_keys:
            for old in [e for e in _named(node, "data", deep=False) if e.get("key") == ours]:
                node.remove(old)
            entry = root.makeelement(f"{space}data", {"key": ours})
            entry.text = public_keys[node.get("id", "")]
            node.insert(0, entry)


def _gexf(root: ElementTree.Element, public_keys: Mapping[str, str]) -> None:
    space = root.tag.rpartition("}")[0] + "}" if "}" in root.tag else ""
    graph = next(_named(root, "graph"))
    groups = [e for e in _named(graph, "attributes", deep=False) if e.get("class") == "node"]
    attributes = [e for group in groups for e in _named(group, "attribute")]
    ours = next((e.get("id", "") for e in attributes if e.get("title") == KEY), None)
    if ours is None:
        ours = _unused("public_key", {e.get("id", "") for e in attributes})
        if not groups:
            groups = [root.makeelement(f"{space}attributes", {"class": "node", "mode": "static"})]
            graph.insert(0, groups[0])
        declared = {"id": ours, "title": KEY, "type": "string"}
        groups[0].append(root.makeelement(f"{space}attribute", declared))
    for node in _named(graph, "node"):
        if node.get("id") in public_keys:
            values = next(_named(node, "attvalues", deep=False), None)
            if values is None:
                values = root.makeelement(f"{space}attvalues", {})
                node.insert(0, values)
            for old in [e for e in _named(values, "attvalue") if ours in (e.get("for"), e.get("id"))]:
                values.remove(old)
            entry = {"for": ours, "value": public_keys[node.get("id", "")]}
            values.append(root.makeelement(f"{space}attvalue", entry))


def _gml(text: str, public_keys: Mapping[str, str]) -> str:
    """Insert keys into the text of a GML file.

    The text itself is changed, because tools write more into it than readers keep.
    """
    pieces: list[str] = []
    copied = 0
    for start, end, own, old in _gml_nodes(text):
        if own not in public_keys:
            continue
        escaped = public_keys[own].replace("&", "&amp;").replace('"', "&quot;")
        pieces += [text[copied:start], f' {KEY} "{escaped}"']
        copied = start
        for first, last in old:
            pieces.append(text[copied:first])
            copied = last
        pieces.append(text[copied:end])
        copied = end
    return "".join([*pieces, text[copied:]])


def _gml_nodes(text: str) -> Iterator[tuple[int, int, str, list[tuple[int, int]]]]:
    """Nodes of GML: start and end of the content, id, and places of old public keys."""
    open_keys: list[str] = []
    key, key_at, begin, own = "", 0, 0, ""
    old: list[tuple[int, int]] = []
    for match in _GML.finditer(text):
        token = match[0]
        if token.startswith("#"):
            continue
        inside = open_keys == ["graph", "node"]
        if token == "[":
            open_keys.append(key.lower())
            key = ""
            if open_keys == ["graph", "node"]:
                begin, own, old = match.end(), "", []
        elif token == "]":
            if inside:
                yield begin, match.start(), own, old
            open_keys = open_keys[:-1]
            key = ""
        elif not key:
            key, key_at = token, match.start()
        else:
            if inside and key.lower() == "id":
                own = token.strip('"')
            elif inside and key == KEY:
                old.append((key_at, match.end()))
            key = ""


def _keep_prefixes(root: ElementTree.Element, prefixes: list[tuple[str, str]]) -> None:
    """Register the prefixes of namespaces as in the file, so that they are written."""
    named = all("}" in element.tag for element in root.iter() if isinstance(element.tag, str))
    for prefix, uri in prefixes:
        if (prefix or named) and not re.fullmatch(r"ns\d+|xml", prefix):
            ElementTree.register_namespace(prefix, uri)


def _named(element: ElementTree.Element, name: str, *, deep: bool = True) -> Iterator[ElementTree.Element]:
    return (child for child in (element.iter() if deep else element) if local_name(child) == name)


def _unused(name: str, taken: set[str]) -> str:
    number = 1
    while name in taken:
        number += 1
        name = f"{name.rstrip('0123456789')}{number}"
    return name
