"""What every data set gives before it is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2pfl.data.dataset import Dataset

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, the total


@dataclass(frozen=True)
class Source:
    """A data set that was found, but not read yet; `key` names its cache file.

    The key changes with the source. `notes`: what is odd about it, a line each. `is_judged_by_reading`: whether a dry
    run has to decode it, because only that tells whether it can be used. `is_mirrored`: a user's own data
    that are augmented unless `--augment` says otherwise, which is noted.
    """

    name: str
    key: str
    train_samples: int
    test_samples: int
    classes: tuple[str, ...]
    read: Callable[[Progress], Dataset]
    notes: tuple[str, ...] = ()
    is_judged_by_reading: bool = False
    is_mirrored: bool = False
