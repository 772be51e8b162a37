"""The weights that a peer begins with whose own are lost, or too old to go on with: its neighbors'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from p2pfl.algorithms.base import Algorithm
from p2pfl.algorithms.blockwise import side_by_side
from p2pfl.algorithms.median import median
from p2pfl.algorithms.robust import Robust
from p2pfl.payload import Payload


class Adoption:
    """Collects neighbors' payloads: of the first neighbor, or of all where no neighbor is trusted by itself."""

    def __init__(self, algorithm: Algorithm[Any]) -> None:
        self._all = isinstance(algorithm, Robust)
        self._found: dict[int, Payload] = {}

    def add(self, sender: int, payload: Payload) -> None:
        """A neighbor's payload is here, in whatever order they come."""
        self._found[sender] = payload
        if not self._all:
            first = min(self._found)
            self._found = {first: self._found[first]}

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def senders(self) -> list[int]:
        """Those whose weights are taken."""
        return sorted(self._found)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Where, and the block that comes there, valid until the next one.

        The first neighbor's vector; under a robust algorithm the coordinate-wise median of all, which bears as many
        hostile ones as are less than half of them.
        """
        vectors = [payload.vectors["x"] for _, payload in sorted(self._found.items())]
        if self._all:
            return median(vectors)
        return ((here, block) for here, (block,) in side_by_side(vectors))
