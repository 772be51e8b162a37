"""Comments of text files, told from rows whose labels start with the same marks."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from p2pfl.errors import TopologyError
from p2pfl.topology.text_files import is_comment

_TRAILING = re.compile(r"(?:^|\s)#(\S*).*", re.DOTALL)
_GLUED = re.compile(r"\s*(#|%|//)(\w.*)", re.DOTALL)  # no space after the mark: a label may begin so
_REMEDY = "put the label in quotes, or a space after the mark of a comment"
Lines = Sequence[tuple[int, str]]


def without_comment(line: str, number: int, source: str) -> str:
    """A line less the comment at its end; # within a word is a part of it. Raises TopologyError in doubt."""
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
    """Notes on rows that are commented out. Raises TopologyError where a comment may be a row.

    `labels`: the fields of the rows; `separator`: what stands between them, None for spaces.
    """
    known = {field for fields in labels for field in fields}
    widths = {len(fields) for fields in labels}
    first = next((number for number, line in lines if not is_comment(line)), None)
    dropped = 0
    for number, line in lines:
        glued = _GLUED.fullmatch(line) if is_comment(line) else None
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
                f"or a comment; {_REMEDY}"
            )
    return [f"{dropped} row{'s are' if dropped > 1 else ' is'} commented out"] if dropped else []


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [field.strip() for field in next(csv.reader([line], delimiter=separator))]
