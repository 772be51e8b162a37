"""DOT, Graphviz's language, read through pydot (extra `graphs`)."""

# networkx's from_pydot leaves out subgraphs, where most drawings have their nodes, so pydot's tree is walked here.

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.raw import RawEdge, RawGraph, make_graph, make_nodes

TITLE = "DOT"
UNDIRECTED = "edges drawn with no arrowhead, or with one at both ends (dir=none, dir=both), are read as undirected"
_MAX_BYTES = 2**19  # pydot's grammar takes about a minute for this much
# Comments and strings left open match up to the end of the text, and repetitions are possessive: these expressions are
# tried on files of all kinds, and must not search to the end of the file once a line.
_COMMENTS = re.compile(
    r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)|/\*.*?(?:\*/|\Z)|//[^\n]*|^[ \t]*#[^\n]*', re.DOTALL | re.MULTILINE
)
_LEADING = re.compile(r"(?:\s++|/\*.*?(?:\*/|\Z)|//[^\n]*|#[^\n]*)*+", re.DOTALL)
_BEGINNING = re.compile(
    r'\s*+(strict\s++)?(di)?graph\b\s*+("(?:\\.|[^"\\])*+"|[^\s{\["]*+)\s*+\{', re.IGNORECASE | re.DOTALL
)
_HEAD = 2**16  # where a graph's name ends at the latest
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|(?<==)\s*<.*?>(?=\s*[,;\]])', re.DOTALL)
_DEFAULTS = ("node", "edge", "graph")
_NAME = re.compile(r'"(?:\\.|[^"\\])*"|<.*>|[^:]*', re.DOTALL)


@dataclass
class _Drawing:
    nodes: dict[str, dict[str, object]] = field(default_factory=dict)
    edges: list[RawEdge] = field(default_factory=list)
    arrows: bool = False
    heads: bool = False


def looks_like_dot(text: str) -> bool:
    """Return whether a file starts like DOT, after comments."""
    return _beginning(text) is not None


def read_dot(data: bytes, source: str) -> RawGraph:
    """Read the graph of a DOT file.

    Raises TopologyError, and ValueError where the file is not DOT.
    """
    text = decode(data, source)
    beginning = _beginning(text)
    if beginning is None:
        raise ValueError("it does not start with 'graph {' or 'digraph {'")
    if len(data) > _MAX_BYTES:
        raise TopologyError(f"{source}: larger than {_MAX_BYTES // 2**10} KiB, too much for DOT; save as .graphml")
    tree = _parse(text, source)
    directed = tree.get_type() == "digraph"
    _check_whole(text, directed)
    drawing = _Drawing()
    _walk(tree, directed, drawing, {}, {})
    edges = list(drawing.edges)
    if beginning[1]:  # strict
        edges = list({_pair(edge, directed): edge for edge in reversed(edges)}.values())[::-1]
    notes = [UNDIRECTED] if drawing.arrows else []
    if drawing.heads:
        notes.append(
            "edges have dir=forward or dir=back, but the edges of a graph are undirected; a digraph's are directed"
        )
    return make_graph(directed, make_nodes(list(drawing.nodes.items()), ("label",)), edges, notes, TITLE)


def _beginning(text: str) -> re.Match[str] | None:
    leading = _LEADING.match(text)
    start = leading.end() if leading else 0
    return _BEGINNING.match(_without_comments(text[start : start + _HEAD]))


def _without_comments(text: str) -> str:
    return _COMMENTS.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)


def _parse(text: str, source: str) -> Any:
    try:
        import pydot
    except ImportError:
        raise TopologyError(
            f"{source}: DOT files need pydot, which is not installed", remedy="pip install 'p2pfl-swarm[graphs]'"
        ) from None
    printed = io.StringIO()  # pydot prints where its grammar stops
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        trees = pydot.graph_from_dot_data(text)
    if not trees:
        raise ValueError(next((line for line in printed.getvalue().splitlines()[::-1] if line.strip()), "syntax error"))
    if len(trees) > 1:
        raise TopologyError(f"{source}: holds {len(trees)} graphs; keep one in each file")
    return trees[0]


def _check_whole(text: str, directed: bool) -> None:
    """Refuse text after the graph and edges of the wrong kind, which pydot overlooks."""
    bare = _QUOTED.sub("x", _without_comments(text))
    depth = 0
    for at, character in enumerate(bare):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            if bare[at + 1 :].strip():
                raise ValueError(f"{bare[at + 1 :].strip()[:40]!r} follows the end of the graph")
            break
    wrong = "--" if directed else "->"
    if wrong in bare:
        raise ValueError(f"it has {wrong!r} in a {'digraph' if directed else 'graph'}")


def _walk(
    graph: Any, directed: bool, drawing: _Drawing, nodes: Mapping[str, object], edges: Mapping[str, object]
) -> list[str]:
    """Add a graph's nodes and edges, with inherited defaults; return its nodes."""
    node_defaults = {**nodes, **_merged(graph.get_node_defaults())}
    edge_defaults = {**edges, **_merged(graph.get_edge_defaults())}
    inside: dict[str, None] = {}
    for node in graph.get_node_list():
        name = _name(node.get_name())
        if node.get_name().lower() in _DEFAULTS:
            continue
        inside[name] = None
        given = _clean(node.get_attributes(), name)
        drawing.nodes[name] = {**_clean(node_defaults, name), **drawing.nodes.get(name, {}), **given}
    for part in graph.get_subgraph_list():
        inside |= dict.fromkeys(_walk(part, directed, drawing, node_defaults, edge_defaults))
    for edge in graph.get_edge_list():
        ends = []
        for end in (edge.get_source(), edge.get_destination()):
            names = list(_ends(end, directed, drawing, node_defaults, edge_defaults))
            inside |= dict.fromkeys(names)
            ends.append(names)
        for name in (*ends[0], *ends[1]):
            drawing.nodes.setdefault(name, _clean(node_defaults, name))
        data = _clean({**edge_defaults, **edge.get_attributes()}, "")
        drawing.edges += [_edge(u, v, data, directed, drawing) for u in ends[0] for v in ends[1]]
    return list(inside)


def _ends(
    end: Any, directed: bool, drawing: _Drawing, nodes: Mapping[str, object], edges: Mapping[str, object]
) -> Iterable[str]:
    """Nodes at an edge's end: one, or all nodes of a subgraph."""
    if isinstance(end, str | int | float):
        return [_name(str(end))]
    if isinstance(end, Mapping):  # pydot's form of { a b }
        import pydot

        end = pydot.Subgraph(obj_dict=dict(end))
    return _walk(end, directed, drawing, nodes, edges)


def _edge(u: str, v: str, data: Mapping[str, object], directed: bool, drawing: _Drawing) -> RawEdge:
    edge = RawEdge(u, v, data.get("weight"))
    drawing.heads |= not directed and str(data.get("dir", "")).lower() in ("forward", "back")
    if not directed:
        return edge
    way = str(data.get("dir", "forward")).lower()
    head = way in ("forward", "both") and data.get("arrowhead") != "none"
    tail = way in ("back", "both") and data.get("arrowtail") != "none"
    if head == tail:
        drawing.arrows = True
        return replace(edge, directed=False)
    return RawEdge(v, u, edge.weight) if tail else edge


def _pair(edge: RawEdge, directed: bool) -> tuple[str, ...]:
    pair = (edge.source, edge.target)
    return pair if directed and edge.directed is not False else tuple(sorted(pair))


def _merged(defaults: Iterable[Mapping[str, object]]) -> dict[str, object]:
    return {key: value for given in defaults or () for key, value in given.items()}


def _name(text: str) -> str:
    """Name of a node without quotes, and without the port at which an edge is drawn."""
    return _unquoted(_NAME.match(text.strip())[0])  # type: ignore[index]  # matches anything


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r"\\\r?\n", "", text[1:-1]).replace('\\"', '"')
    return text


def _clean(attributes: Mapping[str, object], name: str) -> dict[str, object]:
    """Attributes without quotes; labels that are text on one line, others dropped."""
    found: dict[str, object] = {}
    for key, value in attributes.items():
        text = _unquoted(str(value))
        if key == "label":
            if text.startswith("<"):
                continue
            text = " ".join(re.sub(r"\\[nlr]", " ", text.replace(r"\N", name)).split())
        found[key] = text
    return found
