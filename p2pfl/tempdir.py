"""Temporary folder of a launcher, with a lock that tells whether it is still in use.

A launcher that is killed cannot remove its folder. The next one does, and so do the workers of the first when they
end. Only folders that hold the marker file below, and whose lock nobody holds, are ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from p2pfl.errors import ConfigError

PREFIX = "p2pfl-"
MARKER_FILE = "p2pfl.lock"
_MARK = b"temporary folder of a p2pfl launcher\n"


class TemporaryFolder:
    """Folder of mode 0700 in the system's temporary folder; use as a context manager, or call `close`."""

    def __init__(self) -> None:
        """Remove what killed launchers left behind, then make the folder and lock it.

        Raises ConfigError where the temporary folder cannot be written.
        """
        self._lock: int | None = None
        try:
            remove_abandoned(Path(tempfile.gettempdir()))
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            self._hold()
        except OSError as error:
            raise ConfigError(
                f"no temporary folder for sockets ({error.strerror}); set TMPDIR to a folder that can be written"
            ) from None

    def __enter__(self) -> TemporaryFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ensure(self) -> Path:
        """Make the folder again if something has removed it during the run; returns it. Raises OSError."""
        if not (self.path / MARKER_FILE).exists():
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._hold()
        return self.path

    def subfolder(self) -> Path:
        """A new folder within, for one run's sockets. Raises OSError."""
        return Path(tempfile.mkdtemp(prefix="", dir=self.ensure()))

    def close(self) -> None:
        """Remove the folder; whatever hinders that is no failure of the run."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _hold(self) -> None:
        """Lock the marker file before it gets its name: whoever finds one that is not locked may remove the folder."""
        self._release()
        unnamed = self.path / f".{MARKER_FILE}"
        self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(self._lock, _MARK)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.replace(unnamed, self.path / MARKER_FILE)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of launchers that no longer exist from a temporary folder."""
    with contextlib.suppress(OSError):
        for path in sorted(parent.glob(f"{PREFIX}*")):
            remove_if_abandoned(path)


def remove_if_abandoned(path: Path) -> None:
    """Remove one folder, if it is a launcher's and nobody holds its lock."""
    with contextlib.suppress(OSError), _unheld_marker(path) as unheld:
        if unheld:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _unheld_marker(path: Path) -> Iterator[bool]:
    """Hold the lock of a folder's marker file meanwhile; False where it is another's or there is no such file."""
    marker = os.open(path / MARKER_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        ours = os.fstat(marker).st_uid == os.getuid() and os.read(marker, len(_MARK) + 1) == _MARK
        if ours:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield ours
    except BlockingIOError:
        yield False
    finally:
        os.close(marker)
