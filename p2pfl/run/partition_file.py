"""Copy of a partition's file in the run directory, with its path and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from p2pfl.config import RunConfig, replace_options
from p2pfl.errors import ConfigError, unreadable
from p2pfl.run.paths import PARTITION_NAME_FILE, PARTITION_STEM
from p2pfl.util.files import read_file

_MOST_BYTES = 1 << 30
_MOST_OF_A_NAME = 1 << 16


def kept_name(path: str) -> str:
    """Name of the copy of a partition's file."""
    return PARTITION_STEM + Path(path).suffix.lower()


def keep_partition(run_dir: Path, path: str, write: Callable[[Path, bytes], object]) -> None:
    """Copy a partition's file into a run directory, with the path of its user.

    Raises ConfigError for a file that cannot be read, OSError where the copy cannot be written.
    """
    write(run_dir / kept_name(path), partition_bytes(path))
    name = given_path(path).encode("utf-8", "surrogateescape")
    write(run_dir / PARTITION_NAME_FILE, name)


def given_path(path: str) -> str:
    """Path of a partition's file as its user gave it, for the path of its copy.

    The path itself where it is no copy, or one of a version that did not record it.
    """
    file = Path(path)
    if file.name != kept_name(path):
        return path
    try:
        name = read_file(file.expanduser().with_name(PARTITION_NAME_FILE), _MOST_OF_A_NAME)
    except (OSError, RuntimeError):
        return path
    return name.decode("utf-8", "surrogateescape") or path


def partition_digest(path: str) -> str:
    """Digest of a partition's file, 10 hexadecimal digits. Raises ConfigError."""
    return hashlib.sha256(partition_bytes(path)).hexdigest()[:10]


def partition_bytes(path: str) -> bytes:
    """Content of a partition's file. Raises ConfigError naming it."""
    try:
        return read_file(Path(path).expanduser(), _MOST_BYTES)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
        raise ConfigError(f"--partition file:{unreadable(Path(path), error)}") from None


def as_given(error: ConfigError, given: RunConfig, run_dir: Path) -> ConfigError:
    """The same error about a partition's file, under the name that its user gave.

    Its copy is gone once the run directory of a run that could not start is removed.
    """
    path = given.data.partition_file
    return error if path is None else ConfigError(str(error).replace(str(run_dir / kept_name(path)), path))


def notes_as_given(notes: Sequence[str], config: RunConfig) -> tuple[str, ...]:
    """Notes of a run that reads the copy of a partition's file, under its user's name."""
    path = config.data.partition_file
    return tuple(notes if path is None else (note.replace(path, given_path(path)) for note in notes))


def check_partition(config: RunConfig, run_dir: Path, saved: RunConfig) -> None:
    """Raise ConfigError where a partition's file is another than that of a run so far."""
    given, kept = config.data.partition_file, saved.data.partition_file
    if given is not None and kept is not None and partition_bytes(given) != partition_bytes(kept):
        raise ConfigError(
            f"--partition file:{given}: {run_dir} was made with another content of it; restore the file, or choose "
            "another --run-dir"
        )


def with_kept_partition(config: RunConfig, run_dir: Path) -> RunConfig:
    """Replace a partition's file by its copy in the run directory.

    Raises ConfigError where the file has another content than the copy.
    """
    given = config.data.partition_file
    if given is None:
        return config
    kept = run_dir / kept_name(given)
    if Path(given).expanduser().exists() and partition_bytes(given) != partition_bytes(str(kept)):
        raise ConfigError(
            f"--partition file:{given}: {run_dir} was started with another content; leave it out to continue with that"
        )
    return replace_options(config, partition=f"file:{kept}")
