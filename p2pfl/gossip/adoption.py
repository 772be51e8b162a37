"""The weights that a peer begins with whose own are lost, or too old to go on with: its neighbors'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from p2pfl.gossip.blockwise import side_by_side
from p2pfl.gossip.interface import Algorithm, Payload
from p2pfl.gossip.median import median
from p2pfl.gossip.robust import Robust


def adopted(algorithm: Algorithm[Any], found: Sequence[Payload]) -> Iterator[tuple[slice, Tensor]]:
    """Where, and the block that comes there, valid until the next one. `found`: neighbors' payloads, at least one.

    The first neighbor's vector; under a robust algorithm, where no neighbor is trusted by itself, the coordinate-wise
    median of all, which bears as many hostile ones as are less than half of them.
    """
    vectors = [payload.vectors["x"] for payload in found]
    if isinstance(algorithm, Robust):
        return median(vectors)
    return ((here, block) for here, (block,) in side_by_side(vectors[:1]))
