"""Byzantine-robust rules: trimmed mean, median, clipping, Krum.

A rule sees all vectors of a round side by side and yields the result block by block: (slice of the vector, float32
block), each block valid until the next. The weights of W count in `clip_and_mix` only: for the others all vectors are
equal and the result is not linear in them, so that the mean over the peers is not kept, and on a sparse graph peers
need not agree in the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from p2pfl.algorithms.blockwise import (
    Pieces,
    Sorter,
    add_terms,
    distances,
    side_by_side,
    squared_distance,
    squared_distances,
)
from p2pfl.payload import Borrowed
from p2pfl.topology import Neighborhood

Blocks = Iterator[tuple[slice, Tensor]]


def trimmed_mean(vectors: Sequence[Pieces], trim: int) -> Blocks:
    """Coordinate-wise trimmed mean.

    The `trim` largest and smallest numbers of each coordinate do not count.

    Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates", definition 2:
        (x⁺)_k = 1/(m − 2B) Σ of the middle m − 2B of the m numbers (x_j)_k
    B = `trim`; 0 is the plain mean. The order of the vectors does not count, to the bit, unless B is 0. 2 B must be
    less than their number m.
    """
    sort = Sorter(len(vectors)) if trim else None
    for here, blocks in side_by_side(vectors):
        rows = blocks if sort is None else sort(blocks)[trim : len(blocks) - trim]
        total = rows[0].clone()
        for row in rows[1:]:
            total += row
        yield here, torch.div(total, len(rows), out=total)


def median(vectors: Sequence[Pieces]) -> Blocks:
    """Coordinate-wise median; of an even number of vectors the mean of the middle two.

    Yin et al. 2018, definition 1. It is the trimmed mean that trims as much as it can, and tolerates any number of
    malicious vectors below half of all.
    """
    return trimmed_mean(vectors, (len(vectors) - 1) // 2)


def krum(vectors: Sequence[Pieces], byzantine: int) -> Blocks:
    """Krum: the one vector that has the most others near it, as it is.

    Blanchard et al. 2017, "Machine learning with adversaries: Byzantine tolerant gradient descent", section 4. Needs
    m ≥ 2B + 3 vectors.
    """
    return ((here, block) for here, (block,) in side_by_side([vectors[krum_index(vectors, byzantine)]]))


def krum_index(vectors: Sequence[Pieces], byzantine: int) -> int:
    """Index of the vector with the lowest score, of equals the first.

    The score is the sum of the squared distances to the m − B − 2 nearest others.
    """
    apart: dict[tuple[int, int], float] = {}
    for one in range(len(vectors) - 1):
        others = range(one + 1, len(vectors))
        for other, distance in zip(others, distances(vectors[one], vectors[one + 1 :]), strict=True):
            apart[one, other] = apart[other, one] = distance
    near = len(vectors) - byzantine - 2

    def score(one: int) -> float:
        others = sorted(apart[one, other] for other in range(len(vectors)) if other != one)
        return math.fsum(distance**2 for distance in others[:near])

    return min(range(len(vectors)), key=score)


def clip_and_mix(
    neighborhood: Neighborhood, vectors: Sequence[tuple[int, Pieces]], byzantine: int, radius: float | None = None
) -> Blocks:
    """Mix by W, each neighbor's difference to the peer's own vector clipped.

    So a neighbor moves the peer by a radius at most.

    ClippedGossip (He, Karimireddy & Jaggi 2022, "Byzantine-robust decentralized learning via ClippedGossip",
    algorithm 1):
        x_i⁺ = Σ_j W_ij (x_i + clip(x_j − x_i, τ_i)),  clip(z, τ) = z min(1, τ / ‖z‖)
    `vectors`: (sender, vector) in peer order, the peer's own at its place. `radius`: a fixed τ in place of
    `clipping_radius`. For a symmetric W and one τ for all, honest peers would keep their mean; the τ_i differ a little,
    and so the mean moves a little.
    """
    (own,) = (pieces for sender, pieces in vectors if sender == neighborhood.me)
    others = [(sender, pieces) for sender, pieces in vectors if sender != neighborhood.me]
    squares = squared_distances(own, [pieces for _, pieces in others])
    apart = [math.sqrt(square) for square in squares]
    weights = [neighborhood.incoming[sender] for sender, _ in others]
    radius = clipping_radius(apart, weights, byzantine) if radius is None else radius
    shares = {
        sender: weight * (1.0 if distance <= radius else radius / distance)
        for (sender, _), weight, distance in zip(others, weights, apart, strict=True)
    }
    # What clipping takes from a neighbor's share falls to the peer itself; nothing is added where nothing is clipped,
    # so that the sum is plain mixing's to the bit.
    clipped = math.fsum(weight - share for weight, share in zip(weights, shares.values(), strict=True))
    shares[neighborhood.me] = neighborhood.self_weight + clipped
    factors = [shares[sender] for sender, _ in vectors]
    limits = dict(zip((sender for sender, _ in others), squares, strict=True))
    watch = _Watch([limits[sender] if isinstance(pieces, Borrowed) else None for sender, pieces in vectors])
    me = [sender for sender, _ in vectors].index(neighborhood.me)
    for here, blocks in side_by_side([pieces for _, pieces in vectors]):
        watch.replace(blocks, blocks[me])
        total = blocks[0].new_empty(blocks[0].shape)
        add_terms(total, list(zip(blocks, factors, strict=True)), first=True)
        yield here, total


class _Watch:
    """Watch over borrowed vectors, whose distances have been taken.

    Their senders may write them since.
    """

    def __init__(self, limits: Sequence[float | None]) -> None:
        """`limits`: squared distances of the borrowed vectors; None for the others."""
        self._left = {index: [limit, 0.0] for index, limit in enumerate(limits) if limit is not None}

    def replace(self, blocks: list[Tensor], own: Tensor) -> None:
        """Replace blocks of vectors that are farther away than they were.

        `blocks`: of all vectors at one place; `own`: the peer's, which stands in.
        """
        for index, squares in self._left.items():
            squares[1] += squared_distance(blocks[index], own)
            if squares[1] > squares[0]:
                blocks[index] = own


def clipping_radius(apart: Sequence[float], weights: Sequence[float], byzantine: int) -> float:
    """The radius τ_i that follows from the neighbors' distances and weights.

    Infinite for B = 0: plain mixing.

        τ_i² = 1/δ_i Σ_{j ∈ S_i} W_ij ‖x_j − x_i‖²
    In the paper's theory S_i are the honest neighbors and δ_i the weight of the malicious ones, which no peer can tell.
    Here a peer goes by what it sees: S_i are all but the B farthest neighbors, δ_i is the weight of the B heaviest.
    """
    if byzantine == 0:
        return math.inf
    doubted = math.fsum(sorted(weights)[-byzantine:])
    near = sorted(zip(apart, weights, strict=True))[: len(apart) - byzantine]
    return math.sqrt(math.fsum(weight * distance**2 for distance, weight in near) / doubted)
