"""Map of the package: modules by layer, each with its docstring's first line."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from docs.generate.markdown import code, prose, table

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "p2pfl"


def tree() -> str:
    """Layers from the top down, each with its modules.

    The layers are those of the linter of imports.

    Raises KeyError for a module without a docstring.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = settings["tool"]["importlinter"]["contracts"]
    layers = [[name.strip() for name in line.split("|")] for line in contract["layers"]]
    parts = []
    for place, names in enumerate(layers):
        for name in names:
            parts.append(_layer(name, len(layers) - 1 - place))
    return "\n\n".join(parts)


def _layer(name: str, level: int) -> str:
    folder = PACKAGE / name
    if not folder.is_dir():
        return f"## `{name}`\n\nLayer {level}. {prose(_sentence(PACKAGE / f'{name}.py'))}"
    rows = [
        (code(path.relative_to(folder).as_posix()), prose(_sentence(path)))
        for path in sorted(folder.rglob("*.py"), key=lambda path: (len(path.relative_to(folder).parts), path))
        if path != folder / "__init__.py" and not (path.name == "__init__.py" and not ast.parse(path.read_text()).body)
    ]
    return f"## `{name}/`\n\nLayer {level}. {prose(_sentence(folder / '__init__.py'))}\n\n" + table(
        ("module", "content"), rows
    )


def _sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise KeyError(f"{path.relative_to(ROOT)} has no docstring")
    return text.splitlines()[0].rstrip(".") + "."
