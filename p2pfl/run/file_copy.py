"""Copies of a run directory's files, put in place atomically.

They are written under temporary names first. A copy has the time of its original, so that an unchanged file is known by
size and time and is not copied again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from p2pfl.errors import ConfigError, is_missing, unreadable, unwritable
from p2pfl.run.paths import CHECKPOINTS_FOLDER, INCARNATION_FILE, ROUNDS_FILE, SKETCHES_FILE
from p2pfl.util.files import opener, sync_folder

_ENDING = ".collecting"
_CHUNK = 2**20
_TRIES = 3  # for records and sketches of the same moment, while the peer appends to both


@dataclass(frozen=True)
class Staged:
    """A copy under its temporary name, and the name that it will get."""

    temporary: Path
    target: Path


def stage(source: Path, target: Path, *, only_newer: bool = False) -> Staged | None:
    """Copy a file beside its target.

    Returns None if the target has it already, or if it has vanished. `only_newer`: also where the target is as new as
    the source. Raises ConfigError naming the file that cannot be read or written.
    """
    temporary = target.with_name(f".{target.name}{_ENDING}")
    try:
        with open(source, "rb", opener=opener) as original:
            state = os.fstat(original.fileno())
            if _has(target, state, only_newer):
                return None
            _write(original, temporary)
    except OSError as error:
        if is_missing(source, error):  # a peer removes old checkpoints
            return None
        raise ConfigError(unreadable(source, error)) from None
    os.utime(temporary, ns=(state.st_atime_ns, state.st_mtime_ns))
    return Staged(temporary, target)


def _has(target: Path, state: os.stat_result, only_newer: bool) -> bool:
    try:
        there = target.stat()
    except OSError:
        return False
    same = there.st_size == state.st_size and there.st_mtime_ns == state.st_mtime_ns
    return same or (only_newer and there.st_mtime_ns >= state.st_mtime_ns)


def _write(original: IO[bytes], temporary: Path) -> None:
    """Copy an open file, and wait for the disk.

    Raises OSError where reading fails, and ConfigError where writing does.
    """
    try:
        copy = open(temporary, "wb", opener=opener)  # noqa: SIM115  its errors are not those of reading
    except OSError as error:
        raise ConfigError(unwritable(temporary, error)) from None
    try:
        with copy:
            while chunk := original.read(_CHUNK):
                try:
                    copy.write(chunk)
                except OSError as error:
                    raise ConfigError(unwritable(temporary, error)) from None
            try:
                copy.flush()
                os.fsync(copy.fileno())
            except OSError as error:
                raise ConfigError(unwritable(temporary, error)) from None
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def stage_peer(source: Path, folder: Path, *, only_newer: bool) -> list[Staged | None]:
    """Copy all files of a peer beside their targets.

    Returns them in the order in which they are to be put in place. They are read in the reverse order of the peer's
    writes (checkpoint, record, sketch), and put in place in that order, so that at no time a checkpoint lacks its
    record, or a record its sketch. The incarnation comes last.
    """
    checkpoints = [
        stage(path, folder / CHECKPOINTS_FOLDER / path.name, only_newer=only_newer)
        for path in _files(source / CHECKPOINTS_FOLDER, folder / CHECKPOINTS_FOLDER)
    ]
    incarnation = stage(source / INCARNATION_FILE, folder / INCARNATION_FILE, only_newer=only_newer)
    named = (ROUNDS_FILE, SKETCHES_FILE, INCARNATION_FILE)
    others = [
        stage(path, folder / path.name, only_newer=only_newer)
        for path in _files(source, folder)
        if path.name not in named
    ]
    for _ in range(_TRIES):
        records = stage(source / ROUNDS_FILE, folder / ROUNDS_FILE, only_newer=only_newer)
        sketches = stage(source / SKETCHES_FILE, folder / SKETCHES_FILE, only_newer=only_newer)
        if records is None or _size(records.temporary) == _size(source / ROUNDS_FILE):
            break
    return [*others, sketches, records, *checkpoints, incarnation]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _files(source: Path, folder: Path) -> list[Path]:
    """Regular files in a folder that are complete, and a folder made for their copies."""
    try:
        found = sorted(path for path in source.iterdir() if path.is_file() and _is_complete(path.name))
    except OSError as error:
        if is_missing(source, error):
            return []
        raise ConfigError(unreadable(source, error)) from None
    if found:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(unwritable(folder, error)) from None
    return found


def _is_complete(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".tmp")


def put(staged: Sequence[Staged | None]) -> None:
    """Put copies in place, one after another, each atomically. Raises ConfigError."""
    found = [one for one in staged if one is not None]
    for one in found:
        try:
            os.replace(one.temporary, one.target)
        except OSError as error:
            raise ConfigError(unwritable(one.target, error)) from None
    for folder in {one.target.parent for one in found}:
        with suppress(OSError):  # some network file systems cannot
            sync_folder(folder)


def discard(folder: Path) -> None:
    """Remove what an interrupted collection has left in a peer's folder."""
    left: Iterable[Path] = [*folder.glob(f".*{_ENDING}"), *(folder / CHECKPOINTS_FOLDER).glob(f".*{_ENDING}")]
    for path in left:
        with suppress(OSError):
            path.unlink()
