"""Archive of the directory service: the peers' records, a run directory for each.

It holds what a report needs: settings, records, sketches, logs. Weights never come: neither checkpoints nor models have
a name here. Below the archive's folder are one for each start of a run (`--rendezvous-run`), and in that the run
directories of its peers, as `p2pfl peer` makes them. A peer can write its own files only, of these names and of
a bounded size.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote, unquote

from p2pfl.errors import ConfigError, P2PFLError, unreadable, unwritable
from p2pfl.rendezvous.wire import MOST_LISTED, Fetch, Listing, Part, Store
from p2pfl.run.identity import is_run_id, read_run_id, write_run_id
from p2pfl.run.mirror import PIECE_BYTES, Incoming, Piece
from p2pfl.run.paths import (
    CONFIG_FILE,
    DATA_FILE,
    INCARNATION_FILE,
    INTRODUCTIONS_FILE,
    LOG_FILE,
    PARTITION_NAME_FILE,
    PARTITION_STEM,
    ROUNDS_FILE,
    RUN_ID_FILE,
    SCHEDULE_FILE,
    SHARD_FILE,
    SKETCHES_FILE,
    TOPOLOGY_FILE,
    peer_dir,
)
from p2pfl.topology import Topology
from p2pfl.util.files import opener

FILE_BYTES = 1 << 30  # of one file
MOST_STARTS = 256  # beyond which no new ones are taken
RUN_FILES = (
    TOPOLOGY_FILE,
    SCHEDULE_FILE,
    DATA_FILE,
    f"{PARTITION_STEM}.json",
    f"{PARTITION_STEM}.csv",
    PARTITION_NAME_FILE,
    CONFIG_FILE,
)
PEER_FILES = (
    SHARD_FILE,
    INTRODUCTIONS_FILE,
    DATA_FILE,
    ROUNDS_FILE,
    SKETCHES_FILE,
    LOG_FILE,
    INCARNATION_FILE,
)
_MOST_NAME = 100  # characters of a start's name in that of its folder


class ArchiveError(P2PFLError):
    """Request that an archive cannot fulfil; its text is for the peer's user."""


class Archive:
    """Records of the peers of one topology, in a folder."""

    def __init__(self, folder: Path, topology: Topology) -> None:
        """Make the folder where it is missing. Raises ConfigError if it cannot be used."""
        self._folder = folder
        self._own = [topology.node_path(peer) for peer in range(topology.n)]
        within = [peer_dir(Path(), topology, peer) for peer in range(topology.n)]
        self._peer_dirs = within
        self._allowed = [{*RUN_FILES, *((path / name).as_posix() for name in PEER_FILES)} for path in within]
        # What a collector may ask for, in the order in which it is listed; settings last.
        self._files = [
            f"{own}/{name}"
            for own, path in zip(self._own, within, strict=True)
            for name in (*((path / name).as_posix() for name in (RUN_ID_FILE, *PEER_FILES)), *RUN_FILES)
        ]
        self._known = frozenset(self._files)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--records {unwritable(folder, error)}, or choose another") from None
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"--records {folder}: cannot be written; choose another folder")

    def store(self, peer: int, start: str, request: Store) -> None:
        """Write part of a peer's file. Raises ArchiveError."""
        piece = Piece(request.path, request.offset, request.content, request.size, request.grows)
        if request.path not in self._allowed[peer] or request.size > FILE_BYTES:
            raise ArchiveError(f"{request.path[:80]!r} of {request.size} bytes is no file of its records")
        if request.offset + len(request.content) > request.size:
            raise ArchiveError("a part beyond its file")
        place = self._folder / folder_of(start)
        run_dir = place / self._own[peer]
        try:
            self._check_run(place, run_dir / self._peer_dirs[peer], request.run)
            if request.offset > Incoming(run_dir).size_of(piece):
                raise ArchiveError("a part without the one before")
            Incoming(run_dir).put(piece)
        except OSError as error:
            raise ArchiveError(f"they cannot be written there ({error.strerror})") from None

    def listing(self, start: str | None, number: int, first: int) -> Listing:
        """Files of a start from a position on. Raises ArchiveError where there is none."""
        folder = self._chosen(start)
        found: list[tuple[str, int]] = []
        for position in range(first, len(self._files)):
            if len(found) == MOST_LISTED:
                return Listing(number, folder, tuple(found), position)
            try:
                found.append((self._files[position], (self._folder / folder / self._files[position]).stat().st_size))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ArchiveError(unreadable(self._folder / folder / self._files[position], error)) from None
        return Listing(number, folder, tuple(found))

    def part(self, request: Fetch) -> Part:
        """Part of a file. Raises ArchiveError."""
        if request.path not in self._known or request.folder not in self._starts():
            raise ArchiveError("no such file")
        path = self._folder / request.folder / request.path
        try:
            with open(path, "rb", opener=opener) as file:
                state = os.fstat(file.fileno())
                file.seek(request.offset)
                return Part(request.number, f"{state.st_dev}-{state.st_ino}", state.st_size, file.read(PIECE_BYTES))
        except OSError as error:
            raise ArchiveError(unreadable(path, error)) from None

    def _check_run(self, start: Path, folder: Path, run: str) -> None:
        """Note the run of a peer's records; raises ArchiveError if it is another one.

        `start`: folder of the start. `folder`: that of the peer, in its run directory.
        """
        there = read_run_id(folder)
        if there == run:
            return
        if there is not None:
            raise ArchiveError("it has those of another run of this peer; give each start another --rendezvous-run")
        if not is_run_id(run):
            raise ArchiveError("the run has no id")
        if not start.exists() and len(self._starts()) >= MOST_STARTS:
            raise ArchiveError(f"it has {MOST_STARTS} starts already; remove some there")
        folder.mkdir(parents=True, exist_ok=True)
        write_run_id(folder, run)

    def _starts(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if path.name.startswith("run"))
        except OSError as error:
            raise ArchiveError(unreadable(self._folder, error)) from None

    def _chosen(self, start: str | None) -> str:
        """Folder of a start: the named one, or the only one."""
        found = self._starts()
        names = ", ".join(unquote(name.removeprefix("run-")) if name != "run" else "(no name)" for name in found[:8])
        if start is None and len(found) == 1:
            return found[0]
        if not found:
            raise ArchiveError("it has no records yet")
        if start is None:
            raise ArchiveError(f"it has the records of several starts: {names}; name one (--rendezvous-run)")
        if folder_of(start) not in found:
            raise ArchiveError(f"it has no records of --rendezvous-run {start}, only of: {names}")
        return folder_of(start)


def folder_of(start: str) -> str:
    """Name of the folder of a start, which is no path."""
    name = quote(start, safe="")
    if len(name) > _MOST_NAME:
        name = f"{name[:_MOST_NAME]}-{hashlib.sha256(start.encode()).hexdigest()[:16]}"
    return f"run-{name}" if name else "run"
