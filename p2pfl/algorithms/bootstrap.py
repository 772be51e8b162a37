"""Bootstrap of a peer whose weights are lost or outdated from its neighbors'."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from p2pfl.algorithms.blockwise import side_by_side
from p2pfl.algorithms.rules import median
from p2pfl.payload import Payload


class Bootstrap:
    """Neighbors' payloads for a bootstrap.

    `robust`: all are kept, since no neighbor is trusted by itself; otherwise that of the first neighbor. `scale_of`:
    `Algorithm.model_scale`.
    """

    def __init__(self, robust: bool, scale_of: Callable[[Payload], float] = lambda payload: 1.0) -> None:
        self._robust = robust
        self._scale_of = scale_of
        self._found: dict[int, Payload] = {}

    def add(self, sender: int, payload: Payload) -> None:
        """Take a neighbor's payload, if it is of use; they come in any order."""
        if self._scale_of(payload) == 0.0:
            return
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
        scale = self._scale_of(next(iter(self._found.values())))
        return ((here, block if scale == 1.0 else block * scale) for here, (block,) in side_by_side(vectors))
