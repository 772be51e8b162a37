"""GML, as networkx, yEd, Gephi, Cytoscape, igraph and the Topology Zoo write it."""

# networkx's reader refuses parallel edges, undeclared ends, unquoted text, numbers such as 1e5 and non-alphabetic
# keys, each with the first one found. So lists of keys and values are read here.

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from networkx.readwrite.gml import unescape

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.decoding import decode
from p2pfl.topology.raw import NODE_ATTRIBUTES, RawEdge, RawGraph, make_graph, make_nodes, without_groups

TITLE = "GML"
_TOKEN = re.compile(r'"(?P<string>[^"]*)"|(?P<bracket>[\[\]])|#[^\n]*|(?P<word>[^\s\[\]"]+)|\s+|(?P<open>")')
_ARROWS = {"arrow", "sourcearrow", "targetarrow", "source_arrow", "target_arrow"}
UNDIRECTED = "edges drawn with no arrowhead, or with one at both ends, are read as undirected"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Keys that may follow a value in its line. After text without quotes, any other word belongs to the text.
_KEYS = (
    *(
        "id",
        "label",
        "name",
        "source",
        "target",
        "weight",
        "value",
        "key",
        *NODE_ATTRIBUTES,
        "node",
        "edge",
        "directed",
    ),
    *("graphics", "labelgraphics", "isgroup", "gid", "root_index"),
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class _List(dict[str, list[object]]):
    """List of GML: values by key in lower case, in the order given."""

    def first(self, key: str) -> object:
        """First value of a key; None where it has none."""
        return self.get(key, [None])[0]

    def lists(self, key: str) -> Iterator[_List]:
        """Values of a key that are lists."""
        return (value for value in self.get(key, []) if isinstance(value, _List))


def read_gml(data: bytes, source: str) -> RawGraph:
    """Read the graph of a GML file.

    Raises TopologyError, and ValueError where the file is not GML.
    """
    text = decode(data, source)
    graphs = list(_parse(text, source).lists("graph"))
    if len(graphs) != 1:
        raise ValueError(f"it holds {len(graphs)} lists 'graph [ … ]' instead of one")
    graph = graphs[0]
    directed = graph.first("directed")
    if directed not in (None, 0, 1, "0", "1"):
        raise TopologyError(f"{source}: 'directed' is {str(directed)[:40]!r}; it must be 0 or 1")
    found = [_node(node, number, source) for number, node in enumerate(graph.lists("node"), start=1)]
    drawn = directed in (1, "1") and _draws_arrows(graph, text)
    edges = [_edge(edge, number, drawn, source) for number, edge in enumerate(graph.lists("edge"), start=1)]
    groups = [str(node.first("id")) for node in graph.lists("node") if node.first("isgroup") == 1]
    nodes, notes = without_groups(make_nodes(found), edges, groups)
    if drawn and any(edge.directed is False for edge in edges):
        notes.append(UNDIRECTED)
    if directed is None and not any(edge.directed for edge in edges) and any(map(_has_arrow, graph.lists("edge"))):
        notes.append("edges are drawn with arrows but the graph does not say 'directed 1', and is read as undirected")
    return make_graph(directed in (1, "1"), nodes, edges, notes, TITLE)


def _node(node: _List, number: int, source: str) -> tuple[str, Mapping[str, object]]:
    if node.first("id") is None:
        raise TopologyError(f"{source}: node {number} of the file has no id; give it one")
    fields = {key: values[0] for key, values in node.items()}
    if fields.get("label") is None:  # yEd may have the text only where it says how to draw it
        fields["label"] = next((drawn.first("text") for drawn in node.lists("labelgraphics")), None)
    return str(node.first("id")), fields


def _draws_arrows(graph: _List, text: str) -> bool:
    """Return whether arrows give the directions of edges.

    yEd declares every graph directed; other tools do so for directed graphs only.
    """
    if re.search(r"^\s*creator\s+\"?yfiles", text[:4096], re.IGNORECASE | re.MULTILINE) or "hierarchic" in graph:
        return True
    return any(_ARROWS & set(drawn) for edge in graph.lists("edge") for drawn in (edge, *edge.lists("graphics")))


def _arrows(edge: _List) -> tuple[bool, bool] | None:
    """Presence of arrowheads at an edge's source and target; None if unspecified."""
    drawn = {key: str(values[0]).lower() for part in (edge, *edge.lists("graphics")) for key, values in part.items()}
    if not _ARROWS & set(drawn) and "graphics" not in edge:
        return None
    if "arrow" in drawn:
        return drawn["arrow"] in ("first", "both"), drawn["arrow"] in ("last", "both")
    tail, head = (
        any(drawn.get(f"{end}{mark}arrow", "none") not in ("none", "0", "") for mark in ("", "_"))
        for end in ("source", "target")
    )
    return tail, head


def _edge(edge: _List, number: int, drawn: bool, source: str) -> RawEdge:
    for end in ("source", "target"):
        if edge.first(end) is None:
            raise TopologyError(f"{source}: edge {number} of the file has no {end}; add it")
    ends, weight = (str(edge.first("source")), str(edge.first("target"))), edge.first("weight")
    declared = {"0": False, "1": True}.get(str(edge.first("directed")))
    arrows = _arrows(edge) if drawn and declared is None else None
    if arrows is None:
        return RawEdge(*ends, weight, declared)
    tail, head = arrows
    if tail == head:
        return RawEdge(*ends, weight, False)
    return RawEdge(*(ends[::-1] if tail else ends), weight, True)


def _has_arrow(edge: _List) -> bool:
    return any(_arrows(edge) or ())


class _Tokens:
    """Tokens of a text one by one, with one token of lookahead."""

    def __init__(self, text: str) -> None:
        self._found = _tokens(text)
        self.following = next(self._found, None)

    def take(self) -> _Token | None:
        """Next token; None at the end."""
        token, self.following = self.following, next(self._found, None)
        return token


def _parse(text: str, source: str) -> _List:
    """Parse the outermost list.

    Nested lists are kept on an explicit stack, because a file may nest deeper than Python's recursion.
    """
    tokens = _Tokens(text)
    stack = [_List()]
    while (token := tokens.take()) is not None:
        if token.kind == "bracket" and token.text == "]" and len(stack) > 1:
            stack.pop()
            continue
        if token.kind != "word":
            raise ValueError(f"line {token.line} has {token.text[:40]!r} where a key is expected")
        value = tokens.following
        if len(stack) == 1 and token.text.lower() != "graph" and (value is None or value.text != "["):
            while tokens.following is not None and tokens.following.line == token.line:
                tokens.take()  # a line about the file's creator, free in its form
            continue
        tokens.take()
        if value is None or (value.kind == "bracket" and value.text == "]"):
            raise ValueError(f"line {token.line} has the key {token.text[:40]!r} without a value")
        nested = _List() if value.kind == "bracket" else None
        stack[-1].setdefault(token.text.lower(), []).append(_value(value) if nested is None else nested)
        if nested is not None:
            stack.append(nested)
        elif value.kind == "word" and not _NUMBER.fullmatch(value.text):
            _check_unquoted(value, tokens.following, source)
    if len(stack) > 1:
        raise ValueError("it ends before all its lists '[ … ]' do")
    return stack[0]


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match["open"]:
            raise ValueError(f'line {line} has a quotation mark (") that is never closed')
        if match["string"] is not None and re.match(r'[^\s\[\]"]', text[match.end() : match.end() + 1]):
            raise ValueError(f'line {line} has a quotation mark (") within text; write it as &quot;')
        kind = match.lastgroup
        if kind is not None:
            yield _Token(kind, match[kind], line)
        line += match[0].count("\n")


def _check_unquoted(value: _Token, following: _Token | None, source: str) -> None:
    """Refuse text without quotes that seems to have more than one word."""
    if following is None or following.line != value.line or following.kind == "bracket":
        return
    if following.kind == "string" or following.text.lower() not in _KEYS:
        raise TopologyError(
            f"{source}: line {value.line} has text without quotes: {value.text[:40]!r} {following.text[:40]!r}; put "
            '"…" around all of it'
        )


def _value(token: _Token) -> object:
    """Value of a token: a number, or text with references such as &#228; resolved."""
    if token.kind == "word" and re.fullmatch(r"[+-]?\d{1,18}", token.text):
        return int(token.text)
    return str(unescape(token.text))
