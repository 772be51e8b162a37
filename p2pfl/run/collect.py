"""Collection of peers' run directories into one run directory of the usual form.

Each file is replaced atomically, and the order makes an interrupted collection safe to repeat: the settings of a new
directory come after its other files, and a peer's incarnation, by which a newer copy is known, comes last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2pfl.errors import ConfigError, unreadable, unwritable
from p2pfl.modes import assign_roles
from p2pfl.run.directory import locked
from p2pfl.run.file_copy import discard, put, stage, stage_peer
from p2pfl.run.new_directory import remove_incomplete
from p2pfl.run.paths import (
    CHECKPOINT_NAME,
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    DATA_FILE,
    FAULTS_FILE,
    INCARNATION_FILE,
    INIT_FILE,
    MODEL_FILE,
    PARTITION_STEM,
    ROUNDS_FILE,
    RUN_ID_FILE,
    SKETCHES_FILE,
    SUMMARY_FILE,
    peer_dir,
    peer_dirs,
    topology_file,
)
from p2pfl.run.pieces import Piece, check_one_run, check_same_peer, read_piece
from p2pfl.run.records import MAX_RECORD_BYTES
from p2pfl.run.sketch_file import file_size
from p2pfl.util.files import read_if_any

_KEPT = (FAULTS_FILE, INIT_FILE, DATA_FILE, RUN_ID_FILE, f"{PARTITION_STEM}.json", f"{PARTITION_STEM}.csv")
_MOST_DIGITS = 11  # of an incarnation


@dataclass(frozen=True)
class Collected:
    """Result of a collection: labels of the peers.

    `copied`: new or newer than before. `up_to_date`: as before. `newer`: older in the sources than what was there.
    `missing`: without any files.
    """

    copied: tuple[str, ...]
    up_to_date: tuple[str, ...]
    newer: tuple[str, ...]
    missing: tuple[str, ...]


def collect(sources: Sequence[Path], target: Path) -> Collected:
    """Bring the peers of one run together in the run directory `target`.

    `target` may be new. `sources`: run directories, or folders of such. Of several copies of a peer the newest counts,
    and what `target` has is replaced by newer copies only. Raises ConfigError, before anything is written, for sources
    without run directories or in which no peer has run, of different runs, or with copies of a peer that exclude each
    other; and for files that cannot be read or written.
    """
    pieces = [read_piece(path) for path in _run_dirs(sources, target)]
    _refuse_inside(target, pieces)
    whole = read_piece(target) if (target / CONFIG_FILE).exists() else None
    check_one_run(pieces if whole is None else [whole, *pieces])
    names = pieces[0].topology.names
    chosen = _newest_copies(pieces)
    if not chosen:
        where = ", ".join(map(str, sources))
        raise ConfigError(f"{where}: no peer has run there; name directories of peers that have started")
    before = {} if whole is None else dict(whole.peers)
    ranks = {i: 1 if i not in before else _rank(names[i], folder, before[i]) for i, folder in chosen.items()}
    if whole is None:
        _begin(target)
    with locked(target):
        _copy_settings(pieces, target)
        for index, folder in chosen.items():
            if ranks[index] >= 0:
                _copy_peer(folder, peer_dir(target, pieces[0].topology, index), is_newer=ranks[index] > 0)
        _copy_model(pieces, chosen, target)
    present = {*before, *chosen}
    copied, same, newer = (tuple(names[i] for i in chosen if ranks[i] == rank) for rank in (1, 0, -1))
    return Collected(copied, same, newer, tuple(name for index, name in enumerate(names) if index not in present))


def _run_dirs(sources: Sequence[Path], target: Path) -> list[Path]:
    """Run directories in the sources, without the target and repetitions."""
    found: list[Path] = []
    for source in sources:
        try:
            below = sorted(path.parent for path in source.glob(f"*/{CONFIG_FILE}"))
            here = [source] if (source / CONFIG_FILE).exists() else below
            if not here:
                if not source.is_dir():
                    raise ConfigError(f"{source}: no such folder")
                raise ConfigError(f"{source}: no run directory, and no folder of such (no {CONFIG_FILE} in it)")
        except OSError as error:
            raise ConfigError(unreadable(source, error)) from None
        for path in here:
            if not any(path.samefile(other) for other in (*found, target) if other.exists()):
                found.append(path)
    if not found:
        raise ConfigError(f"--run-dir {target}: is the only source", remedy="name other run directories of the run")
    return found


def _refuse_inside(target: Path, pieces: Sequence[Piece]) -> None:
    """Raise ConfigError for a target in one of the run directories that are collected."""
    for piece in pieces:
        if piece.path.resolve() in target.resolve().parents:
            raise ConfigError(f"--run-dir {target}: inside of {piece.path}, which is collected; choose another")


def _newest_copies(pieces: Sequence[Piece]) -> dict[int, Path]:
    """Newest folder of each peer, by index.

    Raises ConfigError where two exclude each other.
    """
    found: dict[int, Path] = {}
    for piece in pieces:
        for index, folder in piece.peers.items():
            if index not in found or _rank(piece.topology.names[index], folder, found[index]) > 0:
                found[index] = folder
    return dict(sorted(found.items()))


def _rank(name: str, one: Path, other: Path) -> int:
    """Order of two folders of a peer: 1 if the first is newer, -1 if it is older.

    0 if both have the same records and sketches. A later start of the peer is newer. Within one start records are only
    appended. Of equal records the copy with more sketches counts as newer: the other one was cut off. Raises
    ConfigError for folders of different runs, and for records that exclude each other.
    """
    check_same_peer(name, other, one)
    starts = _incarnation(one), _incarnation(other)
    if 0 not in starts and starts[0] != starts[1]:
        return 1 if starts[0] > starts[1] else -1
    ours, theirs = _whole_lines(one), _whole_lines(other)
    if ours == theirs:
        sizes = [_sketch_bytes(folder, ours.count(b"\n")) for folder in (one, other)]
        return (sizes[0] > sizes[1]) - (sizes[0] < sizes[1])
    if ours.startswith(theirs):
        return 1
    if theirs.startswith(ours):
        return -1
    raise ConfigError(
        f"peer {name}: the records in {one} and {other} exclude each other", remedy="name the right directory only"
    )


def _incarnation(folder: Path) -> int:
    """Number of a peer's last start; 0 where it is not known."""
    text = read_if_any(folder / INCARNATION_FILE).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() and len(text) < _MOST_DIGITS else 0


def _whole_lines(folder: Path) -> bytes:
    data = read_if_any(folder / ROUNDS_FILE, MAX_RECORD_BYTES)
    return data[: data.rfind(b"\n") + 1]


def _sketch_bytes(folder: Path, rounds: int) -> int:
    """Size of a peer's sketches, as far as they belong to so many rounds."""
    try:
        return min((folder / SKETCHES_FILE).stat().st_size, file_size(rounds))
    except OSError:
        return 0


def _begin(target: Path) -> None:
    """Make a new folder, or clear one of an interrupted collection.

    Raises ConfigError for one with other files.
    """
    try:
        if target.exists() and not target.is_dir():
            raise ConfigError(f"--run-dir {target}: not a folder; choose another")
        remove_incomplete(target)
        if target.exists() and any(target.iterdir()):
            raise ConfigError(f"--run-dir {target}: holds other files and no run; choose another")
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run-dir {unwritable(target, error)}") from None


def _copy_settings(pieces: Sequence[Piece], target: Path) -> None:
    """Copy what the run directory lacks of the files that all peers have alike.

    The settings come last: a folder with settings is a run directory.
    """
    for name in (topology_file(pieces[0].path).name, *_KEPT, CONFIG_FILE):
        if not (target / name).exists():
            has = next((piece.path for piece in pieces if (piece.path / name).exists()), None)
            if has is not None:
                put([stage(has / name, target / name)])
    summary = next((piece.path / SUMMARY_FILE for piece in pieces if piece.run_id is not None), None)
    if summary is not None:  # a launcher's, with facts that no peer has recorded
        put([stage(summary, target / SUMMARY_FILE, only_newer=True)])
    for folder in peer_dirs(target, pieces[0].topology):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(unwritable(folder, error)) from None


def _copy_peer(source: Path, folder: Path, is_newer: bool) -> None:
    """Copy a peer's files that differ.

    Where its records are the same, those that are missing or newer.
    """
    discard(folder)  # what an interrupted collection has left
    try:
        put(stage_peer(source, folder, only_newer=not is_newer))
    finally:
        discard(folder)
    numbers = [int(found[1]) for path in (source / CHECKPOINTS_FOLDER).glob("*") if (found := _numbered(path))]
    if is_newer and numbers:  # as the peer itself removes them
        for path in (folder / CHECKPOINTS_FOLDER).glob("*"):
            found = _numbered(path)
            if found and int(found[1]) < min(numbers):
                with suppress(OSError):
                    path.unlink()


def _numbered(path: Path) -> re.Match[str] | None:
    return CHECKPOINT_NAME.fullmatch(path.name)


def _copy_model(pieces: Sequence[Piece], chosen: dict[int, Path], target: Path) -> None:
    """Copy the run's model from the directory of the peer that saved it."""
    owner = assign_roles(pieces[0].config, pieces[0].topology).model_owner
    with_model = [piece for piece in pieces if (piece.path / MODEL_FILE).is_file()]
    if owner is None or not with_model:
        return
    saved = next((piece for piece in with_model if piece.peers.get(owner) == chosen.get(owner)), with_model[0])
    put([stage(saved.path / MODEL_FILE, target / MODEL_FILE, only_newer=True)])
