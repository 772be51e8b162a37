"""Neighborhoods: each peer's row and column of the mixing matrix, by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from p2pfl.topology.spectrum import Matrix


@dataclass(frozen=True)
class Neighborhood:
    """What one peer must know to mix in one round.

    `incoming[j]` is W[me, j], the weight of what j sends; `outgoing[j]` is W[j, me], what j will weigh this
    peer's vector with. Both are in ascending peer order, without `me`, and leave out weights of 0.
    """

    me: int
    self_weight: float
    incoming: Mapping[int, float]
    outgoing: Mapping[int, float]


def without_edges(w: Matrix, pairs: Iterable[tuple[int, int]]) -> Matrix:
    """W with the weights of some pairs of peers moved to both ends' diagonals: symmetric W stay doubly stochastic."""
    cut = w.copy()
    for a, b in pairs:
        cut[a, a] += cut[a, b]
        cut[b, b] += cut[b, a]
        cut[a, b] = cut[b, a] = 0.0
    return cut


def neighborhood(w: Matrix, me: int) -> Neighborhood:
    """Peer `me`'s row and column of W."""
    others = [j for j in range(len(w)) if j != me]
    return Neighborhood(
        me=me,
        self_weight=float(w[me, me]),
        incoming={j: float(w[me, j]) for j in others if w[me, j] != 0},
        outgoing={j: float(w[j, me]) for j in others if w[j, me] != 0},
    )
