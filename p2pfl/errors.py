"""The errors that p2pfl raises on purpose; anything else that escapes is a bug."""

from __future__ import annotations

import errno
import re
from pathlib import Path

_FULL = {errno.ENOSPC: "No space left", errno.EDQUOT: "quota exceeded", errno.EFBIG: "File too large"}


class P2PFLError(Exception):
    """Base of every error that the program can explain in one line. The run failed: exit status 1."""


class ConfigError(P2PFLError):
    """The user's input cannot be used as it is; the message names the field and the remedy: exit status 2."""


class TopologyError(ConfigError):
    """A topology file, generator argument or mixing that cannot be used."""


class DataError(ConfigError):
    """A data set that is missing, unreadable or unusable."""


class ProtocolError(P2PFLError):
    """Bytes from another peer that are not a well-formed message: a remote fault, never our own."""


class TransportError(P2PFLError):
    """A socket that could not be opened, or a neighbor that could not be reached in time."""


class CheckpointError(P2PFLError):
    """A checkpoint that is missing, truncated, altered, or of another run."""


class TrainingError(P2PFLError):
    """Training that cannot go on, such as a loss that is no longer a number."""


def unwritable(path: Path, error: Exception) -> str:
    """What to say of a file or folder that cannot be written: why, in the system's words, and what helps."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    # What safetensors says: "Error while serializing: I/O error: No space left on device (os error 28)".
    why = re.sub(r" \(os error \d+\).*", "", text.rpartition("I/O error: ")[2])
    full = getattr(error, "errno", None) in _FULL or any(words in why for words in _FULL.values())
    return f"{path}: cannot be written ({why}); {'make room there' if full else 'make it writable'}"
