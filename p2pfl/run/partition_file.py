"""Copy of a partition's file in the run directory, and its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from p2pfl.config import RunConfig, replace_options
from p2pfl.errors import ConfigError, unreadable
from p2pfl.run.paths import PARTITION_STEM
from p2pfl.util.files import read_file

_MOST_BYTES = 1 << 30


def kept_name(path: str) -> str:
    """Name of the copy of a partition's file."""
    return PARTITION_STEM + Path(path).suffix.lower()


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
