"""Neighborhoods of a peer by round: its row and column of the mixing matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from p2pfl.topology.spectrum import Matrix


@dataclass(frozen=True)
class Neighborhood:
    """Neighbors of one peer in one round, with their mixing weights.

    `incoming[j]` is W[me, j], the weight of the vector that j sends; `outgoing[j]` is W[j, me], the weight that j
    gives to this peer's vector. Both are in ascending peer order, without `me` and without weights of 0.

    `relaxation`: r ≥ 1, the same for all peers, with which no self-weight of I + (W − I) / r is negative; 1 where none
    of W is (those of finite-time averaging may be).
    """

    me: int
    self_weight: float
    incoming: Mapping[int, float]
    outgoing: Mapping[int, float]
    relaxation: float = 1.0


NeighborhoodSchedule = Callable[[int], Neighborhood]
"""Neighborhood of a peer by round; rounds are counted from 1."""


def without_edges(w: Matrix, pairs: Iterable[tuple[int, int]]) -> Matrix:
    """Mixing matrix without some edges; their weights move to the diagonal.

    A symmetric W stays doubly stochastic.
    """
    cut = w.copy()
    for a, b in pairs:
        cut[a, a] += cut[a, b]
        cut[b, b] += cut[b, a]
        cut[a, b] = cut[b, a] = 0.0
    return cut


def neighborhood(w: Matrix, me: int) -> Neighborhood:
    """Neighborhood of peer `me`: its row and column of W."""
    others = [j for j in range(len(w)) if j != me]
    return Neighborhood(
        me=me,
        self_weight=float(w[me, me]),
        incoming={j: float(w[me, j]) for j in others if w[me, j] != 0},
        outgoing={j: float(w[j, me]) for j in others if w[j, me] != 0},
        relaxation=max(1.0, 1.0 - float(w.diagonal().min())),
    )
