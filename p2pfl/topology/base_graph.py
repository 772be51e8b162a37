"""Base-(k+1) graph: graphs of degree k that average exactly in finite time.

Takezawa et al. 2023, "Beyond exponential graph: communication-efficient topologies for decentralized learning via
finite-time convergence". Each round is a set of weighted edges; the product of the rounds' matrices is 11ᵀ/n.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

Edges = dict[tuple[int, int], float]
"""Undirected edges of one round with their weights."""


def base_graph(n: int, k: int) -> list[Edges]:
    """Rounds of the Base-(k+1) graph of n peers, each with at most k neighbors.

    With n = p q, where p has all prime factors up to k + 1: each of p groups of q averages by the simple graph, then
    peers of different groups by the hyper-hypercube; or the simple graph of all, if that is shorter.
    """
    simple = _simple(range(n), k)
    p = _smooth_part(n, k + 1)
    q = n // p
    groups = [range(group * q, (group + 1) * q) for group in range(p)]
    inside = [_merged(rounds) for rounds in zip(*(_simple(group, k) for group in groups), strict=True)]
    across = zip(*(_hyper_hypercube(others, k) for others in zip(*groups, strict=True)), strict=True)
    split = [*inside, *(_merged(rounds) for rounds in across)]
    return split if len(split) < len(simple) else simple


def _hyper_hypercube(peers: Sequence[int], k: int) -> list[Edges]:
    """k-peer hyper-hypercube graph: n is a product of factors up to k + 1.

    In each round those average that differ in one digit of their place, written with the factors as bases.
    """
    rounds, stride = [], 1
    for factor in _fewest_factors(len(peers), k + 1):
        starts = [place for place in range(len(peers)) if place // stride % factor == 0]
        groups = [[peers[start + digit * stride] for digit in range(factor)] for start in starts]
        rounds.append({pair: 1.0 / factor for group in groups for pair in combinations(group, 2)})
        stride *= factor
    return rounds


def _simple(peers: Sequence[int], k: int) -> list[Edges]:
    """Simple Base-(k+1) graph.

    n is written in base k + 1; a digit a at place p is a part of a blocks of (k + 1)^p peers. All parts average. Then
    one part after the other, the largest first, exchanges with all later ones so that its sum is its share of the
    whole, and its blocks average once more.
    """
    if _smooth_part(len(peers), k + 1) == len(peers):
        return _hyper_hypercube(peers, k)
    parts = _parts(peers, k + 1)
    first = [_hyper_hypercube([peer for block in part for peer in block], k) for part in parts]
    again = [[_hyper_hypercube(block, k) for block in part] for part in parts]
    lead = len(first[0])
    rounds: list[Edges] = [{} for _ in range(lead + 1 + len(again[0][0]))]
    for number, edges in enumerate(first):
        for round, own in enumerate(edges):
            rounds[round] |= own
        part, later = parts[number], [peer for part in parts[number + 1 :] for block in part for peer in block]
        if not later:
            continue
        size = sum(map(len, part))
        share = size / len(part) / (size + len(later))
        for block, averaged in zip(part, again[number], strict=True):
            rounds[lead + number] |= dict.fromkeys(zip(block, later, strict=False), share)  # a block is larger
            for round, own in enumerate(averaged, start=lead + number + 1):
                rounds[round] |= own
    return rounds


def _parts(peers: Sequence[int], base: int) -> list[list[Sequence[int]]]:
    """Blocks of peers for each digit above 0 of their number, the largest first."""
    sizes = []
    size, rest = 1, len(peers)
    while rest:
        sizes.append((rest % base, size))
        rest, size = rest // base, size * base
    parts, start = [], 0
    for digit, size in reversed(sizes):
        if digit:
            parts.append([peers[start + size * i : start + size * (i + 1)] for i in range(digit)])
            start += digit * size
    return parts


def _smooth_part(n: int, largest: int) -> int:
    """Largest divisor of n without prime factors above `largest`."""
    part = 1
    for factor in range(2, largest + 1):
        while n % factor == 0:
            n, part = n // factor, part * factor
    return part


def _fewest_factors(n: int, largest: int) -> list[int]:
    """Fewest factors up to `largest` whose product is n."""
    fewest: dict[int, list[int]] = {1: []}
    for m in (m for m in range(2, n + 1) if n % m == 0):
        found = [fewest[m // f] + [f] for f in range(2, min(m, largest) + 1) if m % f == 0 and m // f in fewest]
        if found:
            fewest[m] = min(found, key=len)
    return fewest[n]


def _merged(rounds: Sequence[Edges]) -> Edges:
    return {pair: weight for edges in rounds for pair, weight in edges.items()}
