"""Snippets of documents: fenced blocks of code, and what each needs to run.

A comment on the line before a block, `<!-- needs: gpu -->`, says that it cannot be run by a test.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENTS = tuple(
    sorted(
        path.relative_to(ROOT)
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("topologies/*.md"))
    )
)
RUN = frozenset(("bash", "python"))
PARSED = frozenset(("toml", "json"))
SHOWN = frozenset(("text", "console", "xml", "yaml", "css", "html"))
# What a block may need, with the reason why a test has none of it.
NEEDS = {
    "browser": "a page is looked at",
    "cluster": "machines under a scheduler",
    "gpu": "a CUDA device",
    "installation": "packages are installed, a repository is cloned or an environment is activated",
    "machines": "several machines",
    "network": "data are downloaded",
    "time": "minutes to hours, or somebody at the keyboard",
}
_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<language>[\w+-]*) *(?P<rest>.*)$")
_NEEDS = re.compile(r"<!-- needs: ([a-z]+) -->")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """Fenced block of a document. `name`: of the file that it shows."""

    document: Path
    line: int
    language: str
    text: str
    name: str = ""
    needs: str = ""

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: Path, text: str | None = None) -> list[Block]:
    """Fenced blocks of a document. Raises ValueError for one that is not closed."""
    lines = ((ROOT / document).read_text(encoding="utf-8") if text is None else text).splitlines()
    found: list[Block] = []
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        begin, end = number, number + 1
        while end < len(lines) and lines[end].strip() != fence["marks"]:
            end += 1
        if end == len(lines):
            raise ValueError(f"{document}:{begin + 1}: a block that is not closed")
        found.append(_block(document, begin, fence, lines[begin - 1] if begin else "", lines[begin + 1 : end]))
        number = end + 1
    return found


def _block(document: Path, begin: int, fence: re.Match[str], before: str, inside: list[str]) -> Block:
    text = textwrap.dedent("\n".join(inside)) + "\n"
    needs, title = _NEEDS.search(before), _TITLE.search(fence["rest"])
    name = title[1] if title else ""
    first = re.match(r"# ([\w.-]+\.(?:py|toml))\n", text)
    return Block(
        document,
        begin + 1,
        fence["language"],
        text,
        name or (first[1] if first else ""),
        needs[1] if needs else "",
    )
