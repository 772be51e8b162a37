"""Coordinate-wise median of one's own vector and the neighbors'.

Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates", definition 1; of an even
number of vectors the mean of the middle two. It is the trimmed mean that trims as much as it can, and what is said
there of W holds here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from p2pfl.algorithms.blockwise import Pieces
from p2pfl.algorithms.trimmed_mean import trimmed_mean
from p2pfl.topology import Neighborhood


@dataclass(frozen=True)
class Median:
    """Bears any number of hostile neighbors that is less than half of the vectors."""

    def __call__(self, hood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Iterator[tuple[slice, Tensor]]:
        return median([pieces for _, pieces in vectors])


def median(vectors: Sequence[Pieces]) -> Iterator[tuple[slice, Tensor]]:
    """Where, and the block of the median there."""
    return trimmed_mean(vectors, (len(vectors) - 1) // 2)
