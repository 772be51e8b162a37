"""Bootstrap of a peer whose weights are lost or outdated from its neighbors'."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from p2pfl.algorithms.blockwise import Pieces, side_by_side
from p2pfl.algorithms.rules import median
from p2pfl.payload import Payload


class Bootstrap:
    """Neighbors' models for a bootstrap.

    `robust`: all are kept, since no neighbor is trusted by itself; otherwise that of the first neighbor. `model_of`:
    `Algorithm.model_of`.
    """

    def __init__(
        self, robust: bool, model_of: Callable[[Payload], Pieces | None] = lambda payload: payload.vectors["x"]
    ) -> None:
        self._robust = robust
        self._model_of = model_of
        self._found: dict[int, Pieces] = {}

    def add(self, sender: int, payload: Payload) -> None:
        """Take a neighbor's payload, if it is of use; they come in any order."""
        if not self._robust and any(known < sender for known in self._found):
            return
        if (model := self._model_of(payload)) is not None:
            self._found = {**self._found, sender: model} if self._robust else {sender: model}

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
        vectors = [model for _, model in sorted(self._found.items())]
        if self._robust:
            return median(vectors)
        return ((here, block) for here, (block,) in side_by_side(vectors))
