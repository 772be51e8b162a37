"""Run directories that are not made yet, or whose making was interrupted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from p2pfl.errors import ConfigError
from p2pfl.run.paths import (
    CONFIG_FILE,
    DATA_FILE,
    FAULTS_FILE,
    INCARNATION_FILE,
    INIT_FILE,
    INTRODUCTIONS_FILE,
    LOG_FILE,
    PARTITION_NAME_FILE,
    PARTITION_STEM,
    PEERS_FOLDER,
    RUN_ID_FILE,
    SCHEDULE_FILE,
    SHARD_FILE,
    TOPOLOGY_FILE,
)

# Content of a folder that is not a run directory yet; each file also under a temporary name, with a dot before it.
_BEFORE_SETTINGS = {PEERS_FOLDER, RUN_ID_FILE, TOPOLOGY_FILE, SCHEDULE_FILE, FAULTS_FILE, INIT_FILE, DATA_FILE} | {
    PARTITION_NAME_FILE,
    *(f"{PARTITION_STEM}.{ending}" for ending in ("json", "csv")),
}
_BEFORE_ROUNDS = {
    LOG_FILE,
    INCARNATION_FILE,
    SHARD_FILE,
    INTRODUCTIONS_FILE,
    DATA_FILE,
}  # in the folder of a process that has done no round


def check_new(run_dir: str | None, is_alone: bool = False) -> None:
    """Raise ConfigError for a --run-dir that is a file, or a folder that is not empty.

    `is_alone`: it is for a single peer, which joins the folder that another one has made.
    """
    path = None if run_dir is None else Path(run_dir)
    if path is None or not os.path.exists(path) or (is_alone and _is_joined(path)):
        return
    if not path.is_dir() or any(path.iterdir()):
        raise ConfigError(f"--run-dir {path}: exists already", remedy=_alternative(path))


def _is_joined(run_dir: Path) -> bool:
    """Whether another peer of the run has made this folder, or is making it."""
    return _is_incomplete(run_dir) or (run_dir / CONFIG_FILE).exists()


def _alternative(run_dir: Path) -> str:
    """Remedy for a path that exists already: another, or --resume if it is a run."""
    return "choose another" + (f", or --resume {run_dir}" if (run_dir / CONFIG_FILE).is_file() else "")


def remove_incomplete(run_dir: Path) -> bool:
    """Remove a directory whose creation or removal was interrupted; True if so."""
    if not _is_incomplete(run_dir):
        return False
    shutil.rmtree(run_dir, ignore_errors=True)
    return True


def _is_incomplete(run_dir: Path) -> bool:
    """Return whether a directory holds only parts of a run directory."""
    if (run_dir / CONFIG_FILE).exists() or not run_dir.is_dir():
        return False
    temporary = tuple(f".{name}." for name in (CONFIG_FILE, *_BEFORE_SETTINGS))
    names = {path.name for path in run_dir.iterdir()}
    known = all(name in _BEFORE_SETTINGS or name.startswith(temporary) for name in names)
    files = (path for path in run_dir.glob(f"{PEERS_FOLDER}/**/*") if path.is_file())
    return known and all(path.name in _BEFORE_ROUNDS for path in files)
