"""Bootstrap of a peer whose weights are lost or outdated from its neighbors'."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from p2pfl.algorithms.blockwise import side_by_side
from p2pfl.algorithms.rules import median
from p2pfl.payload import Payload


class Bootstrap:
    """Neighbors' payloads for a bootstrap.

    `robust`: all are kept, since no neighbor is trusted by itself; otherwise that of the first neighbor.
    """

    def __init__(self, robust: bool) -> None:
        self._robust = robust
        self._found: dict[int, Payload] = {}

    def add(self, sender: int, payload: Payload) -> None:
        """Take a neighbor's payload; they come in any order."""
        self._found[sender] = payload
        if not self._robust:
            first = min(self._found)
            self._found = {first: self._found[first]}

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def senders(self) -> list[int]:
        """Neighbors whose weights are taken."""
        return sorted(self._found)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the new vector with their blocks, each valid until the next.

        The first neighbor's vector; under a robust algorithm the coordinate-wise median of all, which tolerates as many
        malicious ones as are less than half of them.
        """
        vectors = [payload.vectors["x"] for _, payload in sorted(self._found.items())]
        if self._robust:
            return median(vectors)
        return ((here, block) for here, (block,) in side_by_side(vectors))
