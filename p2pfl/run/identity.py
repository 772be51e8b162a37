"""The lasting id of a run: made with its directory, the same over all resumes, and said by each of its checkpoints.

A launcher's run directory holds one id for all its processes. Where each peer runs by itself (`p2pfl peer`), the id
lies in the peer's own folder, so that folders from several machines stay usable when they are put into one directory.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import zlib
from pathlib import Path

from p2pfl.run.paths import RUN_ID_FILE
from p2pfl.util.files import read_if_any

_RANDOM_BYTES = 12
_FORM = re.compile(rf"([0-9a-f]{{{2 * _RANDOM_BYTES}}})-([0-9a-f]{{8}})\n?")


def write_run_id(folder: Path, run_id: str | None = None) -> str:
    """Save an id in a folder, a new one unless it is given, whole or not at all. Returns it; raises OSError."""
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
    """The id in a folder; None where there is none, or one that was altered. Raises UnreadableError."""
    form = _FORM.fullmatch(read_if_any(folder / RUN_ID_FILE).decode("ascii", "replace"))
    return _signed(form[1]) if form and _signed(form[1]) == f"{form[1]}-{form[2]}" else None


def run_id_of(run_dir: Path, peer_dir: Path) -> str | None:
    """The id that a peer's checkpoints must have: that of the run directory, or else of the peer's own folder."""
    return read_run_id(run_dir) or read_run_id(peer_dir)


def _signed(random: str) -> str:
    """With a checksum: an id with a wrong digit would refuse every checkpoint of its run."""
    return f"{random}-{zlib.crc32(random.encode()):08x}"
