"""Tables of the benchmarks and of the soak tests: command and content of each."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.generate.markdown import code, prose, table

ROOT = Path(__file__).resolve().parents[2]
_MAIN = 'if __name__ == "__main__":'


def commands(folder: str) -> str:
    """Commands of a folder, `benchmarks` or `soak`: modules that are programs.

    Raises KeyError for one without a docstring.
    """
    rows = []
    for path in sorted((ROOT / folder).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if _MAIN not in source:
            continue
        text = ast.get_docstring(ast.parse(source))
        if not text:
            raise KeyError(f"{path.relative_to(ROOT)} has no docstring")
        rows.append((code(f"python -m {folder}.{path.stem}"), prose(text.splitlines()[0])))
    return table(("command", "content"), rows)
