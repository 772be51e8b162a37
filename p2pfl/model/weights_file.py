"""Initial weights from a safetensors file, read and digested without torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from p2pfl.errors import ConfigError, unreadable
from p2pfl.util.files import check_regular

WEIGHTS = "F32"  # the only floating-point type of p2pfl's models
_WHOLE = {"I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL"}  # of buffers that count

Weights = dict[str, npt.NDArray[Any]]

# Digests of the files that this process has read, by what tells a file's content apart without reading it.
_digests: dict[tuple[int, ...], str] = {}


def read_weights(path: str | Path) -> Weights:
    """Read the tensors of a file by name; `weights_digest` remembers their digest.

    Raises ConfigError naming the file where it cannot be read, is no safetensors file, holds nothing, or holds numbers
    that are not float32 or not finite.
    """
    try:
        check_regular(path)  # safetensors would wait for a pipe, and its words for a folder are less clear
        with open(path, "rb") as opened:
            identity = _identity(os.fstat(opened.fileno()))
        with safetensors.safe_open(path, framework="numpy") as file:
            names = sorted(file.keys())
            for name in names:
                kind = file.get_slice(name).get_dtype()
                if kind != WEIGHTS and kind not in _WHOLE:
                    raise ConfigError(f"--init {path}: {name!a} is {kind}; p2pfl keeps float32 weights: convert it")
            found = {name: np.asarray(file.get_tensor(name)) for name in names}
    except OSError as error:
        raise ConfigError(f"--init {unreadable(Path(path), error)}") from None
    except safetensors.SafetensorError as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"--init {path}: no safetensors file ({why[:160]}); name one") from None
    if not found:
        raise ConfigError(f"--init {path}: holds no tensor; name a file of weights")
    bad = next((name for name, array in found.items() if not np.isfinite(array).all()), None)
    if bad is not None:
        raise ConfigError(f"--init {path}: {bad!a} has numbers that are not finite; choose another file")
    if identity not in _digests:
        _digests[identity] = _digest(found)
    return found


def weights_digest(path: str | Path) -> str:
    """Digest of a file's tensors, 10 hexadecimal digits.

    Metadata does not count. Raises ConfigError as `read_weights`.
    """
    try:
        known = _digests.get(_identity(os.stat(path)))
    except OSError:  # which reading says in words
        known = None
    return known or _digest(read_weights(path))


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """Identity of a file's content: changes when it is replaced or written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(weights: Weights) -> str:
    digest = hashlib.sha256()
    for name, array in weights.items():
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode(errors="surrogatepass"))
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:10]
