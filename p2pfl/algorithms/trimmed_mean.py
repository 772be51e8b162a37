"""Coordinate-wise trimmed mean: of each coordinate the B largest and the B smallest numbers do not count.

Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates", definition 2, of one's own
vector and the neighbors':
    (x_i⁺)_k = 1/(m − 2B) Σ of the middle m − 2B of the m numbers (x_j)_k

The weights of W do not count: all vectors are equal, and what remains is not even linear. So the mean over the peers
is not kept, and on a sparse graph peers need not come to agree. B = 0 is the plain mean of the neighborhood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2pfl.algorithms.blockwise import Pieces, Sorter, side_by_side
from p2pfl.topology import Neighborhood


@dataclass(frozen=True)
class TrimmedMean:
    """`byzantine`: B, hostile neighbors to bear."""

    byzantine: int

    def __call__(self, hood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Iterator[tuple[slice, Tensor]]:
        return trimmed_mean([pieces for _, pieces in vectors], self.byzantine)


def trimmed_mean(vectors: Sequence[Pieces], trim: int) -> Iterator[tuple[slice, Tensor]]:
    """Where, and the block of the mean there, without the `trim` largest and smallest numbers of each coordinate.

    The order of the vectors does not count, to the bit, unless `trim` is 0. 2 · trim must be less than their number.
    """
    sort = Sorter(len(vectors)) if trim else None
    for here, blocks in side_by_side(vectors):
        rows = blocks if sort is None else sort(blocks)[trim : len(blocks) - trim]
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        yield here, torch.div(total, len(rows), out=total)
