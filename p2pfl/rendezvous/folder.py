"""Directory in a shared folder: one file a peer, replaced atomically.

A peer writes its own file, and reads those of its neighbors only. Files are small JSON, read with bounds, never
executed; half a file is never seen.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from p2pfl.errors import ConfigError, UnreadableError, unwritable
from p2pfl.rendezvous.directory import DirectoryError, Found
from p2pfl.rendezvous.entry import ENTRY_BYTES, Entry
from p2pfl.rendezvous.upload import Upload
from p2pfl.topology import Topology
from p2pfl.util.files import check_regular, read_if_any, replace_file

_SUFFIX = ".json"
_decode = msgspec.json.Decoder(Entry).decode


class Folder:
    """Directory in a folder that all machines share."""

    def __init__(self, path: Path, topology: Topology) -> None:
        """Make the folder where it is missing. Raises ConfigError if it cannot be used."""
        self.where = str(path)
        self._path = path
        self._announced: Entry | None = None
        self._files = [path / f"{topology.node_path(peer)}{_SUFFIX}" for peer in range(topology.n)]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--rendezvous {unwritable(path, error)}") from None
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"--rendezvous {path}: cannot be written; choose a folder that all peers can write to")

    def exchange(self, own: Entry, neighbors: Collection[int], stopped: Callable[[], bool] = lambda: False) -> Found:
        """As in the interface; all entries are read each time."""
        self._refresh()
        mine, _ = self._read(own.peer)
        replaced = None
        if own != self._announced or mine is None:
            replaced = mine if self._announced is None else None
            self._write(own)
            self._announced = mine = own
        entries, unreadable = [], {}
        for peer in sorted(neighbors):
            entry, problem = self._read(peer)
            if entry is not None:
                entries.append(entry)
            elif problem:
                unreadable[peer] = problem
        return Found(tuple(entries), unreadable, mine.process != own.process, replaced)

    def record(self, upload: Upload, stopped: Callable[[], bool]) -> bool:
        """Send nothing: who shares a folder can share the run directory."""
        return False

    def occupant(self, own: Entry, stopped: Callable[[], bool] = lambda: False) -> Entry | None:
        """As in the interface."""
        self._refresh()
        entry, _ = self._read(own.peer)
        return entry if entry is not None and entry.process != own.process else None

    def claim(self, own: Entry, other: Entry | None, stopped: Callable[[], bool] = lambda: False) -> bool:
        """As in the interface.

        What is there is moved aside and looked at; a link is made only where no file is.
        """
        path = self._files[own.peer]
        aside = path.with_name(f".{path.name}.{own.process}")
        try:
            with contextlib.suppress(FileNotFoundError):
                check_regular(path)
                os.rename(path, aside)
                there, _ = self._read_file(aside, own.peer)
                if there is not None and there.process not in (own.process, "" if other is None else other.process):
                    _link(aside, path)
                    return False
            replace_file(aside, msgspec.json.encode(own) + b"\n")
            _link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            raise DirectoryError(unwritable(path, error)) from None
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()
        self._announced = own
        return True

    def withdraw(self, own: Entry) -> None:
        """As in the interface."""
        entry, _ = self._read(own.peer)
        if entry is not None and entry.process == own.process:
            try:
                self._files[own.peer].unlink(missing_ok=True)
            except OSError as error:
                raise DirectoryError(unwritable(self._files[own.peer], error)) from None

    def close(self) -> None:
        """As in the interface."""

    def _refresh(self) -> None:
        """Open the folder: a network file system then looks for new files at once.

        Otherwise a client of NFS may remember for half a minute that a file is missing.
        """
        try:
            os.close(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise DirectoryError(unwritable(self._path, error)) from None

    def _read(self, peer: int) -> tuple[Entry | None, str]:
        return self._read_file(self._files[peer], peer)

    def _read_file(self, path: Path, peer: int) -> tuple[Entry | None, str]:
        """Entry of a peer, or why its file is of no use; neither where there is none."""
        try:
            data = read_if_any(path, ENTRY_BYTES)
            if not data:
                return None, ""
            entry = _decode(data)
        except UnreadableError as error:
            return None, str(error)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None, f"{path} is damaged or of another version"
        if entry.peer != peer:
            return None, f"{path} is of another peer"
        return entry, ""

    def _write(self, own: Entry) -> None:
        try:
            replace_file(self._files[own.peer], msgspec.json.encode(own) + b"\n")
        except OSError as error:
            raise DirectoryError(unwritable(self._files[own.peer], error)) from None


def _link(source: Path, path: Path) -> None:
    """Give a file another name that is free; FileExistsError where it is not.

    File systems without links replace what is there.
    """
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:
        os.replace(source, path)
