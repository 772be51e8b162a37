"""Check of tests: they read no private name of the product and import no test.

Decided from the text alone. Allowed are private names of `self` and `cls` that the module itself defines or a library's
class does, and private names of whatever a library's import leads to.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

# Functions that take a name as a string.
_BY_STRING = {"setattr", "getattr", "delattr", "hasattr", "attrgetter", "patch", "object", "__getattribute__"}
_SELF = {"self", "cls"}
_OURS = {"p2pfl", "tests", "soak", "benchmarks"}
_TEST = re.compile(r"tests\.(?:\w+\.)*test_\w+")


def problems_of(text: str, module: str) -> list[str]:
    """Every problem of a module's text as LINE: PROBLEM, in the order of its lines."""
    tree = ast.parse(text)
    found = [*_imports(tree), *_attributes(tree), *_strings(tree, module)]
    return [f"{line}: {problem}" for line, problem in sorted(set(found))]


def problems_of_files(folders: list[str]) -> list[str]:
    """Every problem of the Python files in some folders as FILE:LINE: PROBLEM."""
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [f"{name}:{problem}" for name, path in _named(files) for problem in problems_of(path.read_text(), name)]


def _named(files: list[Path]) -> list[tuple[str, Path]]:
    return [(str(path.relative_to(ROOT)), path) for path in files]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports of private names of the product, and of tests."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A test's own folder stands for the package of a relative import.
            package = "tests." * bool(node.level) + (node.module or "")
            names = [f"{package.rstrip('.')}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "p2pfl" and any(map(_is_private, parts)):
                yield node.lineno, f"imports {name}, a private name"
            if parts[0] == "tests" and any(part.startswith("test_") for part in parts):
                yield node.lineno, f"imports {name}, a test"


def _attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private attributes of what is neither the module's own nor a library's."""
    own, libraries = _own_names(tree), _libraries(tree)
    derived = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _is_derived(node, libraries)]
    inherited = {id(node) for base in derived for node in ast.walk(base)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            names, base = [node.attr], node.value
        elif isinstance(node, ast.Call) and _name_of(node.func) in _BY_STRING:
            values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            names = [value.rpartition(".")[2] for value in values if isinstance(value, str)]
            base = node.args[0] if node.args else node.func
        else:
            continue
        root = _root_of(base)
        if root in libraries or (root in _SELF and id(node) in inherited):
            continue
        for name in names:
            if _is_private(name) and not (root in _SELF and name in own):
                yield node.lineno, f"reads {name}, a private name"


def _strings(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """Names of other tests' functions, as options such as `--model` take them."""
    own = module.removesuffix(".py").replace("/", ".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name, separator, _ = node.value.partition(":")
            if separator and _TEST.fullmatch(name) and name != own:
                yield node.lineno, f"names {name}, a test"


def _own_names(tree: ast.Module) -> set[str]:
    """Names that a module's classes define: methods and assigned attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _root_of(node) in _SELF:
            found.add(node.attr)
    return found


def _libraries(tree: ast.Module) -> set[str]:
    """Names that a module imports from libraries."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names} - _OURS
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] not in _OURS:
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _is_derived(node: ast.ClassDef, libraries: set[str]) -> bool:
    """Whether a class inherits from libraries only."""
    return bool(node.bases) and all(_root_of(base) in libraries for base in node.bases)


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _root_of(expression: ast.expr) -> str:
    """First name of a chain of attributes, calls and subscripts, or nothing."""
    while isinstance(expression, ast.Attribute | ast.Call | ast.Subscript):
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    return expression.id if isinstance(expression, ast.Name) else ""
