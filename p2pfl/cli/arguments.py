"""Parsing of a command's arguments with tyro; mistakes become one line."""

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

from p2pfl.cli.examples import examples_text
from p2pfl.config.replaced import replacement
from p2pfl.errors import ConfigError, unusable
from p2pfl.registry import TABLES, entry_of, summaries_of
from p2pfl.util.text import did_you_mean

if TYPE_CHECKING:
    from p2pfl.topology import Topology

A = TypeVar("A")
_FOLDERS = {"rendezvous", "run_dir", "data_dir", "keys", "resume", "run_dirs", "what", "sources"}
_PATHS = _FOLDERS | {"topology", "token_file", "faults", "init"}
_POSITIONAL = {"topology", "file", "run_dirs", "what", "sources"}
_LONGEST_INSIDE = "x" * 250 + "/" + "x" * 100  # longer than any path inside a run directory or folder of keys
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)


def parse(kind: type[A], words: Sequence[str], command: str, default: A | None = None) -> A:
    """Parse arguments with tyro; its framed error message becomes one line.

    Raises ConfigError for a mistake.
    """

    def run() -> A:
        options: dict[str, Any] = {} if default is None else {"default": default}
        join_lines_of_help(kind)
        result: A = tyro.cli(kind, args=list(words), prog=f"p2pfl {command}", config=_STYLE, **options)
        return result

    if "-h" in words or "--help" in words:
        try:
            return run()
        except SystemExit:
            print(examples_text(command), end="")
            raise
    captured = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "2000"  # keeps tyro from breaking lines
    try:
        with contextlib.redirect_stderr(captured), contextlib.redirect_stdout(captured):
            found = run()
    except SystemExit:
        problem = _one_line(captured.getvalue())
        unknown = re.fullmatch(r"Unrecognized options: (-[^\s=,]+).*", problem.partition("; did you mean")[0])
        if unknown:
            unheard_of = f"there is no option {unknown[1]}{did_you_mean(unknown[1], option_names(kind))}"
            problem = replacement(unknown[1]) or unheard_of
        raise ConfigError(f"{command}: {problem} (see p2pfl {command} --help)") from None
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    check_paths(found)
    return found


def check_paths(arguments: object, name: str = "") -> None:
    """Check the paths among the arguments and their sections.

    Raises ConfigError for a path that the system cannot use.
    """
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
    elif isinstance(arguments, str) and name == "partition" and arguments.startswith("file:"):
        _check_path(Path(arguments.removeprefix("file:")), name)
    elif isinstance(arguments, str) and name == "dataset":
        entry, folder = entry_of(name, arguments), arguments.partition(":")[2]
        if entry is not None and entry.argument and folder:
            _check_path(Path(folder), name)


def _check_path(path: Path, name: str) -> None:
    """Check a path; a missing file is no error, as it may be an output."""
    option = "" if name in _POSITIONAL else f"--{name.replace('_', '-')} "
    try:
        (path / _LONGEST_INSIDE if name in _FOLDERS else path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        # Otherwise the folder is created, or a problem reported, in the middle of the run.
        is_in_the_way = isinstance(error, NotADirectoryError) or (path.is_symlink() and not path.exists())
        if name == "data_dir" and is_in_the_way:
            raise ConfigError(f"{option}{unusable(path, error)}") from None
    except OSError as error:
        raise ConfigError(f"{option}{unusable(path, error)}") from None
    except ValueError as error:  # a null byte
        raise ConfigError(f"{option}{str(path)!a}: not a valid file name ({error}); correct it") from None


def option_names(kind: type[Any]) -> list[str]:
    """Options of a command, including those of its sections of settings."""
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
    """Join the lines of options' docstrings, whose line breaks `--help` would keep."""
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
    """Docstrings of a dataclass's fields, each on one line."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in pairwise(definition.body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def _one_line(framed: str) -> str:
    """tyro's error message without its frame: a title, then blocks between rules."""
    blocks: list[list[str]] = [[]]
    for line in framed.splitlines():
        text = line.strip("│| ")
        if set(text) <= set("─-╭╮╰╯+"):
            blocks.append([])
        elif not text.startswith(("╭", "╰", "+")):
            blocks[-1].append(text)
    messages = [block for block in blocks if block]
    titled = len(messages) > 1 and len(messages[0]) == 1 and not framed.startswith("╭")
    message = " ".join(messages[1 if titled else 0]) if messages else "cannot be understood"
    suggested = [
        block[1].split()[0] for block in messages if block[0].startswith("Perhaps you meant") and len(block) > 1
    ]
    return _plain(message.rstrip(".")) + (f"; did you mean {suggested[0]}?" if suggested else "")


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
    """A message of tyro or Python in plainer words."""
    if message.startswith("Missing from"):
        # First word of each argument: its option, or its metavar if it has none.
        first_words = r"(?::|\(required\)) (-\w|--[\w-]{2,}|[A-Z]{2,}|\{[^}]*\}) "
        return "missing: " + ", ".join(re.findall(first_words, message) or [message])
    for pattern, text in _PLAINER:
        message = re.sub(pattern, text, message)
    return message


def print_notes(topology: Topology) -> None:
    """Print the notes about the reading of a topology file to standard error."""
    for note in topology.notes:
        print(f"p2pfl: note: {topology.source}: {' '.join(note.split())}", file=sys.stderr)
