"""Krum: the one update that has the most others near it.

Blanchard et al. 2017, "Machine learning with adversaries: Byzantine tolerant gradient descent", section 4: the score of
an update is the sum of its squared distances to its m − B − 2 nearest others; the update with the lowest score is the
next model as it is. Needs m ≥ 2B + 3 updates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from p2pfl.algorithms.blockwise import Pieces, distances, side_by_side


def krum(updates: Sequence[Pieces], byzantine: int) -> Iterator[tuple[slice, Tensor]]:
    """Where, and the block of the chosen update there."""
    return ((here, block) for here, (block,) in side_by_side([updates[chosen(updates, byzantine)]]))


def chosen(updates: Sequence[Pieces], byzantine: int) -> int:
    """Which update it is; of equals the first."""
    apart: dict[tuple[int, int], float] = {}
    for one in range(len(updates) - 1):
        others = range(one + 1, len(updates))
        for other, distance in zip(others, distances(updates[one], updates[one + 1 :]), strict=True):
            apart[one, other] = apart[other, one] = distance
    near = len(updates) - byzantine - 2

    def score(one: int) -> float:
        others = sorted(apart[one, other] for other in range(len(updates)) if other != one)
        return math.fsum(distance**2 for distance in others[:near])

    return min(range(len(updates)), key=score)
