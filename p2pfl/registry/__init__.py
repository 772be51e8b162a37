"""Registries: torch-free tables from a name to its object, summary and paper.

A table belongs to an option (`TABLES`). `--help`, the checks of settings and their messages, the tables of the
documentation and the tests over all algorithms read it from here, and `load` imports the object when it is needed.
Adding an algorithm, averaging rule, attack, mixing, partition, data set or model is one module, one entry and one test.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

from p2pfl.errors import ConfigError, one_line
from p2pfl.registry.entry import Entry
from p2pfl.registry.exchange import ALGORITHMS, ATTACKS, AVERAGINGS, COMPRESSIONS, MIXINGS
from p2pfl.registry.launchers import LAUNCHERS
from p2pfl.registry.training import DATASETS, MODELS, PARTITIONS
from p2pfl.util.text import nearest

__all__ = [
    "ALGORITHMS",
    "ATTACKS",
    "AVERAGINGS",
    "COMPRESSIONS",
    "DATASETS",
    "LAUNCHERS",
    "MIXINGS",
    "MODELS",
    "OWN",
    "PARTITIONS",
    "TABLES",
    "Entry",
    "check",
    "check_installed",
    "entry_of",
    "load",
    "names_of",
    "summaries_of",
]

TABLES: Mapping[str, Mapping[str, Entry]] = {
    "algorithm": ALGORITHMS,
    "averaging": AVERAGINGS,
    "attack": ATTACKS,
    "mixing": MIXINGS,
    "compression": COMPRESSIONS,
    "partition": PARTITIONS,
    "dataset": DATASETS,
    "model": MODELS,
    "launcher": LAUNCHERS,
}
"""The table of each option, by the option's name (`attack` is a field of fault scripts)."""

OWN: Mapping[str, str] = {
    "algorithm": "module:Class",
    **dict.fromkeys(("partition", "dataset", "model"), "module:function"),
}
"""Options that also take an object of the user's, and how it is written."""


def entry_of(option: str, value: str) -> Entry | None:
    """Entry of an option's value, with or without an argument; None if it has none."""
    return TABLES[option].get(value.partition(":")[0])


def names_of(option: str) -> list[str]:
    """Values of an option as its user writes them: dpsgd, imagefolder:DIR, …"""
    names = [name + (f":{entry.argument}" if entry.argument else "") for name, entry in TABLES[option].items()]
    return names + ([OWN[option]] if option in OWN else [])


def summaries_of(option: str) -> str:
    """Values of an option with their summaries, for `--help`."""
    described = [
        f"{name}{f':{entry.argument}' if entry.argument else ''} "
        f"({entry.summary}{'; Byzantine-robust' if entry.tolerates_byzantine else ''})"
        for name, entry in TABLES[option].items()
    ]
    return ", ".join(described) + (f", or your own as {OWN[option]}" if option in OWN else "")


def check(option: str, value: str) -> None:
    """Raise ConfigError unless an option takes a value.

    The user's own object is not imported for it.
    """
    entry = entry_of(option, value)
    has_argument = ":" in value
    first, comma, _ = value.partition(",")
    if entry is None and comma and entry_of(option, first) is not None:
        several = "; only p2pfl compare takes several" if option in ("algorithm", "partition") else ""
        raise ConfigError(f"--{option} {value}: choose one value{several}")
    if entry is None and has_argument and option in OWN:
        return
    if entry is None:
        raise ConfigError(f"--{option} {value}: choose one of {', '.join(names_of(option))}")
    if has_argument and not entry.argument:
        raise ConfigError(f"--{option} {value}: {value.partition(':')[0]} takes no argument; choose it alone")


def check_installed(option: str, value: str) -> None:
    """Raise ConfigError if a value needs an extra of this package that is missing."""
    entry = entry_of(option, value)
    if entry is not None and entry.extra and importlib.util.find_spec(entry.extra) is None:
        raise ConfigError(
            f"--{option} {value}: the package {entry.extra} is not installed",
            remedy=f"pip install 'p2pfl-swarm[{entry.extra}]'",
        )


def load(entry: Entry | str, option: str = "--algorithm", push_sum: bool = False) -> Any:
    """Import the object of an entry, or the user's own "module:attribute".

    `option` is the command-line option that named it, for messages. `push_sum`: that of a mixing where sums are pushed.
    Raises ConfigError where the user's own module cannot be imported or has no such callable.
    """
    if isinstance(entry, str):
        return _load_own(entry, option)
    target = entry.push_target if push_sum and entry.push_target else entry.target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _load_own(spec: str, option: str) -> Any:
    """Import the user's `module:attribute`, also from the current directory.

    `option` is the command-line option that the user gave, for messages.
    Raises ConfigError where the module cannot be imported or has no such callable.
    """
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{option} {spec}: expected module:function, such as my_code:build")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(
            f"{option} {spec}: {module_name!r} is no name of a module; write it as in an import statement, such as "
            "my_code:build, and run p2pfl in the folder of my_code.py"
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module_name and (meant := _meant(spec, option)):
            raise ConfigError(f"{option} {spec}: there is no module {module_name!r}; did you mean {meant}?") from None
        raise ConfigError(f"{option} {spec}: cannot import {module_name!r}: {one_line(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        state = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise ConfigError(f"{option} {spec}: {attribute!r} {state} in {module.__file__ or module_name}")
    return found


def _meant(spec: str, option: str) -> str:
    """Name that was probably meant, with its argument; empty if none is near."""
    name, _, argument = spec.partition(":")
    table = TABLES.get(option.removeprefix("--"), {})
    near = nearest(name, table)
    return "" if near is None else f"{near}:{argument}" if table[near].argument else near
