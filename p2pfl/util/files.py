"""Files read with bounds and replaced atomically.

Only regular files are opened, without waiting and up to a limit: never a pipe, a device or a folder. A replaced file
is the old one or the new one after a crash or a power cut, never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from p2pfl.errors import UnreadableError, is_missing, unreadable

MOST_BYTES = 64 * 2**20  # of settings, scripts, summaries and the like
# Where no process has the other end of a pipe open, or no device is behind the name.
_NO_OTHER_END = (errno.ENXIO, errno.ENODEV)


class UnfitError(OSError):
    """A file of the wrong kind or size; `remedy` says what helps."""

    def __init__(self, path: str | os.PathLike[str], why: str, remedy: str) -> None:
        super().__init__(errno.EINVAL, why, os.fspath(path))
        self.remedy = remedy


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file without blocking, as an `opener` for the function `open`.

    Opening a pipe might never return, and neither might reading a device. Raises OSError, UnfitError for these.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    except ValueError as error:
        raise UnfitError("", f"no name of a file: {error}", "correct it") from None
    except OSError as error:
        if error.errno in _NO_OTHER_END:
            raise _not_regular(path) from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise _not_regular(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check a file that a library will open by name. Raises what `opener` does."""
    os.close(opener(path, os.O_RDONLY))


def read_file(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises OSError, and UnfitError for other kinds and for more bytes.
    """
    with open(path, "rb", opener=opener) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise _too_large(path, most)
        try:
            data = file.read(most + 1)  # it may grow meanwhile, and files of the system's own have no size
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), os.fspath(path)) from None
    if len(data) > most:
        raise _too_large(path, most)
    return data


def read_if_any(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a regular file; empty if there is no such file.

    Raises UnreadableError, also for more than `most` bytes.
    """
    try:
        return read_file(path, most)
    except OSError as error:
        if is_missing(path, error):
            return b""
        raise UnreadableError(unreadable(path, error)) from None


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """Read a regular file of UTF-8 text.

    Raises what `read_file` does, and UnicodeDecodeError.
    """
    return read_file(path, most).decode("utf-8")


def replace_file(path: Path, data: bytes, *, is_shared: bool = False) -> None:
    """Replace a file's content atomically, and wait for the disk.

    `is_shared`: other processes may do the same at once. Raises OSError; the file is then unchanged.
    """
    # One name, so that a killed process leaves one at most. Process ids of several machines may be equal.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}" if is_shared else f"{path.name}.tmp")
    try:
        with open(temporary, "wb", opener=opener) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def truncate_file(path: Path, size: int) -> None:
    """Truncate a file to `size` bytes, and wait for the disk. Raises OSError."""
    with open(path, "rb+", opener=opener) as file:
        file.truncate(size)
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk. Raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on disk. Raises OSError."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    held = os.open(path, flags)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def _not_regular(path: str | os.PathLike[str]) -> UnfitError:
    return UnfitError(path, "not a regular file", "put a regular file in its place")


def _too_large(path: str | os.PathLike[str], most: int) -> UnfitError:
    return UnfitError(path, f"larger than {most // 2**20:,} MiB", "p2pfl writes and needs no such file: replace it")
