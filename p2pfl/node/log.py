"""Log of a worker: its file, its end, and the output of libraries."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path

from p2pfl.run.paths import LOG_FILE
from p2pfl.util.files import opener


def open_log(peer_dir: Path, index: int) -> logging.Logger:
    """Log of a worker, written to its folder.

    Raises OSError where the file cannot be opened.
    """
    log = log_of(index)
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = _Log(peer_dir / LOG_FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log


def close_log(log: logging.Logger) -> None:
    """Close the files of a log; lines that a full disk cannot take are lost."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk
            handler.close()


def log_of(index: int) -> logging.Logger:
    """The log of the worker with this index, whether its file is open or not."""
    return logging.getLogger(f"p2pfl.peer.{index}")


def redirect_output(path: Path) -> None:
    """Redirect the output of libraries and crashes to the peer's log.

    It would disturb the launcher's live table.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    file = opener(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    faulthandler.enable()


class _Log(logging.FileHandler):
    """Log file that drops the lines it cannot write.

    `logging` would print a traceback for each of them.
    """

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=opener)

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error: the launcher gets what matters by other means."""
