"""Which training samples each peer holds: labels in, one list of indices a peer out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

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


PARTITIONS: dict[str, Callable[[npt.NDArray[Any], int, int], list[Indices]]] = {"iid": partition_iid}


def partition(name: str, labels: npt.NDArray[Any], peers: int, seed: int) -> list[Indices]:
    """The shards of the named partition for samples with these labels (N,).

    Raises ConfigError for an unknown name, fewer than one peer, or more peers than samples.
    """
    if name not in PARTITIONS:
        raise ConfigError(f"--partition {name}: unknown; choose {', '.join(PARTITIONS)}")
    if peers < 1:
        raise ConfigError(f"--partition {name}: {peers} peers; at least one is needed")
    if peers > len(labels):
        raise ConfigError(
            f"--partition {name}: {peers} peers cannot share {len(labels)} training samples; "
            "use a smaller topology or a larger data set"
        )
    return PARTITIONS[name](labels, peers, seed)
