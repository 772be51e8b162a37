"""Options of which a comparison takes several values, separated by commas."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from p2pfl import registry
from p2pfl.config.partition import checked_partition
from p2pfl.errors import ConfigError


def _checked_algorithm(value: str) -> str:
    registry.check("algorithm", value)
    return value


# Option -> check of a value, which returns its one spelling.
LISTED: Mapping[str, Callable[[str], str]] = {"algorithm": _checked_algorithm, "partition": checked_partition}


# Options of training that --tune may choose.
TUNABLE = ("lr", "momentum", "weight_decay")


def split_values(option: str, text: str, folder: Path | None = None) -> tuple[str, ...]:
    """Split the values of an option in `LISTED`.

    A comma in the path of a partition file is possible where that is the only value: text that names an existing
    file. Paths start at `folder`, by default at the working directory. Raises ConfigError for a value that is empty,
    unknown, or named twice.
    """
    parts = [text] if _is_file(text, folder) else [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"--{option} {text}: a value is empty; separate values by single commas")
    if option == "partition" and folder is not None:
        parts = [anchored(part, folder) for part in parts]
    values = tuple(map(LISTED[option], parts))
    if len(set(values)) < len(values):
        raise ConfigError(f"--{option} {text}: names a value twice; name each once")
    return values


def anchored(partition: str, folder: Path) -> str:
    """Partition with the path of its file, if it has one, starting at `folder`."""
    kind, _, path = partition.partition(":")
    return f"file:{folder / path}" if kind == "file" and path else partition


def _is_file(text: str, folder: Path | None) -> bool:
    path = text.removeprefix("file:")
    return path != text and "," in path and os.path.isfile(path if folder is None else folder / path)
