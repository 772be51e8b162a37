"""Segments: sealed, mapped read-only, kept by readers; no other file is opened."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from p2pfl.transport import segments
from p2pfl.transport.segments import Announcement, Mapping, Mappings, Owner, Segment, SegmentError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memfd")

SIZE = 3 * mmap.PAGESIZE
MOST = 1 << 20


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment(Owner(), 0, SIZE - 5)
    made.write(8, bytes(range(16)))
    with contextlib.closing(made):
        yield made


def changed(announced: Announcement, **fields: object) -> Announcement:
    return msgspec.structs.replace(announced, **fields)


def test_what_the_owner_writes_can_be_read_and_not_written(segment: Segment) -> None:
    mapping = Mapping(segment.announcement, MOST)
    view = mapping.view(8, 16)
    assert view.tolist() == list(range(16))
    segment.write(8, b"\xff")
    assert view[0] == 255  # the same memory
    assert not view.flags.writeable


def test_nobody_can_map_a_segment_for_writing_or_change_its_size(segment: Segment) -> None:
    fd = os.open(f"/proc/self/fd/{segment.announcement.fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        for size in (0, 2 * SIZE):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, segments.ADD_SEALS, 0x8)
    finally:
        os.close(fd)


def test_a_view_outlives_the_owner_and_the_mapping(segment: Segment) -> None:
    other = Segment(Owner(), 1, SIZE)
    other.write(0, b"kept")
    view = Mapping(other.announcement, MOST).view(0, 4)
    other.close()
    assert view.tobytes() == b"kept"
    with pytest.raises(SegmentError):
        Mapping(other.announcement, MOST)


def test_a_mapping_costs_no_open_file_and_ends_with_its_last_view(segment: Segment) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(segment.announcement.token)

    before, files = mapped(), len(os.listdir("/proc/self/fd"))
    mapping = Mapping(segment.announcement, MOST)
    part = memoryview(mapping.view(8, 16))[4:8]
    assert (mapped(), len(os.listdir("/proc/self/fd"))) == (before + 1, files)
    del mapping
    assert mapped() == before + 1
    assert part.tobytes() == bytes(range(4, 8))
    del part
    assert mapped() == before


def test_a_closed_segment_leaves_no_file_open() -> None:
    def memfds() -> list[str]:
        links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd))
        return [link for link in links if "p2pfl" in link and link.startswith("/memfd:")]

    before = memfds()
    Segment(Owner(), 0, SIZE).close()
    assert memfds() == before


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# Hostile announcements


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"place": "elsewhere"}, "another machine"),
        ({"size": 0}, "0 bytes"),
        ({"size": MOST + 1}, "bytes"),
        ({"size": SIZE + mmap.PAGESIZE}, "another file"),
        ({"inode": 1}, "another file"),
        ({"token": "guessed"}, "no segment"),
        ({"fd": 10**6}, "cannot be opened"),
        ({"pid": 2**40}, "cannot be opened"),
    ],
)
def test_an_announcement_that_is_not_true_is_refused(segment: Segment, fields: dict[str, object], why: str) -> None:
    with pytest.raises(SegmentError, match=why):
        Mapping(changed(segment.announcement, **fields), MOST)


def test_memory_of_another_kind_is_refused(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of huge pages may run out while it is read."""
    monkeypatch.setattr(segments, "memory_device", lambda: -1)
    with pytest.raises(SegmentError, match="another file"):
        Mapping(segment.announcement, MOST)


def announced(segment: Segment, fd: int) -> Announcement:
    """Announcement of a file of another kind, whose facts are true."""
    found = os.fstat(fd)
    return changed(segment.announcement, fd=fd, inode=found.st_ino, size=found.st_size or SIZE)


def test_no_other_file_is_opened(segment: Segment, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    os.mkfifo(tmp_path / "fifo")
    for path, flags in (("file", os.O_RDWR), ("fifo", os.O_RDWR)):
        fd = os.open(tmp_path / path, flags)
        try:
            with pytest.raises(SegmentError, match="no segment"):
                Mapping(announced(segment, fd), MOST)
        finally:
            os.close(fd)


def test_a_memfd_without_seals_is_not_mapped(segment: Segment) -> None:
    fd = os.memfd_create(f"p2pfl-{segment.announcement.token}", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, SIZE)
        with pytest.raises(SegmentError, match="seals"):
            Mapping(announced(segment, fd), MOST)
        fcntl.fcntl(fd, segments.ADD_SEALS, 0x2 | 0x4)  # it could still be written by others
        with pytest.raises(SegmentError, match="seals"):
            Mapping(announced(segment, fd), MOST)
    finally:
        os.close(fd)


def test_a_system_without_memfd_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(SegmentError, match="no memfd"):
        Owner()


def test_a_kernel_without_a_seal_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(segments, "SEALS", 1 << 20)
    with pytest.raises(SegmentError, match="sealed"):
        Segment(Owner(), 0, SIZE)
    assert len(os.listdir("/proc/self/fd")) == before


# Mappings of a neighbor


def test_a_segment_is_opened_once_and_replaced_by_the_next_in_its_slot() -> None:
    owner = Owner()
    first, second = Segment(owner, 0, SIZE), Segment(owner, 0, SIZE)
    found = Mappings()
    mapping = found.find(first.announcement, MOST)
    assert found.find(first.announcement, MOST) is mapping
    assert found.find(second.announcement, MOST) is not mapping
    view = np.frombuffer(mapping.view(0, 4), np.uint8)
    assert view.tobytes() == bytes(4)
    first.close()
    second.close()
