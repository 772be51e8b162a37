"""Files replaced so that a crash or a power cut leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from p2pfl.util.regular import opener


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content, and wait for the disk. Raises OSError; the file is then as it was."""
    temporary = path.with_name(f"{path.name}.tmp")  # one name, so that a killed process leaves one at most
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
    """Cut a file to so many bytes, and wait for the disk. Raises OSError."""
    with open(path, "rb+", opener=opener) as file:
        file.truncate(size)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names that were given to files in a folder. Raises OSError."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
