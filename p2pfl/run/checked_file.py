"""Safetensors files with a checksum of all their bytes, written in one pass.

The file is complete under its name as soon as it has been written: the end of the process does not harm it. Only after
`sync` does it outlast a power cut. Reading it needs no tensor library. A file that was cut or altered is told by its
checksum (CRC-32, against accidental damage).
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pfl.errors import CheckpointError, UnreadableError, is_missing, unreadable
from p2pfl.util.files import opener, sync_file, sync_folder

_BLOCK = 1 << 18  # bytes that are summed and then written while they are in the cache
_START = b'{"__metadata__":{"crc32":"'
_BLANK = b"00000000"  # in the place of the checksum while it is computed
_PLACE = 8 + len(_START)
_MOST_HEADER = 100_000_000  # bytes, as in the format's definition


@dataclass(frozen=True)
class Raw:
    """One tensor: its type in the format (such as F32), its shape, and its bytes."""

    dtype: str
    shape: Sequence[int]
    data: memoryview


def write(path: Path, tensors: Mapping[str, Raw], about: Mapping[str, str]) -> None:
    """Write a file in the place of `path`, atomically; `sync` is left to do.

    Raises OSError; nothing is left of the file then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    placed = sorted(tensors.items(), key=lambda item: (-_item_bytes(item[1]), item[0]))  # so that each is aligned
    header = _header(placed, about)
    try:
        with open(temporary, "wb", buffering=0) as file:
            _write_all(file.fileno(), header)
            checksum = zlib.crc32(header)
            for _, raw in placed:
                for start in range(0, len(raw.data), _BLOCK):
                    block = raw.data[start : start + _BLOCK]
                    checksum = zlib.crc32(block, checksum)
                    _write_all(file.fileno(), block)
            os.pwrite(file.fileno(), f"{checksum:08x}".encode(), _PLACE)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as of a folder that no longer exists, which is reported already
            temporary.unlink()


def sync(path: Path) -> None:
    """Wait until a file and its name are on disk; removes it where that fails.

    Raises OSError.
    """
    try:
        sync_file(path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()  # nobody knows what is in it
        raise


def _item_bytes(raw: Raw) -> int:
    count = 1
    for size in raw.shape:
        count *= size
    return len(raw.data) // count if count else 0


def _header(placed: Sequence[tuple[str, Raw]], about: Mapping[str, str]) -> bytes:
    """Length and header, padded to 8 bytes, with a blank checksum."""
    entries: dict[str, object] = {"__metadata__": {"crc32": _BLANK.decode(), **about}}
    end = 0
    for name, raw in placed:
        begin, end = end, end + len(raw.data)
        entries[name] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_all(file: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def read_about(path: Path) -> dict[str, str]:
    """Metadata of a file; nothing else of it is read.

    Raises OSError, and ValueError for anything that is no such file.
    """
    with open(path, "rb", opener=opener) as file:
        return _metadata(_read_header(file.fileno()))


def is_whole(path: Path) -> bool:
    """Whether a file has the bytes that were written; reads it through.

    So system errors are found, which mapping it into memory, as safetensors does, would hide or die of. Raises
    CheckpointError for a missing file, and UnreadableError for one that cannot be read now.
    """
    try:
        return _has_its_checksum(path)
    except ValueError:
        return False
    except OSError as error:
        if is_missing(path, error) or isinstance(error, (IsADirectoryError, NotADirectoryError)):
            raise CheckpointError(f"{path}: not an intact checkpoint ({error.strerror})") from None
        raise UnreadableError(unreadable(path, error)) from None


def _has_its_checksum(path: Path) -> bool:
    with open(path, "rb", buffering=0, opener=opener) as file:
        header = _read_header(file.fileno())
        if not header[8:].startswith(_START):
            return False
        wanted = header[_PLACE : _PLACE + len(_BLANK)]
        checksum = zlib.crc32(header[:_PLACE] + _BLANK + header[_PLACE + len(_BLANK) :])
        buffer = memoryview(bytearray(1 << 20))
        while count := file.readinto(buffer):
            checksum = zlib.crc32(buffer[:count], checksum)
    return wanted == f"{checksum:08x}".encode()


def _read_header(file: int) -> bytes:
    """Length and header. Raises ValueError where they are no header."""
    length = os.pread(file, 8, 0)
    size = int.from_bytes(length, "little")
    if len(length) < 8 or not 2 <= size <= min(_MOST_HEADER, os.fstat(file).st_size - 8):
        raise ValueError("no header")
    text = os.read(file, 8 + size)
    while len(text) < 8 + size:
        more = os.read(file, 8 + size - len(text))
        if not more:
            raise ValueError("cut off in its header")
        text += more
    return text


def _metadata(header: bytes) -> dict[str, str]:
    try:
        entries = json.loads(header[8:])
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    found = entries.get("__metadata__") if isinstance(entries, dict) else None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("no metadata")
    return found
