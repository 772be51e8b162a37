"""Identities: the lasting id of a run, and the incarnation of a process.

A run's id is made with its directory, stays the same over all resumes, and is in each of its checkpoints.

A launcher's run directory holds one id for all its processes. Where each peer runs by itself (`p2pfl peer`), the id
lies in the peer's own folder, so that folders from several machines stay usable when they are put into one directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
import zlib
from pathlib import Path

from p2pfl.errors import CheckpointError, unwritable
from p2pfl.run.paths import INCARNATION_FILE, RUN_ID_FILE
from p2pfl.util.files import read_if_any, replace_file

_RANDOM_BYTES = 12
_MOST_DIGITS = 11  # of an incarnation: edge epochs are counted from it, exactly in a float64
_FORM = re.compile(rf"([0-9a-f]{{{2 * _RANDOM_BYTES}}})-([0-9a-f]{{8}})\n?")


def write_run_id(folder: Path, run_id: str | None = None) -> str:
    """Save an id, by default a new one, in a folder, atomically; return it.

    Raises OSError.
    """
    run_id = run_id or _signed(secrets.token_hex(_RANDOM_BYTES))
    temporary = folder / f".{RUN_ID_FILE}.{os.getpid()}"
    try:
        temporary.write_text(run_id + "\n", encoding="ascii")
        os.replace(temporary, folder / RUN_ID_FILE)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return run_id


def read_run_id(folder: Path) -> str | None:
    """Read the id in a folder; None if it is missing or damaged.

    Raises UnreadableError.
    """
    text = read_if_any(folder / RUN_ID_FILE).decode("ascii", "replace")
    return text.strip() if is_run_id(text) else None


def is_run_id(text: str) -> bool:
    """Return whether a text is the id of a run, with its checksum."""
    form = _FORM.fullmatch(text)
    return form is not None and _signed(form[1]) == f"{form[1]}-{form[2]}"


def run_id_of(run_dir: Path, peer_dir: Path) -> str | None:
    """Id in the run directory, or else in the peer's folder; its checkpoints have it."""
    return read_run_id(run_dir) or read_run_id(peer_dir)


def next_incarnation(peer_dir: Path) -> int:
    """Incarnation of this start of a process: the last one plus 1, saved before use.

    Where none is known, as at the first start or after its folder was lost, it is the time in seconds, so that it is
    larger than any before: neighbors ignore messages of smaller ones as stale. Raises CheckpointError where it cannot
    be saved, and UnreadableError.
    """
    path = peer_dir / INCARNATION_FILE
    text = read_if_any(path).decode("ascii", "replace").strip()
    number = int(text) + 1 if text.isdigit() and len(text) < _MOST_DIGITS else int(time.time())
    try:
        replace_file(path, f"{number}\n".encode())
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None
    return number


def _signed(random: str) -> str:
    """Append a checksum: with a wrong digit every checkpoint would be refused."""
    return f"{random}-{zlib.crc32(random.encode()):08x}"
