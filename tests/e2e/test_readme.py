"""README's tree names every module with the first line of its docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.support.paths import ROOT

PACKAGE = ROOT / "p2pfl"


def sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].removesuffix(".")


def test_the_tree_is_true() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text[text.index("    p2pfl/ ") : text.index("    topologies/  ")]
    told = re.findall(r"^ +(?:\d+ +)?(\S+?\.py|\S+/) +(.+)$", tree, flags=re.MULTILINE)[1:]
    expected = []
    for path in PACKAGE.rglob("*.py"):
        if path.parent == PACKAGE and path.name in ("__init__.py", "__main__.py"):
            continue
        name = f"{path.parent.name}/" if path.name == "__init__.py" else path.name
        expected.append((name, sentence(path)))
    assert sorted(told) == sorted(expected)
