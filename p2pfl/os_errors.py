"""Failures of the operating system in words: reason and remedy."""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path

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


def failure(path: Path, error: Exception, done: str, access: int) -> str:
    """Message for a path that cannot be `done`, such as "read": reason and remedy.

    `access`: the permission that this takes, `os.R_OK` or `os.W_OK`.
    """
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    why = _OS_ERROR.sub("", text.rpartition("I/O error: ")[2])
    number = _number(error, text)
    remedy = (
        _denied(path, access)
        if number in _DENIED
        else _in_the_way(path, error, number, access) or _REMEDIES.get(number)
    )
    return f"{path}: cannot be {done} ({why})" + (f"; {remedy}" if remedy else "")


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
        return f"{file} is a file, not a folder: move it away" if file else None
    if number == errno.ENOENT and not os.path.exists(path.parent):
        return f"make the folder {path.parent}"
    return None
