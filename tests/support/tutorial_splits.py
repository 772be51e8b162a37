"""Splits of the tutorial series, written down sample by sample from its text.

An independent account of the two rules in its part 2, with which `p2pfl.data.partitions.tutorial` is compared. Only the
random draws are in the same order; None where the original fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

Shards = list[list[int]]


def real_world(labels: Sequence[int], clients: int, generator: np.random.Generator) -> Shards | None:
    """Pieces of a random number of classes for each client."""
    present = sorted(set(labels))
    numbers = [int(k) for k in generator.integers(1, max(2, len(present)), clients)]
    if sum(numbers) < len(present):
        return None
    parts = [1] * len(present)
    for which in generator.integers(0, len(present), sum(numbers) - len(present)):
        parts[which] += 1
    shuffled = [int(label) for label in generator.permutation(present)]
    stacks = [
        (label, _pieces([place for place, own in enumerate(labels) if own == label], number))
        for label, number in zip(shuffled, sorted(parts, reverse=True), strict=True)
    ]
    if not all(piece for _, pieces in stacks for piece in pieces):
        return None
    shards: Shards = []
    for number in numbers:
        stacks = [(label, pieces) for label, pieces in stacks if pieces]
        if len(stacks) < number:
            return None
        shards.append([sample for _, pieces in stacks[:number] for sample in pieces.popleft()])
        stacks.sort(key=lambda stack: len(stack[1]), reverse=True)
    return shards


def _pieces(samples: list[int], number: int) -> deque[list[int]]:
    """Pieces in order; the first ones have one sample more where it does not divide."""
    size, larger = divmod(len(samples), number)
    rest, found = deque(samples), deque[list[int]]()
    for place in range(number):
        found.append([rest.popleft() for _ in range(size + (place < larger))])
    return found


def classes_pc(
    labels: Sequence[int], classes: int, clients: int, per_client: int, generator: np.random.Generator
) -> Shards | None:
    """Random sizes, spent class by class; the last client gets the rest."""
    weights = [int(weight) for weight in generator.integers(10, 101, clients - 1)]
    sizes = [int(weight / sum(weights) * len(labels)) for weight in weights]
    sizes.append(len(labels) - sum(sizes))
    left = [labels.count(label) for label in range(classes)]
    taken: list[list[tuple[int, int]]] = []  # of each client: class and number, in turn
    for size in sizes:
        at, budget, own = int(generator.integers(classes)), size, list[tuple[int, int]]()
        while budget > 0:
            number = min(max(1, size // per_client), left[at], budget)
            left[at] -= number
            budget -= number
            own.append((at, number))
            at = (at + 1) % classes
        taken.append(own)
    stacks = [
        deque(int(sample) for sample in generator.permutation(np.flatnonzero(np.array(labels) == label)))
        for label in range(classes)
    ]
    shards = [[stacks[label].popleft() for label, number in own for _ in range(number)] for own in taken]
    return shards if all(shards) else None
