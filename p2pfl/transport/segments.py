"""Segments of anonymous shared memory: sealed memfds that others map read-only.

A memfd has no name in any file system: the kernel frees it with its last file number and mapping, so nothing stays
behind when all processes are killed, and a small /dev/shm is no obstacle. Its seals say that it neither shrinks (so
that a reader never gets SIGBUS) nor can be mapped for writing by anybody but its owner, who did so before.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import secrets
import stat
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from p2pfl.protocol.wire import MAX_VECTOR_BYTES, Buffer

MAX_SLOTS = 64  # segments of one process that another keeps mapped
_NAME = "p2pfl"
# Linux's fcntl.h; Python 3.11 does not name the last of them, of Linux 5.1.
ADD_SEALS, GET_SEALS = 1033, 1034
SEALS = 0x1 | 0x2 | 0x4 | 0x10  # no further seals, no shrinking, no growing, no new mapping for writing
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")

Bytes = npt.NDArray[np.uint8]
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class SegmentError(Exception):
    """A segment that cannot be made, or not be read here; the text says why."""


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    """Announcement of a segment: what another process opens, checks and maps."""

    place: Annotated[str, msgspec.Meta(max_length=64)]
    """Digest of the owner's machine, process namespace and user."""
    token: Annotated[str, msgspec.Meta(max_length=64)]
    """Random part of its segments' names, which a stranger does not know."""
    pid: _Count
    """Process that owns it."""
    slot: Annotated[int, msgspec.Meta(ge=0, lt=MAX_SLOTS)]
    """Number among the owner's segments; a later one in a slot takes the earlier one's place."""
    fd: _Count
    """File number in the owner."""
    inode: _Count
    """Inode of the file."""
    size: Annotated[int, msgspec.Meta(ge=0, le=2 * MAX_VECTOR_BYTES)]
    """Size in bytes."""


class Owner:
    """Identity of a process whose segments others may map."""

    def __init__(self) -> None:
        """Raise SegmentError where the system has no memfd, or hides where this is."""
        if not hasattr(os, "memfd_create"):
            raise SegmentError("this system has no memfd")
        self.place = place()
        self.token = secrets.token_hex(16)


@cache
def place() -> str:
    """Digest of machine, process namespace and user.

    Only where it is the same can segments be opened. Raises SegmentError.
    """
    try:
        parts = _BOOT_ID.read_text().strip(), str(_NAMESPACE.stat().st_ino), str(os.getuid())
    except OSError as error:
        raise SegmentError(f"{error.filename} cannot be read") from None
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


class Segment:
    """A segment of this process, which it alone can write."""

    def __init__(self, owner: Owner, slot: int, size: int) -> None:
        """Create, map and seal it; memory is taken as it is written. Raises SegmentError."""
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        fd = -1
        try:
            fd = os.memfd_create(f"{_NAME}-{owner.token}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            self._bytes: Bytes = np.frombuffer(memoryview(map_file(fd, size, is_written=True)), np.uint8)
            fcntl.fcntl(fd, ADD_SEALS, SEALS)
        except (OSError, ValueError) as error:
            if fd >= 0:
                os.close(fd)
            raise SegmentError(f"this system does not make sealed shared memory ({error})") from None
        self._fd = fd
        self._reserved = 0
        self.announcement = Announcement(owner.place, owner.token, os.getpid(), slot, fd, os.fstat(fd).st_ino, size)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.announcement.size

    def write(self, offset: int, body: Buffer) -> None:
        """Copy bytes to a place within it.

        Raises SegmentError where there is no memory for them.
        """
        data = np.frombuffer(body, np.uint8)
        end = offset + data.nbytes
        self._supply(end)
        np.copyto(self._bytes[offset:end], data)

    def reserve(self, count: int) -> tuple[int, Bytes]:
        """Address of its first bytes, and a view of so many, for whoever writes them.

        Raises SegmentError where there is no memory for them.
        """
        self._supply(count)
        return self._bytes.ctypes.data, self._bytes[:count]

    def _supply(self, end: int) -> None:
        """Have memory for the bytes up to an offset.

        A page that the system cannot supply while it is written would end the process.
        """
        if end > self._reserved:
            try:
                os.posix_fallocate(self._fd, self._reserved, end - self._reserved)
            except OSError as error:
                raise SegmentError(f"no memory for what is shared ({error.strerror})") from None
            self._reserved = end

    def close(self) -> None:
        """Give it up.

        Those that have mapped it keep what it holds, and nobody else can open it.
        """
        self._bytes = np.empty(0, np.uint8)  # which unmaps it
        os.close(self._fd)


class Mapping:
    """Another process's segment, mapped read-only."""

    def __init__(self, announced: Announcement, most: int) -> None:
        """Open and check what was announced, of at most so many bytes.

        Nothing is opened but a file that is a memfd of this user's with the announced name, inode and size, and nothing
        is mapped without its seals. Raises SegmentError.
        """
        if announced.place != place():
            raise SegmentError("another machine, container or user")
        if not 0 < announced.size <= most:
            raise SegmentError(f"a segment of {announced.size} bytes")
        path = f"/proc/{announced.pid}/fd/{announced.fd}"
        try:
            if os.readlink(path) != f"/memfd:{_NAME}-{announced.token} (deleted)":
                raise SegmentError("what was announced is no segment")
            _check(os.stat(path), announced)
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise SegmentError(f"memory of other processes cannot be opened here ({error.strerror})") from None
        try:
            _check(os.fstat(fd), announced)  # another file may have the number by now
            if fcntl.fcntl(fd, GET_SEALS) & SEALS != SEALS:
                raise SegmentError("a segment without seals")
            self._memory = map_file(fd, announced.size)
        except OSError as error:
            raise SegmentError(f"a segment cannot be mapped ({error})") from None
        finally:
            os.close(fd)
        self.announcement = announced

    def view(self, offset: int, length: int) -> Bytes:
        """Read-only view of some of its bytes, which keeps it mapped.

        Its owner may still write there.
        """
        return np.frombuffer(memoryview(self._memory).toreadonly(), np.uint8, length, offset)


def map_file(fd: int, size: int, is_written: bool = False) -> ctypes.Array[ctypes.c_ubyte]:
    """Map a file, read-only or not, until the last view of it is gone. Raises OSError.

    Python's own mapping would keep a file open, and ZeroMQ aborts where it finds none left.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_written else 0)
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = library.mmap(None, size, protection, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    memory = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(memory, library.munmap, address, size).atexit = False
    return memory


def _check(found: os.stat_result, announced: Announcement) -> None:
    """Raise SegmentError for another file than was announced."""
    is_same = found.st_ino == announced.inode and found.st_size == announced.size and found.st_dev == memory_device()
    if not (stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and is_same):
        raise SegmentError("what was announced is another file")


@cache
def memory_device() -> int:
    """Device of all plain memfds. Raises OSError.

    Those of huge pages have another: where the system has none left, reading them would end the process.
    """
    if not hasattr(os, "memfd_create"):
        raise SegmentError("this system has no memfd")
    fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


class Mappings:
    """Segments of one neighbor's process that are mapped here, by slot."""

    def __init__(self, open_: Callable[[Announcement, int], Mapping] = Mapping) -> None:
        self._open = open_
        self._process: tuple[Any, ...] = ()
        self._slots: dict[int, Mapping] = {}

    def find(self, announced: Announcement, most: int) -> Mapping:
        """Mapping of an announced segment, opened where it is new. Raises SegmentError."""
        process = announced.pid, announced.token
        known = self._slots.get(announced.slot)
        if known is not None and known.announcement == announced:
            return known
        found = self._open(announced, most)
        if process != self._process:
            self._process, self._slots = process, {}
        self._slots[announced.slot] = found
        return found
