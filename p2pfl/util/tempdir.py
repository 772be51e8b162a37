"""Temporary folder of a launcher, locked while it is in use.

A launcher that is killed cannot remove its folder. Its workers do when they end, or the next launcher. Only folders
that belong to this user alone, hold the marker file below, and whose lock is free, are ever removed.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from p2pfl.errors import ConfigError

PREFIX = "p2pfl-"
MARKER_FILE = "p2pfl.lock"
_REMEDY = "set TMPDIR to a folder that exists, can be written and has room, such as /tmp"
_MARK = b"temporary folder of a p2pfl launcher\n"


class TemporaryFolder:
    """Folder of mode 0700 in the system's temporary folder; a context manager."""

    def __init__(self) -> None:
        """Remove what killed launchers left behind, then make the folder and lock it.

        Raises ConfigError where the temporary folder cannot be written.
        """
        self._lock: int | None = None
        try:
            self._parent = Path(tempfile.gettempdir())
        except OSError as error:
            raise ConfigError(f"TMPDIR: no temporary folder ({error.strerror})", remedy=_REMEDY) from None
        remove_abandoned(self._parent)
        with self._explained():
            self._make()

    def __enter__(self) -> TemporaryFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ensure(self) -> Path:
        """Make the folder again if it was removed during the run; returns its path.

        It gets another name if the old one is taken meanwhile, perhaps by another user. Raises ConfigError.
        """
        with self._explained():
            if not self._is_whole():
                try:
                    self.path.mkdir(mode=0o700)
                except FileExistsError:
                    if not is_private(self.path):
                        self._make()
                        return self.path
                self._hold()
        return self.path

    def subfolder(self) -> Path:
        """A new folder within, for one run's sockets. Raises ConfigError."""
        within = self.ensure()
        with self._explained():
            return Path(tempfile.mkdtemp(prefix="", dir=within))

    def ensure_subfolder(self, path: Path) -> None:
        """Make a subfolder again if it was removed.

        Raises ConfigError, also if its name is taken meanwhile.
        """
        if is_private(path) and self._is_whole():
            return
        within = self.ensure()
        with self._explained():
            if within == path.parent:
                with contextlib.suppress(FileExistsError):
                    path.mkdir(mode=0o700)
        if not is_private(path):
            raise ConfigError(
                f"{path}: this folder for sockets was removed during the run, and its name is taken",
                remedy="set TMPDIR to a folder that no program cleans",
            )

    def close(self) -> None:
        """Remove the folder; errors are ignored, since they are no failure of the run."""
        if is_private(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
        self._release()
        atexit.unregister(self.close)

    def _make(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._parent))
        atexit.register(self.close)  # for an interrupt before the folder's user closes it
        try:
            if not is_private(self.path):  # a file system that has no owners or modes
                raise ConfigError(f"TMPDIR {self._parent}: no folder there is closed to others", remedy=_REMEDY)
            self._hold()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def _is_whole(self) -> bool:
        """Return whether the folder and its marker file are still those that were made."""
        if self._lock is None or not is_private(self.path):
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.lstat(self.path / MARKER_FILE))
        except OSError:
            return False

    def _hold(self) -> None:
        """Lock the marker file before it gets its name.

        A folder whose marker file is not locked may be removed.
        """
        self._release()
        self._lock, unnamed = tempfile.mkstemp(prefix=f".{MARKER_FILE}-", dir=self.path)  # never a file that exists
        try:
            os.write(self._lock, _MARK)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.replace(unnamed, self.path / MARKER_FILE)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(unnamed)
            raise

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"TMPDIR {self._parent}: no folder for sockets can be made there ({error.strerror})", remedy=_REMEDY
            ) from None


def is_private(path: Path) -> bool:
    """Return whether a path is a folder of this user that is closed to all others."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of launchers that no longer exist."""
    with contextlib.suppress(OSError):
        for path in sorted(parent.glob(f"{PREFIX}*")):
            remove_if_abandoned(path)


def remove_if_abandoned(path: Path) -> None:
    """Remove one folder if it is an unlocked launcher's folder of this user."""
    if not is_private(path):
        return
    with contextlib.suppress(OSError), _unheld_marker(path) as unheld:
        if unheld:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _unheld_marker(path: Path) -> Iterator[bool]:
    """Hold the lock of a folder's marker file; False if it is held or not ours."""
    marker = os.open(path / MARKER_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        ours = os.fstat(marker).st_uid == os.geteuid() and os.read(marker, len(_MARK) + 1) == _MARK
        if ours:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield ours
    except BlockingIOError:
        yield False
    finally:
        os.close(marker)
