"""Headers and counts at the top of edge lists, refused where they may be edges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from p2pfl.errors import TopologyError
from p2pfl.topology.formats.tables import Row, is_number, is_whole

# First words of the headers of the columns with an edge's ends, without spaces and marks: source_id, target_id, …
_PREFIXES = (
    *(("source", "target"), ("source", "dest"), ("source", "destination"), ("source", "sink"), ("src", "dst")),
    *(("src", "dest"), ("src", "target"), ("src", "tgt"), ("from", "to"), ("start", "end"), ("sender", "receiver")),
    *(("origin", "destination"), ("orig", "dest"), ("ego", "alter")),
)
_SUFFIXES = (("from", "to"), ("source", "target"), ("src", "dst"))  # node_from, node_to
# Words that make a header where two stand in the first two columns, each alone or before id or name.
_RELATIONS = (
    *("parent", "child", "friend", "buddy", "person", "people", "user", "member", "peer", "neighbor", "neighbour"),
    *("node", "vertex", "device", "name", "id", "contact", "author", "coauthor", "boss", "manager", "employee"),
    *("follower", "following", "followed", "followee", "caller", "callee", "citing", "cited", "sender", "receiver"),
    *("recipient", "from", "to", "source", "target", "origin", "destination", "von", "nach", "quelle", "ziel", "vers"),
    *("origine", "destinazione", "origen", "destino", "desde", "hasta", "van", "naar"),
)
_PAIRS = (("node", "neighbor"), ("node", "neighbour"), ("follower", "followee"))
# Words that may be labels too: read as headers above numbers only.
_SHORT = (
    *(("u", "v"), ("a", "b"), ("i", "j"), ("s", "t"), ("v", "w"), ("p", "q"), ("start", "end")),
    *(("tail", "head"), ("head", "tail"), ("id", "id"), ("node", "node"), ("row", "col"), ("row", "column")),
)
_COUNTED = (("1", "2"), ("a", "b"), ("i", "j"), ("u", "v"), ("x", "y"))  # node1, node2
_COORDINATES = ("x", "y", "z", "lat", "latitude", "lon", "lng", "long", "longitude", "xcoord", "ycoord", "posx", "posy")
_WEIGHTS = ("weight", "weights", "edgeweight", "w", "wt")


@dataclass(frozen=True)
class Columns:
    """Columns of an edge list: ends of edges and, if present, weights and directions."""

    source: int = 0
    target: int = 1
    weight: int | None = 2
    type: int | None = None
    directed: int | None = None


def find_header(rows: Sequence[Row], source: str) -> Columns | None:
    """Columns named by the first row; None where it is no header.

    Raises TopologyError in doubt.
    """
    if not rows:
        return None
    first, rest = rows[0], rows[1:]
    words = [re.sub(r"[\W_]", "", field).casefold() for field in first.fields]
    pair = _sure_pair(words)
    if pair is None:
        _check_points(first, words, rest, source)
        pair = _possible_pair(words, rest) or _relation_pair(words, rest)
        if pair is None:
            _check_doubtful(first, words, rest, source)
            return None
    columns = _columns(words, pair)
    named = {first.fields[columns.source], first.fields[columns.target]}
    again = named & {row.fields[i] for row in rest for i in (columns.source, columns.target) if i < len(row.fields)}
    if again:
        raise TopologyError(
            f"{source}: line {first.line} may be a header or an edge, because {min(again)!r} is a node too; delete it "
            "if it is a header, or move it to the end if it is an edge"
        )
    wide = next((row for row in rest if len(row.fields) > len(first.fields)), None)
    if wide is not None:  # R writes the rows' names without a header
        raise TopologyError(
            f"{source}: line {wide.line} has more fields than the header in line {first.line} names; name each column"
        )
    return columns


def _check_points(first: Row, words: Sequence[str], rest: Sequence[Row], source: str) -> None:
    """Refuse a header of coordinates above numbers."""
    places = [place for place, word in enumerate(words) if word in _COORDINATES]
    # In rows of labels, x and y may be labels too.
    if len(places) < 2 or not rest or not all(place < len(row.fields) for row in rest for place in places):
        return
    if all(is_number(row.fields[place]) for row in rest for place in places):
        raise TopologyError(
            f"{source}: line {first.line} ({' '.join(first.fields)[:40]!r}) may be coordinates of points rather than "
            "edges; if its rows are edges, write source,target instead"
        )


def _sure_pair(words: Sequence[str]) -> tuple[str, str] | None:
    """Pair of words that can only be headers of an edge's ends."""
    known = frozenset(words)  # a line may have a hundred thousand
    for word in words:
        for start, end in _PREFIXES:
            if word.startswith(start) and end + word.removeprefix(start) in known:
                # 'start' and 'end' alone may be labels.
                return None if word == "start" else (word, end + word.removeprefix(start))
        for start, end in _SUFFIXES:
            if word.endswith(start) and word.removesuffix(start) + end in known:
                return word, word.removesuffix(start) + end
    return next((pair for pair in _PAIRS if set(pair) <= known), None)


def _possible_pair(words: Sequence[str], rest: Sequence[Row]) -> tuple[str, str] | None:
    """Pair of words that are headers because of the rows below.

    'node1' and 'node2' are none where a 'node3' follows.
    """
    pair = next((pair for pair in _SHORT if words[:2] == list(pair)), None)
    if pair is not None:
        return pair if rest and all(_numbered(row) for row in rest) else None
    known = frozenset(words)
    for word in words[:-1]:
        for start, end in _COUNTED:
            stem = word.removesuffix(start)
            if len(stem) > 1 and stem != word and stem.isalpha() and stem + end in known:
                below = [field.casefold() for row in rest for field in row.fields[:2]]
                return (word, stem + end) if rest and not any(field.startswith(stem) for field in below) else None
    return None


def _relation_pair(words: Sequence[str], rest: Sequence[Row]) -> tuple[str, str] | None:
    """First two words where both are words for people, things and relations."""
    if len(words) > 2 and words[2] not in _WEIGHTS:
        return None  # numbers in a column of another name are refused
    if len(words) < 2 or not rest or words[0] == words[1] or set(words[:2]) == {"id", "name"}:
        return None
    stems = (word.removesuffix("id").removesuffix("name") or word for word in words[:2])
    return (words[0], words[1]) if all(stem in _RELATIONS for stem in stems) else None


def _columns(words: Sequence[str], pair: tuple[str, str]) -> Columns:
    start = words.index(pair[0])
    weight = next((words.index(word) for word in _WEIGHTS if word in words), None)
    return Columns(
        start,
        words.index(pair[1], start + 1 if pair[0] == pair[1] else 0),
        weight,
        _place(words, "type"),
        _place(words, "directed"),
    )


def _place(words: Sequence[str], word: str) -> int | None:
    return words.index(word) if word in words else None


def _numbered(row: Row) -> bool:
    return len(row.fields) >= 2 and all(is_whole(field) for field in row.fields[:2])


def _check_doubtful(first: Row, words: Sequence[str], rest: Sequence[Row], source: str) -> None:
    """Refuse a first row that looks like a header of unknown words."""
    if "id" in words and {"label", "name"} & set(words):
        raise TopologyError(f"{source}: line {first.line} is the header of a table of nodes; give the table of edges")
    if len(first.fields) < 2 or not rest:
        return
    numbers = all(is_number(field) or not field for row in rest for field in row.fields[1:])
    named = len(first.fields) > 2 and not any(is_number(row.fields[0]) for row in rest)
    if numbers and (named or not first.fields[0]) and not all(is_number(field) for field in first.fields[1:]):
        raise TopologyError(
            f"{source}: looks like a table with names of columns and rows, such as an incidence matrix, which is not "
            "read; write a line an edge: a b weight"
        )
    weighted = len(first.fields) > 2 and not first.fields[2].startswith("{") and not is_number(first.fields[2])
    over_weights = weighted and all(len(row.fields) > 2 and is_number(row.fields[2]) for row in rest)
    over_numbers = not any(is_number(field) for field in first.fields[:2]) and all(_numbered(row) for row in rest)
    if over_weights or over_numbers:
        raise TopologyError(
            f"{source}: line {first.line} ({' '.join(first.fields)[:40]!r}) looks like a header; write its columns as "
            "source,target or source,target,weight, or delete it"
        )


def may_be_header(rows: Sequence[Row], remedy: str = "delete it or write source,target") -> str:
    """Hint that the first row may be a header, for a graph that is disconnected."""
    if len(rows) < 2 or len(rows[0].fields) < 2 or all(is_number(field) for field in rows[0].fields[:2]):
        return ""
    ends = set(rows[0].fields[:2])
    if any(not ends.isdisjoint(row.fields) for row in rows[1:]):
        return ""
    shown = " ".join(rows[0].fields[:2])[:40]
    return f"line {rows[0].line} ({shown!r}) names two nodes that no other line has: if it is a header, {remedy}"


def find_count(rows: Sequence[Row], source: str) -> str | None:
    """Note on the counts in the first row; None where it is an edge.

    Raises TopologyError in doubt.
    """
    if len(rows) < 2 or not all(is_whole(field) for field in rows[0].fields) or len(rows[0].fields) > 3:
        return None
    rest = rows[1:]
    if any(len(row.fields) < 2 for row in rest):
        return None
    numbers = [int(field) for field in rows[0].fields]
    ends = {field for row in rest for field in row.fields[:2]}
    where = f"line {rows[0].line}"
    if len(numbers) == 1:
        if numbers[0] == len(ends):
            return f"{where} is read as the number of nodes, {numbers[0]}"
        if numbers[0] == len(rest):
            return f"{where} is read as the number of edges, {numbers[0]}"
        raise TopologyError(
            f"{source}: {where} is the number {numbers[0]} alone, but {len(ends)} nodes and {len(rest)} edges follow; "
            "correct or delete it"
        )
    in_doubt = (
        f"{source}: {where} may be an edge or the numbers of nodes and edges; delete it if it counts, or move it to "
        "the end if it is an edge"
    )
    counted = numbers[1] if len(numbers) == 3 and numbers[1] != numbers[0] else numbers[-1]
    if numbers[0] != len(ends) or counted != len(rest) or counted != numbers[-1]:
        pairs = {row.fields[:2] for row in rest}
        mutual = 2 * counted == len(rest) and all(pair[::-1] in pairs for pair in pairs)
        if numbers[0] >= len(ends) and (counted == len(rest) or mutual):  # nodes that no edge names, or both ways
            raise TopologyError(in_doubt)
        return None
    used = [field in ends for field in rows[0].fields]
    indexed = ends in ({str(i) for i in range(len(ends))}, {str(i + 1) for i in range(len(ends))})
    if numbers[0] == numbers[1] or not any(used) or (indexed and not all(used)):
        return f"{where} is read as the numbers of nodes and edges, {numbers[0]} and {numbers[-1]}"
    raise TopologyError(in_doubt)
