"""Rows of text files: separators, quotes and comments.

Files whose first lines belong to other formats are refused by name.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from p2pfl.errors import TopologyError

MAX_LINE = 2**20  # 4096 neighbors with labels of 200 bytes fit
_COMMENT = re.compile(r"\s*(#|%|//)")
_TRAILING = re.compile(r"(?:^|\s)#(\S*).*", re.DOTALL)
_GLUED_COMMENT = re.compile(r"\s*(#|%|//)(\w.*)", re.DOTALL)  # no space after the mark: a label may begin so
_COMMENT_REMEDY = "put the label in quotes, or a space after the mark of a comment"
Lines = Sequence[tuple[int, str]]
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
_FIELD = re.compile(r'"((?:[^"]|"")*)"(?=\s|$)|(\S+)')
_WITH_DATA = re.compile(r"\s*([^\s,;]+)[\s,;]+([^\s,;]+)[\s,;]+(\{.*)")  # networkx's edges: a b {'weight': 0.5}
_GLUED = ("|", "<->", "->", "=>", "--", ">")  # between two labels without spaces
_SPACED = ("csv", "tsv")  # endings of tables in which text may have spaces without quotes
# First words of other formats whose lines would pass for edges.
_FOREIGN = (
    (re.compile(r"p\s+(edge|edges|col|sp|max|td|tw)\s+\d", re.I), "DIMACS"),
    (re.compile(r"dl\b.*\bn\s*=", re.I), "UCINET DL"),
    (re.compile(r"nodedef>", re.I), "GDF"),
    (re.compile(r"(>>(graph|sparse|digraph)6<<|:[?-~]{3,}$)"), "graph6 or sparse6"),
    (re.compile(r"LEDA\.GRAPH", re.I), "LEDA"),
    (re.compile(r"\*"), "Pajek or UCINET without *Vertices"),
)


@dataclass(frozen=True)
class Row:
    """Fields of a line, and its number for messages."""

    line: int
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows, comments, separator and notes of a file.

    `separator`: empty for spaces. `notes`: remarks on rows that are commented out.
    """

    rows: tuple[Row, ...]
    comments: tuple[str, ...]
    separator: str
    notes: tuple[str, ...] = ()


def read_table(text: str, source: str, ending: str) -> Table:
    """Read the rows of a file with this ending.

    Raises TopologyError for other formats and mixed separators.
    """
    lines = lines_of(text, source)
    comments = tuple(line.strip() for _, line in lines if is_comment(line))
    content = [(number, line) for number, line in lines if not is_comment(line)]
    _check_foreign(lines, content, source)
    given = re.fullmatch(r'"?sep=(.)"?', content[0][1].strip()) if content else None  # Excel's first line
    if given:
        content = content[1:]
    separator = given[1] if given else _separator([line for _, line in content])
    if separator:
        _check_spaces(content, separator, source, ending)
    found = (_row(number, line, separator, source) for number, line in content)
    rows = tuple(row for row in found if row.fields)
    notes = check_comments(lines, [row.fields for row in rows], separator or None, source)
    return Table(rows, comments, separator, tuple(notes))


def read_neighbors(text: str, source: str) -> Table:
    """Read the rows of an adjacency list, whose labels are separated by spaces."""
    lines = lines_of(text, source)
    _check_lgl(lines, source)
    content = [(number, line) for number, line in lines if not is_comment(line)]
    found = (Row(number, tuple(without_comment(line, number, source).split())) for number, line in content)
    rows = tuple(row for row in found if row.fields)
    return Table(rows, (), "", tuple(check_comments(lines, [row.fields for row in rows], None, source)))


def is_number(text: str) -> bool:
    """Return whether a field is a number, nan and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def is_whole(text: str) -> bool:
    """Return whether a field is a whole number of up to nine digits."""
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _separator(lines: Sequence[str]) -> str:
    """First separator that occurs in every line, except in a lone number at the start."""
    body = lines[1:] if len(lines) > 1 and is_whole(lines[0].strip()) else lines
    heads = [_quoted_out(line.partition("{")[0] if _WITH_DATA.fullmatch(line) else line) for line in body]
    return next((mark for mark in _SEPARATORS if heads and all(mark in head for head in heads)), "")


def _quoted_out(line: str) -> str:
    return re.sub(r'"(?:[^"]|"")*"', "x", line)


def _row(number: int, line: str, separator: str, source: str) -> Row:
    data = _WITH_DATA.fullmatch(line)
    if data:
        return Row(number, (data[1], data[2], data[3].strip()))
    if separator:
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=separator != "\t", strict=True))
        fields = [field.strip() for field in fields]
        while fields and not fields[-1]:
            fields.pop()
        return Row(number, tuple(fields))
    line = line if '"' in line else without_comment(line, number, source)
    fields = [match[2] if match[1] is None else match[1].replace('""', '"') for match in _FIELD.finditer(line)]
    broken = next((match[2] for match in _FIELD.finditer(line) if match[2] and match[2].startswith('"')), None)
    if broken:
        raise TopologyError(f"{source}: line {number} has a quotation mark without its other half at {broken[:40]!r}")
    glued = next((mark for mark in _GLUED if mark in fields[0].strip(mark)), None) if len(fields) == 1 else None
    if glued and '"' not in line:
        raise TopologyError(f"{source}: line {number} is separated by {glued!r}; use commas, tabs or spaces")
    torn = len(fields) == 1 and any(mark in fields[0] for mark in ",;") and '"' not in line
    if torn or any(field[-1:] in (",", ";") and len(field) > 1 for field in fields):
        raise TopologyError(f"{source}: line {number} is separated by commas, other lines are not; use one separator")
    return Row(number, tuple(fields))


def _check_spaces(content: Sequence[tuple[int, str]], separator: str, source: str, ending: str) -> None:
    """Refuse spaces within fields that may be separators too.

    '0 1,0.5' is not an edge from '0 1' to '0.5'.
    """
    for number, line in content[1:] if len(content) > 1 else content:
        if "{" in line:
            continue
        for field in _quoted_out(line).split(separator):
            parts = field.split()
            if len(parts) > 1 and (ending not in _SPACED or all(is_number(part) for part in parts)):
                raise TopologyError(
                    f"{source}: line {number} has both {_SEPARATORS.get(separator, repr(separator))} and spaces: "
                    f"{field.strip()[:40]!r}; separate by one of them, or put text with spaces in quotes"
                )


def _check_foreign(lines: Sequence[tuple[int, str]], content: Sequence[tuple[int, str]], source: str) -> None:
    """Refuse other formats by name."""
    for number, line in content[:1] if content and not content[0][1].strip().startswith("c ") else content[:200]:
        for pattern, name in _FOREIGN:
            if pattern.match(line.strip()):
                raise TopologyError(
                    f"{source}: line {number} starts a file of {name}, which is not read; save as .graphml"
                )
    _check_lgl(lines, source)
    marks = [place for place, (_, line) in enumerate(lines) if line.strip() == "#"]
    if len(marks) == 1:
        before = [line.split()[0] for _, line in lines[: marks[0]] if not is_comment(line)]
        after = [line.split()[:2] for _, line in lines[marks[0] + 1 :] if not is_comment(line)]
        if before and after and len(set(before)) == len(before) and all(set(ends) <= set(before) for ends in after):
            raise TopologyError(
                f"{source}: looks like Trivial Graph Format (nodes, '#', edges), which is not read; save as .graphml"
            )


def _check_lgl(lines: Sequence[tuple[int, str]], source: str) -> None:
    """Refuse LGL, in which '# node' stands above the neighbors of each node."""
    heads = [line.split()[1] for _, line in lines if re.fullmatch(r"\s*#\s+\S+\s*", line)]
    comments = [is_comment(line) for _, line in lines]
    if len(heads) < 2 or sum(comments) != len(heads) or not comments[0] or comments[-1]:
        return
    rows = [line.split() for _, line in lines if not is_comment(line)]
    apart = not any(a and b for a, b in itertools.pairwise(comments))
    if apart and all(len(row) == 1 or (len(row) == 2 and is_number(row[1])) for row in rows):
        raise TopologyError(
            f"{source}: looks like a file of LGL ('# node' above its neighbors), which is not read; save as .graphml"
        )


def lines_of(text: str, source: str) -> list[tuple[int, str]]:
    """Lines with content, and their numbers. Raises TopologyError for overlong lines."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        if len(line) > MAX_LINE:
            raise TopologyError(f"{source}: line {number} has {len(line)} characters; no topology needs so many")
    return lines


def is_comment(line: str) -> bool:
    """Return whether a line is a comment, which starts with #, % or //.

    A lone ';' starts a comment too; otherwise it separates fields.
    """
    return _COMMENT.match(line) is not None or re.match(r"\s*;(\s|;|$)", line) is not None


def without_comment(line: str, number: int, source: str) -> str:
    """Line without the comment at its end; # within a word belongs to the word.

    Raises TopologyError in doubt.
    """
    found = _TRAILING.search(line)
    if found is None:
        return line
    if found[1] and line[: found.start()].strip():
        raise TopologyError(
            f"{source}: line {number}: '#{found[1][:40]}' may be a label or a comment; save as .csv with labels in "
            "quotes, or put a space after the # of a comment"
        )
    return line[: found.start()]


def check_comments(lines: Lines, labels: Sequence[Sequence[str]], separator: str | None, source: str) -> list[str]:
    """Notes on rows that are commented out.

    `labels`: the fields of the rows. `separator`: None for spaces. Raises TopologyError where a comment may be a row.
    """
    known = {field for fields in labels for field in fields}
    widths = {len(fields) for fields in labels}
    first = next((number for number, line in lines if not is_comment(line)), None)
    dropped = 0
    for number, line in lines:
        glued = _GLUED_COMMENT.fullmatch(line) if is_comment(line) else None
        if glued is None or first is None:
            continue
        fields = _split(line.strip(), separator)
        ends = _split(glued[2].strip(), separator)[:2]
        if len(fields) < 2 or not (len(fields) in widths or known.intersection(fields)):
            continue
        if set(ends) <= known and not known.intersection(fields[:1]):
            dropped += 1
        elif number > first or known.intersection(fields):
            raise TopologyError(
                f"{source}: line {number} ({line.strip()[:40]!r}) may be a row whose label starts with {glued[1]!r}, "
                f"or a comment; {_COMMENT_REMEDY}"
            )
    return [f"{dropped} row{'s are' if dropped > 1 else ' is'} commented out"] if dropped else []


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [field.strip() for field in next(csv.reader([line], delimiter=separator))]
