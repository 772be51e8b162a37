"""Errors of p2pfl, and one-line reports of unforeseen errors."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Literal

from p2pfl.os_errors import failure, system_remedy

ERROR_FILE = "error.txt"
"""Tracebacks of unforeseen errors, if there were any."""


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
    INDICES = "indices"
    ENCODING = "encoding"
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


REFUSALS: Mapping[Refusal, str] = {
    Refusal.FRAMES: "A message of other than two frames.",
    Refusal.HEADER: "A header that is too large, cannot be decoded, or names an unknown number format.",
    Refusal.VERSION: "Another version of the wire format.",
    Refusal.SCALARS: "A scalar that is not finite.",
    Refusal.LENGTH: "A body of another length than its header says, or than its kind allows.",
    Refusal.CODEC: "A chunk without a number format.",
    Refusal.GREETING: "A greeting that is missing or cannot be decoded.",
    Refusal.SETTINGS: "A greeting of a process that was started with other settings, topology, data or model.",
    Refusal.RUN: "A message of another run.",
    Refusal.SENDER: "A sender that is no neighbor, or that does not own the connection.",
    Refusal.LAYOUT: "A vector of another model.",
    Refusal.ROUND: "A chunk without credit, or credit for a round that does not exist.",
    Refusal.OFFSET: "A chunk that is not the next of its vector; the vector is requested again.",
    Refusal.VECTOR: "A vector that the algorithm of the run does not have.",
    Refusal.VALUES: "A vector with a number that is not finite.",
    Refusal.INDICES: "A compressed vector with indices beyond its end, or not in ascending order.",
    Refusal.ENCODING: "A compressed vector of another kind or length than this run's.",
    Refusal.LINK: "Data over a link on which the neighbor only receives.",
    Refusal.KEY: "A connection with a key that is no neighbor's.",
    Refusal.TOKEN: "A connection with a token that is not this run's.",
    Refusal.HANDSHAKE: "A connection without this run's keys or token.",
    Refusal.UNFINISHED: "A connection that ended, or stayed silent, during its handshake.",
    Refusal.SILENT: "A connection that sent nothing.",
    Refusal.FLOOD: "A connection with more unread bytes, frames or messages than credit allows.",
    Refusal.BARRED: "A connection of a neighbor whose last one was closed a moment ago.",
    Refusal.CONNECTIONS: "More connections than the neighbors need.",
}
"""Meaning of each code."""


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
    """Run that cannot continue because of neighbors.

    `code`: in which way; `peers`: their numbers, if known.
    """

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


class LostLauncherError(P2PFLError):
    """Launcher that can start and watch nothing any longer, as without its cluster."""


class Interrupted(P2PFLError):
    """Run interrupted by its user or stopped by its launcher: exit status 130."""


class TrainingError(P2PFLError):
    """Training that cannot continue, such as after a loss that is not a number.

    With the same settings it would fail again.
    """

    resumable = False


class DivergenceError(TrainingError):
    """Training whose loss or weights are no longer finite, or too large to send."""


class UnforeseenError(P2PFLError):
    """Unforeseen error, most likely a bug; its traceback is in a file."""

    resumable = False


def unwritable(path: Path, error: Exception) -> str:
    """Message for a file or folder that cannot be written: reason and remedy."""
    return failure(path, error, "written", os.W_OK)


def unreadable(path: Path, error: Exception) -> str:
    """Message for a file or folder that cannot be read: reason and remedy."""
    return failure(path, error, "read", os.R_OK)


def unusable(path: Path, error: Exception) -> str:
    """Message for an unusable path, such as one with too long a name."""
    return failure(path, error, "used", os.R_OK)


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


def not_imported(error: Exception) -> P2PFLError:
    """Error for libraries that cannot be imported: damaged, missing, or out of memory."""
    text = f"the libraries cannot be imported ({one_line(error)[:500]})"
    return P2PFLError(text, remedy=system_remedy(error) or "check the installation: python -c 'import torch'")


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
