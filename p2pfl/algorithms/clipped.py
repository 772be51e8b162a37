"""Self-centred clipping: whatever a neighbor sends moves a peer by no more than a radius.

ClippedGossip (He, Karimireddy & Jaggi 2022, "Byzantine-robust decentralized learning via ClippedGossip", algorithm 1):
    x_i⁺ = Σ_j W_ij (x_i + clip(x_j − x_i, τ_i)),  clip(z, τ) = z min(1, τ / ‖z‖)
    τ_i² = 1/δ_i Σ_{j ∈ S_i} W_ij ‖x_j − x_i‖²
The radius of the paper's theory has the honest neighbors for S_i and the hostile ones' weight for δ_i, which nobody can
tell. Here a peer goes by what it sees: S_i are all but the B farthest neighbors, and δ_i is the weight of the B
heaviest. B = 0 makes τ infinite: plain mixing.

For a symmetric W whose τ were the same everywhere honest peers would keep their mean; τ_i differ a little, and so the
mean moves a little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from p2pfl.algorithms.base import add_terms
from p2pfl.algorithms.blockwise import Pieces, distances, side_by_side
from p2pfl.topology import Neighborhood


@dataclass(frozen=True)
class Clipped:
    """`byzantine`: hostile neighbors to bear. `radius`: a fixed τ instead of the one that follows from distances."""

    byzantine: int
    radius: float | None = None

    def __call__(self, hood: Neighborhood, vectors: list[tuple[int, Pieces]]) -> Iterator[tuple[slice, Tensor]]:
        (own,) = (pieces for sender, pieces in vectors if sender == hood.me)
        others = [(sender, pieces) for sender, pieces in vectors if sender != hood.me]
        apart = distances(own, [pieces for _, pieces in others])
        weights = [hood.incoming[sender] for sender, _ in others]
        radius = clipping_radius(apart, weights, self.byzantine) if self.radius is None else self.radius
        shares = {
            sender: weight * (1.0 if distance <= radius else radius / distance)
            for (sender, _), weight, distance in zip(others, weights, apart, strict=True)
        }
        # What clipping takes from a neighbor's share falls to oneself; nothing is added where nothing is clipped, so
        # that the sum is plain mixing's to the bit.
        clipped = math.fsum(weight - share for weight, share in zip(weights, shares.values(), strict=True))
        shares[hood.me] = hood.self_weight + clipped
        factors = [shares[sender] for sender, _ in vectors]
        for here, blocks in side_by_side([pieces for _, pieces in vectors]):
            total = blocks[0].new_empty(blocks[0].shape)
            add_terms(total, list(zip(blocks, factors, strict=True)), first=True)
            yield here, total


def clipping_radius(apart: Sequence[float], weights: Sequence[float], byzantine: int) -> float:
    """τ_i from the neighbors' distances and weights; infinite where no neighbor is taken for hostile."""
    if byzantine == 0:
        return math.inf
    doubted = math.fsum(sorted(weights)[-byzantine:])
    near = sorted(zip(apart, weights, strict=True))[: len(apart) - byzantine]
    return math.sqrt(math.fsum(weight * distance**2 for distance, weight in near) / doubted)
