"""Descriptions of fields and constants: the docstring below each, and its type."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from docs.generate.markdown import code


@dataclass(frozen=True)
class Described:
    """Field of a class: annotation with all marks, default, and description.

    default: `dataclasses.MISSING` where there is none.
    """

    name: str
    hint: Any
    default: Any
    text: str


def fields_of(kind: type[Any]) -> list[Described]:
    """Fields of a dataclass or msgspec.Struct, those of its bases first.

    Raises KeyError for a field without a description.
    """
    hints = get_type_hints(kind, include_extras=True)
    texts = {name: text for base in reversed(kind.__mro__[:-1]) for name, text in _docstrings(base).items()}
    found = []
    for name, default in _defaults(kind).items():
        is_section = dataclasses.is_dataclass(_plain(hints[name]))
        if name not in texts and not is_section:
            raise KeyError(f"{kind.__module__}.{kind.__name__}.{name} has no description; write a docstring below it")
        found.append(Described(name, hints[name], default, texts.get(name, "")))
    return found


def constants_of(path: Path) -> list[tuple[str, str, str]]:
    """Text constants of a module: its comment above the group, value and description.

    Raises KeyError for one without a description.
    """
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    titles = {number: line[2:].rstrip(".") for number, line in enumerate(lines, 1) if line.startswith("# In ")}
    body = ast.parse(source).body
    found = []
    for node, below in pairwise([*body, ast.Pass()]):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        name, text = ast.unparse(node.targets[0]), _text_of(below)
        if text is None:
            raise KeyError(f"{path.name}: {name} has no description; write a docstring below it")
        title = max(number for number in titles if number < node.lineno)
        found.append((titles[title], str(node.value.value), text))
    return found


def _defaults(kind: type[Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        return {item.name: item.default for item in dataclasses.fields(kind)}
    found = {}
    for item in msgspec.structs.fields(kind):
        default = dataclasses.MISSING if item.required else item.default
        if default is msgspec.NODEFAULT and item.default_factory is not msgspec.NODEFAULT:
            default = item.default_factory()
        found[item.name] = default
    return found


def _docstrings(kind: type[Any]) -> dict[str, str]:
    """Docstrings of the fields that a class itself declares, each on one line."""
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # a class of a library in C
        return {}
    assert isinstance(definition, ast.ClassDef)
    pairs = [(ast.unparse(f.target), _text_of(t)) for f, t in pairwise(definition.body) if isinstance(f, ast.AnnAssign)]
    return {name: text for name, text in pairs if text is not None}


def _text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return None


def _plain(hint: Any) -> Any:
    return getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint


_NAMES = {str: "string", int: "integer", float: "number", bool: "true or false", bytes: "bytes", Any: "any"}


def type_text(hint: Any, *, bounds: bool = False) -> str:
    """Type of a field in the words of JSON and TOML; with `bounds` also its limits."""
    if get_origin(hint) is Annotated:
        of, *marks = get_args(hint)
        limits = [_limits(mark) for mark in marks if isinstance(mark, msgspec.Meta)]
        return type_text(of, bounds=bounds) + ("".join(limits) if bounds else "")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        texts = [type_text(one, bounds=bounds) for one in arguments if one is not types.NoneType]
        return " or ".join(texts) + (" or null" if types.NoneType in arguments else "")
    if origin is Literal:
        return ", ".join(code(one) for one in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of {_plural(arguments[0])}"
    if origin is tuple and arguments[-1] is not Ellipsis and len(arguments) == 2:
        return f"pair of {_plural(arguments[0])}"
    if origin is dict:
        return f"table of {_plural(arguments[1])}"
    if is_typeddict(hint):
        return "{" + ", ".join(f"{code(n)}: {type_text(t)}" for n, t in get_type_hints(hint).items()) + "}"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint.__name__
    if hint not in _NAMES:
        raise KeyError(f"the type {hint} has no text; give it one in {__name__}")
    return _NAMES[hint]


def _plural(hint: Any) -> str:
    text = type_text(hint)
    is_class = isinstance(hint, type) and issubclass(hint, msgspec.Struct)
    return (
        text if is_class or text.startswith("{") else text.replace(" of ", "s of ", 1) if " of " in text else text + "s"
    )


def _limits(mark: msgspec.Meta) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{word} {getattr(mark, name):,}" for name, word in words.items() if getattr(mark, name) is not None]
    if mark.max_length is not None:
        found.append(f"at most {mark.max_length} long")
    return "".join(f", {text}" for text in found)
