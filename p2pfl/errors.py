"""Errors of p2pfl, their remedies, and one-line reports of unforeseen errors."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import tempfile
import traceback
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Literal

ERROR_FILE = "error.txt"

# errno -> remedy, for reading and writing alike. Other errors have none that always fits.
_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "correct the symbolic links",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close some programs: the system has too many open files",
    errno.ENOMEM: "make room in memory, or take fewer processes",
    errno.EROFS: "choose a place that can be written",
}
_DENIED = (errno.EACCES, errno.EPERM)
# Error texts of libraries that do not raise OSError: "I/O error: No space left on device (os error 28)".
_OS_ERROR = re.compile(r" \(os error (\d+)\).*", re.DOTALL)
_BY_WORDS = {os.strerror(number): number for number in (*_REMEDIES, *_DENIED, errno.EISDIR, errno.ENOTDIR)}


class P2PFLError(Exception):
    """Base of every error that is explained in one line: exit status 1.

    `remedy`: what helps, with which the message ends. `resumable`: whether the same run, resumed with the same
    settings, can get further once the remedy is applied; not where it would only fail in the same way.
    """

    resumable: bool = True

    def __init__(self, what: str = "", *, remedy: str | None = None, resumable: bool | None = None) -> None:
        super().__init__(f"{what}; {remedy}" if remedy else what)
        self.remedy = remedy
        if resumable is not None:
            self.resumable = resumable


class ConfigError(P2PFLError):
    """Unusable input; the message names the field and the remedy: exit status 2."""

    resumable = False


class TopologyError(ConfigError):
    """A topology file, generator argument or mixing that cannot be used."""


class DataError(ConfigError):
    """A data set that is missing, unreadable or unusable."""


class Refusal(StrEnum):
    """Codes of refused messages and connections; keys of `refused` in the records."""

    FRAMES = "frames"
    HEADER = "header"
    VERSION = "version"
    SCALARS = "scalars"
    LENGTH = "length"
    CODEC = "codec"
    GREETING = "greeting"
    SETTINGS = "settings"
    RUN = "run"
    SENDER = "sender"
    LAYOUT = "layout"
    ROUND = "round"
    OFFSET = "offset"
    VECTOR = "vector"
    VALUES = "values"
    # Of connections
    LINK = "link"
    KEY = "key"
    TOKEN = "token"
    HANDSHAKE = "handshake"
    UNFINISHED = "unfinished"
    SILENT = "silent"
    FLOOD = "flood"
    BARRED = "barred"
    CONNECTIONS = "connections"


class ProtocolError(P2PFLError):
    """Refused message of another process: a remote fault, never our own.

    Decisions are made by `code`; `detail` is for people.
    """

    def __init__(self, code: Refusal, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class TransportError(P2PFLError):
    """Socket that could not be opened, or neighbor that was not reached in time."""


NeighborCode = Literal["no-greeting", "lost-connection", "no-progress"]


class NeighborError(TransportError):
    """A run that cannot continue because of neighbors. `code`: in which way; `peers`: their numbers, if known."""

    def __init__(self, what: str, code: NeighborCode, peers: tuple[int, ...] = (), *, resumable: bool = True) -> None:
        super().__init__(what, resumable=resumable)
        self.code = code
        self.peers = peers


class CheckpointError(P2PFLError):
    """A checkpoint that is missing, truncated, altered, or of another run."""


class UnreadableError(CheckpointError):
    """File of the run that exists and cannot be read now.

    This is no damage, so the file must not be replaced.
    """


class OtherVersionError(CheckpointError):
    """Checkpoint of another version of p2pfl, which this one cannot use."""

    resumable = False


class Interrupted(P2PFLError):
    """Run interrupted by its user or stopped by its launcher: exit status 130."""


class TrainingError(P2PFLError):
    """Training that cannot continue, such as after a loss that is not a number.

    With the same settings it would fail again.
    """

    resumable = False


class UnforeseenError(P2PFLError):
    """Unforeseen error, most likely a bug; its traceback is in a file."""

    resumable = False


def unwritable(path: Path, error: Exception) -> str:
    """Message for a file or folder that cannot be written: reason and remedy."""
    return _refused(path, error, "written", os.W_OK)


def unreadable(path: Path, error: Exception) -> str:
    """Message for a file or folder that cannot be read: reason and remedy."""
    return _refused(path, error, "read", os.R_OK)


def unusable(path: Path, error: Exception) -> str:
    """Message for an unusable path, such as one with too long a name."""
    return _refused(path, error, "used", os.R_OK)


def is_missing(path: Path, error: OSError) -> bool:
    """Return whether there is nothing of that name, not even a dangling link."""
    return isinstance(error, FileNotFoundError) and not os.path.lexists(path)


def is_from_outside(error: BaseException) -> bool:
    """Return whether an error comes from the machine rather than from the program.

    Such an error may not come again.
    """
    return isinstance(error, OSError | MemoryError)


def one_line(error: BaseException) -> str:
    """Type and message of an exception on one line, for people."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def system_remedy(error: BaseException) -> str | None:
    """Remedy for an error of the operating system; None if none is known."""
    number = _number(error, str(error))
    unmapped = isinstance(error, OSError | ImportError) and "failed to map segment" in str(error)  # the linker's words
    lacks_memory = isinstance(error, MemoryError) or number == errno.ENOMEM or unmapped
    if lacks_memory and (limit := limited_to(resource.RLIMIT_AS)) is not None:
        return f"raise the limit of memory (ulimit -v is {limit // 1024} KiB)"
    return _REMEDIES.get(number) if isinstance(error, OSError | ImportError) else None


def limited_to(limit: int) -> int | None:
    """Soft limit of this process, by its `resource.RLIMIT` number; None if unlimited."""
    soft, _ = resource.getrlimit(limit)
    return None if soft == resource.RLIM_INFINITY else soft


def not_imported(error: Exception) -> P2PFLError:
    """Error for libraries that cannot be imported: damaged, missing, or out of memory."""
    text = f"the libraries cannot be imported ({one_line(error)[:500]})"
    return P2PFLError(text, remedy=system_remedy(error) or "check the installation: python -c 'import torch'")


def _refused(path: Path, error: Exception, done: str, access: int) -> str:
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    why = _OS_ERROR.sub("", text.rpartition("I/O error: ")[2])
    number = _number(error, text)
    remedy = (
        _denied(path, access)
        if number in _DENIED
        else _in_the_way(path, error, number, access) or _REMEDIES.get(number)
    )
    return f"{path}: cannot be {done} ({why})" + (f"; {remedy}" if remedy else "")


def _number(error: BaseException, text: str) -> int:
    """Error number of the system; 0 if there is none."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    said = _OS_ERROR.search(text)
    return int(said[1]) if said else next((number for words, number in _BY_WORDS.items() if words in text), 0)


def _denied(path: Path, access: int) -> str:
    """Remedy of missing permission: of the file, or of the folder that it is in."""
    way = "writable" if access == os.W_OK else "readable"
    if os.path.exists(path) and not os.access(path, access):
        return f"make it {way}"
    folder = next((above for above in path.parents if os.path.exists(above)), path.parent)
    return f"make the folder {folder} {way}" if not os.access(folder, access | os.X_OK) else f"make it {way}"


def _in_the_way(path: Path, error: Exception, number: int, access: int) -> str | None:
    """Remedy for something in the way of a path, or missing on it; None if neither."""
    if isinstance(error, OSError) and isinstance(known := getattr(error, "remedy", None), str):
        return known
    link = next((at for at in (path, *path.parents) if os.path.islink(at) and not os.path.exists(at)), None)
    if number in (errno.ENOENT, errno.EEXIST) and link is not None:
        which = "it" if link == path else link
        return f"{which} links to {os.readlink(link)}, which is missing: bring that back, or remove the link"
    if number == errno.EISDIR and access == os.R_OK:
        return "it is a folder, and a file is needed there"
    if number in (errno.EISDIR, errno.ENOTEMPTY):
        named = (getattr(error, "filename2", None), getattr(error, "filename", None), path)
        folder = next((Path(os.fsdecode(name)) for name in named if name and os.path.isdir(name)), path)
        return "it is a folder: move it away" if folder == path else f"move the folder {folder} away"
    if number in (errno.ENOTDIR, errno.EEXIST):
        file = next((at for at in (*path.parents, path) if os.path.exists(at) and not os.path.isdir(at)), None)
        return f"{file} is a file and no folder: move it away" if file else None
    if number == errno.ENOENT and not os.path.exists(path.parent):
        return f"make the folder {path.parent}"
    return None


@contextlib.contextmanager
def explained(folder: Path | None = None) -> Iterator[None]:
    """Turn unforeseen exceptions into UnforeseenError.

    Its traceback is written to `folder`, or else to the temporary folder.
    """
    try:
        yield
    except P2PFLError:
        raise
    except Exception as error:
        raise unforeseen(error, folder) from error


def unforeseen(error: Exception, folder: Path | None = None) -> UnforeseenError:
    """Error for an unforeseen exception, with the path of its traceback."""
    try:
        where = f"see {_write_traceback(error, folder)}"
    except Exception as trouble:  # the line is what counts
        where = f"no traceback could be written: {one_line(trouble)}"
    remedy = system_remedy(error)
    said = f"unforeseen {one_line(error)[:500]} ({where})"
    return UnforeseenError(said, remedy=remedy, resumable=is_from_outside(error))


def _write_traceback(error: Exception, folder: Path | None) -> Path:
    text = "".join(traceback.format_exception(error))
    if folder is not None:
        with contextlib.suppress(OSError):
            path = folder / ERROR_FILE
            if os.path.isfile(path) or not os.path.lexists(path):  # a pipe there would be waited for
                with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text + "\n")
                return path
    descriptor, name = tempfile.mkstemp(prefix="p2pfl-error-", suffix=".txt")
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    return Path(name)
