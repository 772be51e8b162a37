"""Mirror of a run's files: changes in pieces, for machines that share no folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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


class Outgoing:
    """Changes of the files in some folders since they were last taken.

    Files are replaced atomically or grow, as those of a run do. Names that begin with a dot are left out.
    """

    def __init__(self, root: Path, parts: Sequence[Path]) -> None:
        """`parts`: files and folders below `root` that are mirrored."""
        self._root = root
        self._parts = parts
        self._sent: dict[str, _Sent] = {}

    def skip_present(self) -> None:
        """Take all that is there as sent."""
        for path in self._files():
            found = path.stat()
            self._sent[self._name(path)] = _Sent(_identity(path, found), found.st_size, True)

    def take(self, most: int = PIECE_BYTES) -> list[Piece]:
        """Next pieces, of so many bytes together at most; none if nothing has changed."""
        pieces: list[Piece] = []
        present = set()
        for path in self._files():
            present.add(self._name(path))
            try:
                while most > 0 and (piece := self._next(path, most)) is not None:
                    pieces.append(piece)
                    most -= len(piece.content)
            except FileNotFoundError:  # replaced or removed meanwhile: the next look tells
                continue
        for name in self._sent.keys() - present:
            del self._sent[name]
            pieces.append(Piece(name, is_removed=True))
        return pieces

    def _next(self, path: Path, most: int) -> Piece | None:
        name = self._name(path)
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            sent, identity = self._sent.get(name), _identity(path, found)
            if sent is None or sent.identity != identity or sent.offset > found.st_size:
                sent = self._sent[name] = _Sent(identity)
            if sent.offset == found.st_size:
                return None
            file.seek(sent.offset)
            content = file.read(most)
        piece = Piece(name, sent.offset, content, found.st_size, sent.was_whole)
        sent.offset += len(content)
        sent.was_whole = sent.was_whole or sent.offset == found.st_size
        return piece

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
        if piece.is_removed:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path if piece.grows else path.with_name(f".{path.name}.part")
        with open(target, "r+b" if piece.offset else "wb") as file:
            file.seek(piece.offset)
            file.write(piece.content)
        if not piece.grows and piece.offset + len(piece.content) == piece.size:
            os.replace(target, path)

    def forget_parts(self, folder: Path) -> None:
        """Remove what has come of files below a folder that never became whole."""
        for part in folder.rglob(".*.part"):
            part.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise P2PFLError(f"{name}: outside the run directory")
        return self._root.joinpath(*parts)
