"""Run directory: creation with its settings, opening, lock, removal when unused."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from p2pfl import config as settings
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, TopologyError, unreadable, unwritable
from p2pfl.model.weights_file import weights_digest
from p2pfl.modes import mode_of
from p2pfl.run.data_record import read_data_record
from p2pfl.run.identity import write_run_id
from p2pfl.run.new_directory import check_new
from p2pfl.run.partition_file import keep_partition, kept_name, with_kept_partition
from p2pfl.run.paths import (
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    FAULTS_FILE,
    INIT_FILE,
    MODEL_FILE,
    PEERS_FOLDER,
    REPORT_FILE,
    ROUNDS_FILE,
    SCHEDULE_FILE,
    SUMMARY_FILE,
    TOPOLOGY_FILE,
    peer_dirs,
    topology_file,
)
from p2pfl.topology import Topology, load_topology
from p2pfl.topology.files import topology_bytes

_MAX_NAME, _MAX_LABEL = 150, 50  # characters in the name of a run's folder, which has at most 255
_RESULTS = (MODEL_FILE, SUMMARY_FILE, REPORT_FILE)  # that a run writes at its end


def create_run_dir(topology: Topology, config: RunConfig, alone: str | None = None) -> Path:
    """Make the run directory with the settings and the topology in it.

    `alone`: label of the only peer that it is for; its name then holds the label, and that peer's folder the run's id.
    Several such peers may make the same --run-dir at once. Raises ConfigError if it cannot be made.
    """
    check_new(config.record.run_dir, alone is not None)
    if config.record.run_dir is not None:
        run_dir = Path(config.record.run_dir)
    else:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        kind = config.mode if alone is None else f"peer-{quote(alone, safe='')[:_MAX_LABEL]}"
        run_dir = Path("runs") / f"{stamp}-{kind}-{quote(topology.name, safe='')[:_MAX_NAME]}"
        if run_dir.exists():
            run_dir = run_dir.with_name(f"{run_dir.name}-{secrets.token_hex(2)}")
    try:
        for folder in peer_dirs(run_dir, topology):
            folder.mkdir(parents=True, exist_ok=True)
        _write_topology(run_dir / (SCHEDULE_FILE if topology.is_schedule else TOPOLOGY_FILE), topology)
        if alone is None:
            write_run_id(run_dir)
        if config.exchange.faults is not None:
            _write(run_dir / FAULTS_FILE, partial(shutil.copyfile, config.exchange.faults))
        if config.training.init is not None:
            _write(run_dir / INIT_FILE, partial(shutil.copyfile, config.training.init))
        if config.data.partition_file is not None:
            keep_partition(run_dir, config.data.partition_file, _write_bytes)
        _write_settings(run_dir, config)  # last and atomically: a folder with settings is a run directory
    except (TopologyError, ConfigError, KeyboardInterrupt):
        _remove_incomplete(run_dir)
        raise
    except OSError as error:
        _remove_incomplete(run_dir)
        raise ConfigError(f"--run-dir {unwritable(run_dir, error)}, or choose another") from None
    return run_dir


def check_results(run_dir: Path) -> None:
    """Raise ConfigError if a resumed run could not write its results."""
    for name in _RESULTS:
        if (run_dir / name).is_dir():
            raise ConfigError(f"{run_dir / name}: is a folder, where the run will write a file; move it away")
    probe = run_dir / f".writable-{os.getpid()}"
    try:
        with open(probe, "w"):
            pass
        probe.unlink()
    except OSError as error:
        raise ConfigError(unwritable(run_dir, error)) from None


def write_settings(run_dir: Path, config: RunConfig) -> None:
    """Save the settings of a run in its directory, atomically. Raises ConfigError."""
    try:
        _write_settings(run_dir, config)
    except OSError as error:
        raise ConfigError(unwritable(run_dir / CONFIG_FILE, error)) from None


def _write_settings(run_dir: Path, config: RunConfig) -> None:
    """Save the settings without the folder, so that a run with them makes a new one."""
    faults, init = config.exchange.faults is not None, config.training.init is not None
    repeatable = settings.replace_options(
        config, run_dir=None, faults=FAULTS_FILE if faults else None, init=INIT_FILE if init else None
    )
    given = config.data.partition_file
    if given is not None:
        repeatable = settings.replace_options(repeatable, partition=f"file:{kept_name(given)}")
    from_file = mode_of(config).has_topology_file
    repeatable = dataclasses.replace(repeatable, topology=topology_file(run_dir).name if from_file else None)
    _write_bytes(run_dir / CONFIG_FILE, settings.to_toml(repeatable).encode())


def _write_topology(path: Path, topology: Topology) -> None:
    _write_bytes(path, topology_bytes(topology, path))


def _write_bytes(path: Path, data: bytes) -> None:
    _write(path, lambda file: file.write_bytes(data))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically.

    Peers of one folder may write the same at once, in containers whose process ids are equal.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    write(temporary)
    os.replace(temporary, path)


def update_dataset(run_dir: Path, config: RunConfig) -> None:
    """Save the new path of a resumed run's data set, once its content is verified."""
    recorded, saved = read_data_record(run_dir), load_run_settings(run_dir)
    if recorded is not None and recorded.dataset == config.data.dataset != saved.data.dataset:
        write_settings(run_dir, settings.replace_options(saved, dataset=config.data.dataset))


def with_kept_files(config: RunConfig, run_dir: Path) -> RunConfig:
    """Replace fault script, initial weights and partition by the run's copies.

    So a run can be resumed when the original files are gone. Raises ConfigError for other initial weights or another
    partition.
    """
    config = with_kept_partition(config, run_dir)
    if config.exchange.faults is not None:
        config = settings.replace_options(config, faults=str(run_dir / FAULTS_FILE))
    given = config.training.init
    if given is None:
        return config
    kept = str(run_dir / INIT_FILE)
    is_kept = os.path.exists(given) and os.path.exists(kept) and os.path.samefile(given, kept)
    if os.path.exists(given) and not is_kept and weights_digest(given) != weights_digest(kept):
        raise ConfigError(
            f"--init {given}: {run_dir} was started with other weights; leave it out to continue with those"
        )
    return settings.replace_options(config, init=kept)


def _remove_incomplete(run_dir: Path) -> None:
    """Remove a directory without settings, which would block the next attempt.

    One with settings was made by another process meanwhile.
    """
    if not os.path.exists(run_dir / CONFIG_FILE):
        shutil.rmtree(run_dir, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes on this machine.

    The operating system releases the lock when the process ends in any way. Raises ConfigError if another process holds
    it.
    """
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(unreadable(folder, error)) from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: in use by another process; wait for it, or choose another folder") from None
        yield
    finally:
        os.close(held)


def load_run_settings(run_dir: Path) -> RunConfig:
    """Read the settings in a run directory. Raises ConfigError."""
    path = run_dir / CONFIG_FILE
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{run_dir}: not a run directory (it has no {path.name})") from None
    except OSError as error:
        raise ConfigError(unreadable(run_dir, error)) from None
    except ValueError as error:  # a null byte
        raise ConfigError(f"{run_dir}: not a valid folder name ({error})") from None
    return settings.load_toml(path, is_recorded=True)


def open_run_dir(run_dir: Path) -> tuple[Topology, RunConfig]:
    """Read the topology and settings of a run directory. Raises ConfigError."""
    config = load_run_settings(run_dir)
    topology = load_topology(topology_file(run_dir), least=1, by_ids=True)
    return dataclasses.replace(topology, name=config.record.name or topology.name), config


def rounds_unsaved(run_dir: Path, config: RunConfig) -> int:
    """Rounds that a process may have recorded before its first checkpoint.

    `config`: of this call, which may save more often than those before did.
    """
    try:
        before = load_run_settings(run_dir)
    except ConfigError:  # whoever needs them says so
        before = config
    return max(config.record.checkpoint_every, before.record.checkpoint_every)


def remove_unused(run_dir: Path) -> None:
    """Remove a run directory that holds no results."""
    results = [
        *run_dir.glob(f"{PEERS_FOLDER}/*/{ROUNDS_FILE}*"),
        *run_dir.glob(f"{PEERS_FOLDER}/*/{CHECKPOINTS_FOLDER}/*"),
    ]
    if not any(path.stat().st_size for path in results):
        with contextlib.suppress(OSError):  # first: if killed now, the rest is known as incomplete
            (run_dir / CONFIG_FILE).unlink()
        shutil.rmtree(run_dir, ignore_errors=True)


def comparison_folder(run_dir: str | None, name: str) -> Path:
    """Folder of a comparison: --run-dir, or a new one under runs."""
    if run_dir is not None:
        return Path(run_dir)
    return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-compare-{quote(name, safe='')[:_MAX_NAME]}"


def runs_in(folder: Path) -> list[Path]:
    """Run directories in a comparison's folder, oldest first.

    Raises ConfigError if there are none.
    """
    found = sorted(
        (path.parent for path in folder.glob(f"*/{CONFIG_FILE}")),
        key=lambda run_dir: ((run_dir / CONFIG_FILE).stat().st_mtime_ns, run_dir.name),
    )
    if not found:
        raise ConfigError(f"{folder}: neither a run directory nor the folder of a comparison")
    return found
