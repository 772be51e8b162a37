"""Arithmetic on long vectors in blocks that stay in the cache.

Weighted sums, distances, sorting by coordinate.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from p2pfl.model.vector import is_finite
from p2pfl.payload import Borrowed

Pieces = Sequence[Tensor]
"""One vector as consecutive one-dimensional pieces, as in a `Payload`."""

# Elements added at a time. torch converts the whole of a bfloat16 operand first: 39 MB of VGG-11 take four times as
# long as the same in blocks that stay in the cache.
BLOCK = 1 << 18
# Elements of each vector at a time, where several are needed side by side: ten float32 blocks stay in a cache of 4 MB.
SIDE_BLOCK = 1 << 16


class Cursor:
    """Places in the vectors that are being added: elements so far, by sender.

    A vector may come in parts, each of which continues where the last of the same sender ended.
    """

    def __init__(self) -> None:
        self._positions: dict[int, int] = {}

    def reset(self) -> None:
        """Begin a round: the next part of a sender is the first of its vector."""
        self._positions.clear()

    def has_begun(self, sender: int) -> bool:
        """Whether there was a part of this sender's vector in this round."""
        return sender in self._positions

    def position(self, sender: int) -> int:
        """Elements of a sender's vector so far."""
        return self._positions.get(sender, 0)

    def move(self, sender: int, position: int) -> None:
        """Note that so many elements of a sender's vector are in."""
        self._positions[sender] = position

    def blocks(self, sender: int, part: Pieces) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of a sender's next part, each after its place in the vector."""
        position = self._positions.setdefault(sender, 0)
        for piece in part:
            for block in _blocks(piece):
                here = slice(position, position + block.numel())
                yield here, block
                self._positions[sender] = position = here.stop


class Scratch:
    """Memory for one block at a time."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def copy(self, block: Tensor) -> Tensor:
        """Copy of at most BLOCK elements of at most 4 bytes, valid until the next."""
        if not self._bytes.numel():
            self._bytes = torch.empty(4 * BLOCK, dtype=torch.uint8)
        return self._bytes[: block.nbytes].view(block.dtype).copy_(block)


def add_weighted(total: Tensor, pieces: Pieces, weight: float, first: bool) -> None:
    """total += weight · pieces; `first` overwrites instead."""
    for here, block in Cursor().blocks(0, pieces):
        add_terms(total[here], [(block, weight)], first)


def _blocks(piece: Tensor) -> Sequence[Tensor]:
    """A piece cut into blocks of at most BLOCK elements.

    A float32 chunk of the wire is one block, a bfloat16 chunk two.
    """
    return (piece,) if piece.numel() <= BLOCK else torch.split(piece, BLOCK)


def add_terms(total: Tensor, terms: Sequence[tuple[Tensor, float]], first: bool) -> None:
    """total += Σ weight · vector, in this order.

    `first` overwrites total instead. At most BLOCK elements.
    """
    for vector, weight in terms:
        if first:
            # bfloat16 times a number would be rounded to bfloat16 before it is written.
            torch.mul(vector if vector.dtype == torch.float32 else vector.float(), weight, out=total)
        else:
            total.add_(vector, alpha=weight)
        first = False


def side_by_side(vectors: Sequence[Pieces]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Positions, and the float32 block of each vector there.

    All vectors are equally long, however they are cut. Of borrowed ones, a block that is not finite by now, though it
    was when it came, counts as zeros: its sender could as well have sent these.
    """
    borrowed = [isinstance(pieces, Borrowed) for pieces in vectors]
    queues = [deque(piece for piece in pieces if piece.numel()) for pieces in vectors]
    start = 0
    while queues[0]:
        count = min(SIDE_BLOCK, *(queue[0].numel() for queue in queues))
        blocks = zip((_next(queue, count) for queue in queues), borrowed, strict=True)
        yield slice(start, start + count), [_own(block) if is_lent else block.float() for block, is_lent in blocks]
        start += count


def _own(block: Tensor) -> Tensor:
    """Finite float32 copy of a borrowed block."""
    copy = block.to(torch.float32, copy=True)
    return copy if is_finite(copy) else copy.zero_()


def _next(queue: deque[Tensor], count: int) -> Tensor:
    piece = queue.popleft()
    if piece.numel() > count:
        queue.appendleft(piece[count:])
    return piece[:count]


def distances(center: Pieces, vectors: Sequence[Pieces]) -> list[float]:
    """Euclidean distance of each vector from the center, summed in float64."""
    return [math.sqrt(square) for square in squared_distances(center, vectors)]


def squared_distances(center: Pieces, vectors: Sequence[Pieces]) -> list[float]:
    """Squares of these distances."""
    squares = [0.0] * len(vectors)
    for _, (middle, *blocks) in side_by_side([center, *vectors]):
        for index, block in enumerate(blocks):
            squares[index] += squared_distance(block, middle)
    return squares


def squared_distance(one: Tensor, other: Tensor) -> float:
    """Squared Euclidean distance of two blocks, summed in float64."""
    return float(torch.linalg.vector_norm(one - other, dtype=torch.float64)) ** 2


class Sorter:
    """Sorts blocks of several vectors by coordinate.

    Batcher's odd-even merge sort (Knuth, "The art of computer programming", volume 3, section 5.2.2, algorithm M) of
    whole blocks by minimum and maximum: about 20 times as fast as torch.sort over eight vectors, whose order along the
    first dimension jumps through memory.
    """

    def __init__(self, count: int) -> None:
        self._pairs = comparators(count)
        self._memory = torch.empty(count + 1, SIDE_BLOCK)

    def __call__(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """The smallest numbers of each coordinate, the second smallest, and so on.

        Valid until the next call.
        """
        length = blocks[0].numel()
        *rows, spare = [row[:length] for row in self._memory]
        for row, block in zip(rows, blocks, strict=True):
            row.copy_(block)
        for low, high in self._pairs:
            torch.minimum(rows[low], rows[high], out=spare)
            torch.maximum(rows[low], rows[high], out=rows[high])
            rows[low], spare = spare, rows[low]
        return rows


@cache
def comparators(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs of places (low, high) of a sorting network for `count` numbers.

    Put in order one after the other, they sort any numbers.
    """
    pairs = []
    run = 1  # how long the sorted runs are that are merged two by two
    while run < count:
        step = run
        while step:
            for first in range(step % run, count - step, 2 * step):
                for low in range(first, min(first + step, count - step)):
                    if low // (2 * run) == (low + step) // (2 * run):
                        pairs.append((low, low + step))
            step //= 2
        run *= 2
    return tuple(pairs)
