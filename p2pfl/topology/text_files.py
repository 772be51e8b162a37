"""Text of topology files: decoded, and its comments told from its content."""

from __future__ import annotations

import re

from p2pfl.errors import TopologyError

UTF8_REMEDY = "save the file again with UTF-8 encoding"
MAX_LINE = 2**20  # 4096 neighbors with labels of 200 bytes fit
_COMMENT = re.compile(r"\s*(#|%|//)")


def decoded(data: bytes, source: str) -> str:
    """A file as text. Raises TopologyError where it is no UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TopologyError(f"{source}: not UTF-8 text", remedy=UTF8_REMEDY) from None
    if "\0" in text:
        raise TopologyError(f"{source}: not UTF-8 text but, as its null bytes show, UTF-16 or -32", remedy=UTF8_REMEDY)
    return text


def lines_of(text: str, source: str) -> list[tuple[int, str]]:
    """Lines with content and their numbers. Raises TopologyError where one is longer than that of any list."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        if len(line) > MAX_LINE:
            raise TopologyError(f"{source}: line {number} has {len(line)} characters; no topology needs so many")
    return lines


def is_comment(line: str) -> bool:
    """Whether a line is a comment in one of the usual styles: #, % or //; of a lone ';' too, which separates fields."""
    return _COMMENT.match(line) is not None or re.match(r"\s*;(\s|;|$)", line) is not None
