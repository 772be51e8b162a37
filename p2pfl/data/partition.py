"""Partition of the training samples into shards, by a rule of the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from p2pfl import registry
from p2pfl.data.partitions import given
from p2pfl.data.partitions.request import Indices, Request, Split

__all__ = ["Request", "Split", "own_split", "partition", "pooled"]

Rule = Callable[[Request], Split]
"""A partition of the registry: it gives every peer at least one sample, and no sample to two."""


def partition(request: Request) -> Split:
    """Split the samples as `request.spec` says.

    Raises ConfigError where its argument does not fit the data set, or there are more peers than samples.
    """
    registry.check("partition", request.spec)
    if request.peers < 1:
        raise request.refusal(f"{request.peers} peers; at least one is needed")
    if request.peers > len(request.labels):
        raise request.refusal(
            f"{request.peers} peers cannot share {len(request.labels)} training samples; "
            "use a smaller topology or a larger data set"
        )
    entry = registry.entry_of("partition", request.spec)
    rule: Rule = given.from_function if entry is None else registry.load(entry)
    return rule(request)


def own_split(sizes: Sequence[int], peer: int, samples: Indices | None = None) -> Split:
    """Split of data that are each peer's own, as one of them sees it.

    `samples`: numbers of those of its samples that it trains on; all that it has by default. The shards of the others
    are empty here, and only their sizes are known.
    """
    own = np.arange(sizes[peer], dtype=np.int64) if samples is None else samples
    shards = tuple(own if other == peer else own[:0] for other in range(len(sizes)))
    return Split(shards, known_sizes=tuple(sizes))


def pooled(request: Request) -> Split:
    """One shard of all samples, or of all that a file gives to anybody."""
    if registry.entry_of("partition", request.spec) is registry.PARTITIONS["file"]:
        return given.pooled_file(request)
    return Split((np.arange(len(request.labels), dtype=np.int64),))
