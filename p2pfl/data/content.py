"""Digests of a data set's content, by which peers on other machines tell whether theirs is the same.

Of files it is their bytes that count, because decoders of other versions may give other pixels; of arrays the numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2pfl.errors import DataError, one_line
from p2pfl.util.files import opener

_REPORT_EVERY = 256  # files between two reports of progress


def arrays_content(about: Iterable[object], arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """A digest of arrays, their types and shapes, and whatever else (`about`) tells data sets apart."""
    digest = hashlib.sha256(repr(tuple(about)).encode(errors="surrogatepass"))
    for array in arrays:
        plain = np.ascontiguousarray(array)
        digest.update(f"\0{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def files_content(
    directory: Path, samples: Sequence[tuple[str, int]], progress: Callable[[str, int, int], None]
) -> str:
    """A digest of files in their order, (path, label) each: relative names, labels and bytes.

    Raises DataError naming a file that cannot be read.
    """
    digest = hashlib.sha256()
    for number, (path, label) in enumerate(samples, start=1):
        try:
            with open(path, "rb", opener=opener) as file:
                one = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
        name = Path(path).relative_to(directory).as_posix()
        digest.update(f"{name}\0{label}\0".encode(errors="surrogateescape") + one)
        if number % _REPORT_EVERY == 0 or number == len(samples):
            progress("reading image files", number, len(samples))
    return digest.hexdigest()
