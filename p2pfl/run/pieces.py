"""Run directories that each hold one part of the same run.

Each is one peer's, as `p2pfl peer` makes them.
Directories are of one run if their settings, topology, data and run id agree. A peer that runs by itself has an id in
its own folder, so two folders of one peer with different ids come from different runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.modes import assign_roles
from p2pfl.run.data_record import DataRecord, read_data_record
from p2pfl.run.directory import open_run_dir
from p2pfl.run.fingerprint import describe_settings, describe_topology, run_fingerprint
from p2pfl.run.identity import read_run_id
from p2pfl.run.paths import CHECKPOINTS_FOLDER, PEERS_FOLDER, ROUNDS_FILE, RUN_ID_FILE, SKETCHES_FILE, peer_dirs
from p2pfl.run.records import MAX_RECORD_BYTES
from p2pfl.run.sketch_file import MAX_BYTES
from p2pfl.topology import Topology
from p2pfl.util.files import read_if_any

_TRACES = (ROUNDS_FILE, RUN_ID_FILE, CHECKPOINTS_FOLDER)  # at least one is in the folder of a peer that has run
_REMEDY = "name directories of one run only"


@dataclass(frozen=True)
class Piece:
    """One of several run directories of a run.

    `run_id`: in the run directory, where a launcher made it. `peers`: folders of the peers that have run there, by
    index.
    """

    path: Path
    topology: Topology
    config: RunConfig
    run_id: str | None
    data: DataRecord | None
    peers: Mapping[int, Path]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the settings and the topology on which all processes agree."""
        return run_fingerprint(assign_roles(self.config, self.topology), self.config)


def read_piece(run_dir: Path) -> Piece:
    """Read what identifies a run directory.

    Raises ConfigError where its settings or topology are missing or cannot be read.
    """
    topology, config = open_run_dir(run_dir)
    folders = enumerate(peer_dirs(run_dir, topology))
    peers = {index: folder for index, folder in folders if any((folder / name).exists() for name in _TRACES)}
    return Piece(run_dir, topology, config, read_run_id(run_dir), read_data_record(run_dir), peers)


def is_in_pieces(run_dir: Path) -> bool:
    """Whether a run directory has no run id but its peers have.

    Each of these was started alone.
    """
    if read_run_id(run_dir) is not None:
        return False
    return any(read_run_id(path.parent) for path in run_dir.glob(f"{PEERS_FOLDER}/*/{RUN_ID_FILE}"))


def check_one_run(pieces: Sequence[Piece]) -> None:
    """Check that all directories are of one run.

    Raises ConfigError naming two that are not, and their difference.
    """
    first = pieces[0]
    for other in pieces[1:]:
        if why := _difference(first, other):
            raise ConfigError(f"{other.path}: not of the same run as {first.path} ({why})", remedy=_REMEDY)


def _difference(first: Piece, other: Piece) -> str:
    """The first difference of two runs, in words; empty if there is none."""
    if first.config.mode != other.config.mode:
        return f"mode {other.config.mode}, there {first.config.mode}"
    if first.fingerprint != other.fingerprint:
        return _other_settings(first, other)
    if first.run_id != other.run_id:
        return "their run.id differ" if first.run_id and other.run_id else f"only one has a {RUN_ID_FILE}"
    if first.data is not None and other.data is not None:
        if first.data.content != other.data.content:
            return f"trained on other data: content {other.data.content}, there {first.data.content}"
        if first.data.shards != other.data.shards and "" not in (first.data.shards, other.data.shards):
            return f"trained on other shards: {other.data.shards}, there {first.data.shards}"
    return ""


def _other_settings(first: Piece, other: Piece) -> str:
    ours, theirs = (
        describe_settings(piece.config) | describe_topology(assign_roles(piece.config, piece.topology))
        for piece in (first, other)
    )
    different = [name for name in chain(ours, theirs) if ours.get(name) != theirs.get(name)]
    if not different:
        return "other settings"
    name = different[0]
    return f"{name} {theirs.get(name, 'unset')}, there {ours.get(name, 'unset')}"


def joined_folders(pieces: Sequence[Piece]) -> dict[int, Path]:
    """Folder of each peer that has run, by index; of equal copies the first.

    Raises ConfigError for directories of different runs, and for copies of one peer that differ.
    """
    check_one_run(pieces)
    found: dict[int, Path] = {}
    for piece in pieces:
        for index, folder in piece.peers.items():
            there = found.setdefault(index, folder)
            if there == folder or folder.samefile(there):
                continue
            name = piece.topology.names[index]
            check_same_peer(name, there, folder)
            if not _are_equal(there, folder):
                raise ConfigError(
                    f"peer {name}: its records in {folder} and {there} differ", remedy="name the newer directory only"
                )
    return found


def check_same_peer(name: str, one: Path, other: Path) -> None:
    """Raise ConfigError if two folders of a peer are of different runs, by their ids."""
    ids = read_run_id(one), read_run_id(other)
    if None not in ids and ids[0] != ids[1]:
        raise ConfigError(
            f"peer {name}: {other} and {one} are of different runs (their {RUN_ID_FILE} differ)",
            remedy="name the directory that belongs to the others only",
        )


def _are_equal(one: Path, other: Path) -> bool:
    limits = {ROUNDS_FILE: MAX_RECORD_BYTES, SKETCHES_FILE: MAX_BYTES}
    return all(read_if_any(one / name, most) == read_if_any(other / name, most) for name, most in limits.items())
