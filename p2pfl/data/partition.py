"""Partitions of the training samples into one shard a peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pfl import registry
from p2pfl.errors import ConfigError
from p2pfl.seeding import numpy_generator

Indices = npt.NDArray[np.int64]


def partition_iid(labels: npt.NDArray[Any], peers: int, seed: int) -> list[Indices]:
    """Independent and identically distributed shards (McMahan et al. 2017, section 3).

    `labels` (N,) gives the number of samples. Returns one sorted index array a peer: disjoint, together all
    of 0..N-1, in sizes that differ by at most one.
    """
    order = numpy_generator(seed, "partition").permutation(len(labels)).astype(np.int64)
    return [np.sort(shard) for shard in np.array_split(order, peers)]


Partition = Callable[[npt.NDArray[Any], int, int], list[Indices]]
"""A partition of the registry: labels (N,), number of peers and seed in, each peer's sample numbers out."""


def partition(name: str, labels: npt.NDArray[Any], peers: int, seed: int) -> list[Indices]:
    """Shards of the named partition for samples with these labels (N,).

    Raises ConfigError for an unknown name, fewer than one peer, or more peers than samples.
    """
    registry.check("partition", name)
    if peers < 1:
        raise ConfigError(f"--partition {name}: {peers} peers; at least one is needed")
    if peers > len(labels):
        raise ConfigError(
            f"--partition {name}: {peers} peers cannot share {len(labels)} training samples; "
            "use a smaller topology or a larger data set"
        )
    split: Partition = registry.load(registry.PARTITIONS[name])
    return split(labels, peers, seed)
