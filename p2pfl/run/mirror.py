"""Mirror of a run's files: changes in pieces, for machines that share no folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from p2pfl.errors import P2PFLError
from p2pfl.run.paths import FIRED_FILE, LOG_FILE, ROUNDS_FILE, SKETCHES_FILE

PIECE_BYTES = 64 << 10
_GROWING = frozenset({ROUNDS_FILE, SKETCHES_FILE, LOG_FILE, FIRED_FILE})  # others are only ever replaced


@dataclass(frozen=True)
class Piece:
    """Part of a file, or its removal.

    `path`: below the mirrored folder. `size`: of the whole file. `grows`: the receiver has all bytes before it;
    otherwise the file replaces one of that name once its last byte is there. `is_removed`: the file is gone.
    """

    path: str
    offset: int = 0
    content: bytes = b""
    size: int = 0
    grows: bool = False
    is_removed: bool = False


@dataclass
class _Sent:
    """Part of a file that was sent; `was_whole`: it was all of it once."""

    identity: tuple[int, int]
    offset: int = 0
    was_whole: bool = False


@dataclass
class _Transfer:
    """File that is being sent, held open: it may be replaced or removed meanwhile."""

    name: str
    file: IO[bytes]
    size: int
    offset: int = 0


class Outgoing:
    """Changes of the files in some folders since they were last taken.

    Files are replaced atomically or grow, as those of a run do. Names that begin with a dot are left out. Records and
    logs come before all else, then the newest file first. A file whose sending has begun is sent to its end, and others
    are removed only then: so the receiver gets whole checkpoints, and keeps one, however fast they are replaced.
    """

    def __init__(self, root: Path, parts: Sequence[Path]) -> None:
        """`parts`: files and folders below `root` that are mirrored."""
        self._root = root
        self._parts = parts
        self._sent: dict[str, _Sent] = {}
        self._transfer: _Transfer | None = None

    def skip_present(self) -> None:
        """Take all that is there as sent."""
        for path in self._files():
            found = path.stat()
            self._sent[self._name(path)] = _Sent(_identity(path, found), found.st_size, True)

    def take(self, most: int = PIECE_BYTES) -> list[Piece]:
        """Next pieces, of so many bytes together at most; none if nothing has changed."""
        paths = list(self._files())
        pieces = self._growth(paths, most)
        most -= sum(len(piece.content) for piece in pieces)
        while most > 0:
            self._transfer = self._transfer or self._begin(paths)
            if self._transfer is None:
                return pieces + self._removals(paths)
            pieces.append(self._part(self._transfer, most))
            most -= len(pieces[-1].content)
            if self._transfer.offset == self._transfer.size:
                name = self._transfer.name
                self.close()
                pieces += self._removals(paths, besides=name)
        return pieces

    def close(self) -> None:
        """Close the file that is being sent."""
        if self._transfer is not None:
            self._transfer.file.close()
            self._transfer = None

    def _growth(self, paths: Sequence[Path], most: int) -> list[Piece]:
        pieces: list[Piece] = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # replaced or removed meanwhile: the next look tells
                while path.name in _GROWING and most > 0 and (piece := self._next(path, most)) is not None:
                    pieces.append(piece)
                    most -= len(piece.content)
        return pieces

    def _next(self, path: Path, most: int) -> Piece | None:
        """Next part of a file that grows."""
        name = self._name(path)
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            sent, identity = self._sent.get(name), _identity(path, found)
            is_new = sent is None or sent.identity != identity or sent.offset > found.st_size
            if sent is None or is_new:
                sent = self._sent[name] = _Sent(identity)
            if sent.offset == found.st_size and not is_new:
                return None
            file.seek(sent.offset)
            content = file.read(min(most, found.st_size - sent.offset))
        piece = Piece(name, sent.offset, content, found.st_size, sent.was_whole)
        sent.offset += len(content)
        sent.was_whole = sent.was_whole or sent.offset == found.st_size
        return piece

    def _begin(self, paths: Sequence[Path]) -> _Transfer | None:
        """Open the newest file that has changed and is not of those that grow."""
        changed: list[tuple[int, str, Path]] = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                found, sent = path.stat(), self._sent.get(self._name(path))
                if path.name not in _GROWING and (sent is None or sent.identity != _identity(path, found)):
                    changed.append((found.st_mtime_ns, path.name, path))
        for _, _, path in sorted(changed, reverse=True):
            with contextlib.suppress(FileNotFoundError):
                file = open(path, "rb")  # noqa: SIM115  closed when it is sent, or by `close`
                found = os.fstat(file.fileno())
                self._sent[self._name(path)] = _Sent(_identity(path, found), found.st_size, True)
                return _Transfer(self._name(path), file, found.st_size)
        return None

    def _part(self, transfer: _Transfer, most: int) -> Piece:
        """Next part of the file that is being sent.

        Raises OSError where it is shorter than it was.
        """
        content = transfer.file.read(min(most, transfer.size - transfer.offset))
        if not content and transfer.size > transfer.offset:
            self.close()
            raise OSError(errno.EIO, "became shorter", transfer.name)
        piece = Piece(transfer.name, transfer.offset, content, transfer.size)
        transfer.offset += len(content)
        return piece

    def _removals(self, paths: Sequence[Path], besides: str = "") -> list[Piece]:
        gone = self._sent.keys() - {self._name(path) for path in paths} - {besides}
        for name in gone:
            del self._sent[name]
        return [Piece(name, is_removed=True) for name in sorted(gone)]

    def _files(self) -> Iterator[Path]:
        for part in self._parts:
            found = sorted(part.rglob("*")) if part.is_dir() else [part]
            yield from (path for path in found if path.is_file() and not path.name.startswith("."))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _identity(path: Path, found: os.stat_result) -> tuple[int, int]:
    """Which file this is: one that grows stays the same."""
    return found.st_ino, 0 if path.name in _GROWING else found.st_mtime_ns


class Incoming:
    """Files that come in pieces, in their order, into a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, piece: Piece) -> None:
        """Write a piece. Raises OSError, and P2PFLError for a path outside the folder."""
        path = self._path(piece.path)
        part = path.with_name(f".{path.name}.part")
        if piece.is_removed:
            for one in (path, part):
                one.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path if piece.grows else part
        with open(target, "r+b" if piece.offset else "wb") as file:
            file.seek(piece.offset)
            file.write(piece.content)
        if not piece.grows and piece.offset + len(piece.content) == piece.size:
            os.replace(target, path)

    def size_of(self, piece: Piece) -> int:
        """Bytes that have come so far of the file of a piece."""
        path = self._path(piece.path)
        try:
            return (path if piece.grows else path.with_name(f".{path.name}.part")).stat().st_size
        except FileNotFoundError:
            return 0

    def forget_parts(self, folder: Path) -> None:
        """Remove what has come of files below a folder that never became whole."""
        for part in folder.rglob(".*.part"):
            part.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise P2PFLError(f"{name}: outside the run directory")
        return self._root.joinpath(*parts)
