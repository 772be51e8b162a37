"""Partition of the training samples into shards, by a rule of the registry."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from p2pfl import registry
from p2pfl.data.partitions.request import Request, Split

__all__ = ["Request", "Split", "partition", "pooled"]

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
    rule: Rule = registry.load(registry.PARTITIONS[request.spec.partition(":")[0]], "--partition")
    return rule(request)


def pooled(samples: int) -> Split:
    """All samples in one shard, for training on pooled data."""
    return Split((np.arange(samples, dtype=np.int64),))
