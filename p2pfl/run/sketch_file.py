"""File of a peer's sketches, one for each round.

`peers/<id>/sketches.f32`: a header of 16 bytes, then 4,096 little-endian float32 a round.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2pfl.errors import ConfigError, UnreadableError
from p2pfl.model.sketches import SKETCH_BUCKETS, VERSION
from p2pfl.run.paths import SKETCHES_FILE
from p2pfl.util.files import read_if_any

HEADER = struct.pack("<8sII", b"p2pflskt", VERSION, SKETCH_BUCKETS)
_ROW_BYTES = SKETCH_BUCKETS * 4
MAX_BYTES = 2**34  # of the file: a million rounds


def file_size(rows: int) -> int:
    """Size in bytes of a file with so many sketches."""
    return len(HEADER) + rows * _ROW_BYTES


def readable_sketches(peer_dir: Path, *, strict: bool = False) -> tuple[npt.NDArray[np.float32], str]:
    """Read the sketches as `read_sketches` does; on an error none, and its message.

    `strict`: raise UnreadableError for a file that cannot be read now, which is no damage.
    """
    try:
        return read_sketches(peer_dir), ""
    except (ConfigError, UnreadableError) as error:
        if strict and isinstance(error, UnreadableError):
            raise
        return np.zeros((0, SKETCH_BUCKETS), np.float32), str(error)


def read_sketches(peer_dir: Path) -> npt.NDArray[np.float32]:
    """Read the sketches of a peer's finished rounds: (rounds, 4096) float32.

    They are in the order of `read_rounds`; one that a crash has cut off is left out. Raises
    ConfigError naming the file if it is of another version, and UnreadableError if it cannot be read.
    """
    path = peer_dir / SKETCHES_FILE
    data = read_if_any(path, MAX_BYTES)
    if data[: len(HEADER)] != HEADER[: len(data)]:
        raise ConfigError(
            f"{path}: not a file of sketches, or of another version of p2pfl than this one, which reads version "
            f"{VERSION}; the consensus distances of these rounds are not known"
        )
    whole = max(len(data) - len(HEADER), 0) // _ROW_BYTES
    return np.frombuffer(data[len(HEADER) : file_size(whole)], "<f4").reshape(whole, SKETCH_BUCKETS)
