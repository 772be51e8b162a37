"""What an algorithm is to the peer that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from p2pfl.payload import Codec, Payload
from p2pfl.topology import Neighborhood

Hoods = Callable[[int], Neighborhood]
"""The neighborhood of a round; rounds are counted from 1."""

S = TypeVar("S")

# Elements added at a time. torch converts the whole of a bfloat16 operand first: 39 MB of VGG-11 take four times as
# long as the same in blocks that stay in the cache.
BLOCK = 1 << 18


class Algorithm(Protocol[S]):
    """One gossip algorithm. A round is: outgoing, then fold for each sender (oneself at one's place), then finish.

    `x` is the peer's flat float32 vector, (size,). Training moves it in place; `finish` says where the mix is.
    """

    @property
    def codec(self) -> Codec:
        """Number format of this algorithm's vectors on the wire."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the vectors in every payload, each as long as x."""

    @property
    def overlapped(self) -> bool:
        """Whether `outgoing` is asked before the round's training (the exchange hides behind it) or after."""

    @property
    def streaming(self) -> bool:
        """Whether `fold` can take a payload in parts, so that adding hides behind receiving."""

    def start(self, x: Tensor, hoods: Hoods) -> S:
        """The state before the first round; keeps x itself, not a copy."""

    def outgoing(self, state: S, round: int) -> list[tuple[int, Payload]]:
        """Begin a round: what goes to each out-neighbor. The payloads do not change until the next `outgoing`."""

    def fold(self, state: S, sender: int, payload: Payload | None) -> None:
        """Add one sender's payload to the average; None for one's own vector, at one's place in peer order.

        Where the algorithm is `streaming`, a payload comes in parts as they arrive, each call's pieces going on where
        the last call's ended, the scalars with the first; a part need not hold something of every vector. Otherwise
        it comes whole.
        """

    def finish(self, state: S) -> Tensor:
        """End the round. Returns the mix, which is x from now on: the same vector, or another like it.

        By returning another one, the old one stays as it is without a copy, while neighbors may still be taking it.
        """


def vector_like(x: Tensor) -> Tensor:
    """An uninitialized vector that `finish` may return in the place of x: pinned for transfers to a GPU if x is."""
    return torch.empty_like(x, pin_memory=x.is_pinned())


def add_weighted(total: Tensor, pieces: Sequence[Tensor], weight: float, first: bool, start: int = 0) -> int:
    """total[start:…] += weight · pieces; `first` overwrites instead. Returns where the next piece belongs."""
    for piece in pieces:
        for block in blocks(piece):
            add_terms(total[start : start + block.numel()], [(block, weight)], first)
            start += block.numel()
    return start


def blocks(piece: Tensor) -> Sequence[Tensor]:
    """A piece in parts of at most BLOCK elements: a float32 chunk of the wire is one, a bfloat16 chunk two."""
    return (piece,) if piece.numel() <= BLOCK else torch.split(piece, BLOCK)


def add_terms(total: Tensor, terms: Sequence[tuple[Tensor, float]], first: bool) -> None:
    """total += Σ weight · vector, in this order; `first` overwrites total instead. At most BLOCK elements."""
    for vector, weight in terms:
        if first:
            # bfloat16 times a number would be rounded to bfloat16 before it is written.
            torch.mul(vector if vector.dtype == torch.float32 else vector.float(), weight, out=total)
        else:
            total.add_(vector, alpha=weight)
        first = False
