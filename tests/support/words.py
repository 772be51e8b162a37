"""Check of words and docstrings: `python -m tests.support.words [PATH ...]`.

Prints FILE:LINE: PROBLEM for each banned word in code, documents and messages, and for each docstring whose first line
is too long or begins with a relative clause. Searches the given paths, or CLEAN; exits with 1 where it finds a problem.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

# Paths that have no problem, searched by default. Extend it as soon as another path is clean.
CLEAN: tuple[str, ...] = (
    ".github",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benchmarks",
    "configs",
    "docs",
    "mkdocs.yml",
    "p2pfl",
    "run_peers.py",
    "soak",
    "tests",
    "topologies",
)
# Files below these paths that are not searched: they hold the words themselves, or are being rewritten.
EXCLUDED: frozenset[str] = frozenset(
    (
        "tests/e2e/test_words.py",
        "tests/support/words.py",
        # Until their rewriting is done:
        "tests/protocol/test_federated.py",
        "tests/protocol/test_peer.py",
        "tests/protocol/test_peer_troubles.py",
        "tests/protocol/test_sim.py",
        "tests/support/federation.py",
        "tests/support/peer_network.py",
        "tests/support/troubled_network.py",
    )
)
# A banned word that a file uses in another sense: (file, word in small letters).
ALLOWED: frozenset[tuple[str, str]] = frozenset(
    (
        ("docs/how-to/tolerate-failures.md", "absences"),  # a field of summary.json
        ("p2pfl/cli/describe.py", "absences"),
        ("p2pfl/report/fields.py", "absences"),
        ("p2pfl/report/summary.py", "absences"),
        ("p2pfl/report/warnings.py", "absences"),
        ("tests/processes/test_gossip_faults.py", "absences"),
        ("tests/unit/report/test_report.py", "absences"),
        ("tests/unit/topology/test_files.py", "letters"),  # string.ascii_letters
    )
)

BANNED = {
    "any more": "say 'no longer'",
    "anew": "say 'again'",
    "of (?:its|their|his|our|your) own": "put 'own' before the noun",
    "leave to send|most leave|forgets? leave|(?:gives?|gets?|grants?|has|have|had) leave": "say 'credit'",
    "bears?|borne": "say 'tolerate'",
    "(?:do|does|done|doing) without": "say 'skip', or name what is missing",
    "(?:go|goes|going|gone|went) on": "say 'continue'",
    "for ?ever": "say 'indefinitely' or 'without limit'",
    "floors": "say 'layer'",
    "rooms": "say 'module'",
    "letters?": "say 'message'; of a text 'character'",
    "saboteurs?|sabotages?": "say 'fault injector'",
    "hoods?": "say 'neighborhood'",
    "life|earlier lives": "say 'incarnation'",
    "absences?": "say 'missing peers'",
    "adoptions?": "say 'bootstrap'",
    "sign of life|signs of life": "say 'heartbeat'",
    "patience": "say 'timeout', or the failure detector's name",
}
SEARCHED = {".py", ".md", ".toml", ".html", ".css", ".cff", ".js", ".yaml", ".yml"}
LONGEST_LINE = 80  # of a docstring: its first
RELATIVE = re.compile(r"(What|Who|Whom|Whose|Where|Whatever|Whoever|How) ")

_GAP = r"(?:_|\s+(?:#\s*)?)"  # between two words: in a name, on a line, or across two lines of a comment
# `hood` is found in `Hoods` and in `my_hood`, but not in `neighborhood`.
_PATTERNS = {
    re.compile(rf"(?<![A-Za-z])(?:{words.replace(' ', _GAP)})(?![a-z])", re.IGNORECASE): advice
    for words, advice in BANNED.items()
}


def problems_of_words(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, word and advice for every banned word of a text."""
    for pattern, advice in _PATTERNS.items():
        for found in pattern.finditer(text):
            word = re.sub(r"\s+(#\s*)?", " ", found[0]).lower()
            yield text.count("\n", 0, found.start()) + 1, word, advice


def problems_of_docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Line and problem for every docstring of a module's text that begins badly."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        first, line = docstring.splitlines()[0], node.body[0].lineno
        if len(first) > LONGEST_LINE:
            yield line, f"a docstring's first line has {len(first)} characters; at most {LONGEST_LINE}"
        if RELATIVE.match(first):
            yield line, f"a docstring begins with {first.split()[0]!r}; put the noun first"


def problems_of_file(path: Path) -> list[str]:
    """Every problem of a file as FILE:LINE: PROBLEM, in the order of its lines."""
    text = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    found = [(n, f"{word!r}: {advice}") for n, word, advice in problems_of_words(text) if (name, word) not in ALLOWED]
    if path.suffix == ".py":
        found += problems_of_docstrings(text)
    return [f"{name}:{line}: {problem}" for line, problem in sorted(found)]


def main(words: list[str]) -> int:
    """Print the problems of all files at and below some paths; the exit status."""
    paths = [Path(word).resolve() for word in words] if words else [ROOT / name for name in CLEAN]
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    excluded = {ROOT / name for name in EXCLUDED}
    files = [file for file in found if file.suffix in SEARCHED and file not in excluded]
    problems = [problem for file in files for problem in problems_of_file(file)]
    print("\n".join([*problems, f"problems: {len(problems)}"] if problems else []), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
