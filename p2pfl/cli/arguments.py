"""Arguments of one command, parsed by tyro from a dataclass; mistakes become one line."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import tyro

from p2pfl.errors import ConfigError, unusable
from p2pfl.registry import TABLES, entry_of, summaries_of
from p2pfl.util.text import did_you_mean

if TYPE_CHECKING:
    from p2pfl.topology import Topology

A = TypeVar("A")
_FOLDERS = {"run_dir", "data_dir", "keys", "resume", "run_dirs", "what"}
_PATHS = _FOLDERS | {"topology", "token_file", "faults", "init"}
_POSITIONAL = {"topology", "file", "run_dirs", "what"}
_LONGEST_BELOW = "x" * 250 + "/" + "x" * 100  # longer than what a run directory or a folder of keys has in it
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)


def parse(kind: type[A], words: Sequence[str], command: str, default: A | None = None) -> A:
    """Arguments from tyro; its framed complaint becomes one line."""

    def run() -> A:
        options: dict[str, Any] = {} if default is None else {"default": default}
        join_lines_of_help(kind)
        result: A = tyro.cli(kind, args=list(words), prog=f"p2pfl {command}", config=_STYLE, **options)
        return result

    if "-h" in words or "--help" in words:
        return run()
    captured = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"  # so that tyro breaks no line
    try:
        with contextlib.redirect_stderr(captured), contextlib.redirect_stdout(captured):
            found = run()
    except SystemExit:
        said = _one_line(captured.getvalue())
        unknown = re.fullmatch(r"Unrecognized options: (-[^\s=,]+).*", said.partition("; did you mean")[0])
        if unknown:
            said = f"there is no option {unknown[1]}{did_you_mean(unknown[1], option_names(kind))}"
        raise ConfigError(f"{command}: {said} (see p2pfl {command} --help)") from None
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    check_paths(found)
    return found


def check_paths(arguments: object, name: str = "") -> None:
    """Raises ConfigError where a path among the arguments, or in their sections, is none that a system can use."""
    if dataclasses.is_dataclass(arguments):
        for item in dataclasses.fields(arguments):
            check_paths(getattr(arguments, item.name), item.name)
    elif isinstance(arguments, tuple):
        for one in arguments:
            check_paths(one, name)
    elif isinstance(arguments, Path):
        _check_path(arguments, name)
    elif isinstance(arguments, str) and name in _PATHS:
        _check_path(Path(arguments), name)
    elif isinstance(arguments, str) and name == "dataset":
        entry, folder = entry_of(name, arguments), arguments.partition(":")[2]
        if entry is not None and entry.argument and folder:
            _check_path(Path(folder), name)


def _check_path(path: Path, name: str) -> None:
    """What is not there is no error here: the file may be one to write."""
    said = "" if name in _POSITIONAL else f"--{name.replace('_', '-')} "
    try:
        (path / _LONGEST_BELOW if name in _FOLDERS else path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        # Else the folder is made, or asked about, in the middle of the run.
        is_in_the_way = isinstance(error, NotADirectoryError) or (path.is_symlink() and not path.exists())
        if name == "data_dir" and is_in_the_way:
            raise ConfigError(f"{said}{unusable(path, error)}") from None
    except OSError as error:
        raise ConfigError(f"{said}{unusable(path, error)}") from None
    except ValueError as error:  # a null byte
        raise ConfigError(f"{said}{str(path)!a}: no name of a file ({error}); correct it") from None


def option_names(kind: type[Any]) -> list[str]:
    """The options of a command, and of the sections of settings that it takes."""
    found = []
    hints = get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        marks = getattr(hints[item.name], "__metadata__", ())
        if dataclasses.is_dataclass(_plain_type(hints[item.name])):
            found += option_names(_plain_type(hints[item.name]))
        elif tyro.conf.Suppress not in marks and tyro.conf.Positional not in marks:
            found.append(f"--{item.name.replace('_', '-')}")
    return found


def join_lines_of_help(kind: type[Any]) -> None:
    """Have `--help` wrap what the docstrings of options say, whose own line breaks tyro would keep."""
    for owner in kind.__mro__[:-1]:
        for name, text in _option_docstrings(owner).items():
            item = kind.__dataclass_fields__[name]
            if name in TABLES:
                text = f"{text.rstrip('.')}: {summaries_of(name)}."
            item.metadata = MappingProxyType({"help": text})
    for hint in get_type_hints(kind, include_extras=True).values():
        if dataclasses.is_dataclass(_plain_type(hint)):
            join_lines_of_help(_plain_type(hint))


def _plain_type(hint: Any) -> Any:
    return getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint


@cache
def _option_docstrings(kind: type[Any]) -> dict[str, str]:
    """The docstrings below a dataclass's own fields, each on one line."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def _one_line(framed: str) -> str:
    """tyro's complaint without its frame: a title, then parts set apart by rules."""
    parts: list[list[str]] = [[]]
    for line in framed.splitlines():
        text = line.strip("│| ")
        if set(text) <= set("─-╭╮╰╯+"):
            parts.append([])
        elif not text.startswith(("╭", "╰", "+")):
            parts[-1].append(text)
    said = [part for part in parts if part]
    titled = len(said) > 1 and len(said[0]) == 1 and not framed.startswith("╭")
    message = " ".join(said[1 if titled else 0]) if said else "cannot be understood"
    meant = [part[1].split()[0] for part in said if part[0].startswith("Perhaps you meant") and len(part) > 1]
    return _plain(message.rstrip(".")) + (f"; did you mean {meant[0]}?" if meant else "")


_PLAINER = (
    (
        r"Error parsing (\S+?)(?:/--\w+)?: invalid literal for int\(\) with base 10: '(.*)'",
        r"\1 \2: must be a whole number",
    ),
    (r"Error parsing (\S+?): could not convert string to float: '(.*)'", r"\1 \2: must be a number"),
    (r"Error parsing (\S+?): no type matching \{None\}\|INT could .* \['(.*)'\]", r"\1 \2: must be a whole number"),
    (r"Error parsing (\S+?): no type matching \{None\}\|FLOAT could .* \['(.*)'\]", r"\1 \2: must be a number"),
    (r"invalid choice '(.*)' for argument '(.*)'. Expected one of \((.*?),?\)", r"\2 \1: choose one of \3"),
    (r"Missing value for argument '(.*?)'.*", r"\1: needs a value"),
)


def _plain(message: str) -> str:
    """tyro's and Python's words as one would say them to a person."""
    if message.startswith("Missing from"):
        # Of each argument the first word: its option, or where it has none, what it is.
        first_words = r"(?::|\(required\)) (-\w|--[\w-]{2,}|[A-Z]{2,}|\{[^}]*\}) "
        return "missing: " + ", ".join(re.findall(first_words, message) or [message])
    for pattern, text in _PLAINER:
        message = re.sub(pattern, text, message)
    return message


def counted(count: int, what: str) -> str:
    """Such as 1 round, or 2 rounds."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def say_notes(topology: Topology) -> None:
    """What a user must know of how a topology file was read, a line each on standard error."""
    for note in topology.notes:
        print(f"p2pfl: note: {topology.source}: {' '.join(note.split())}", file=sys.stderr)
