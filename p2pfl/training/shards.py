"""Shards of a run: its partition applied to its data set and its processes."""

from __future__ import annotations

from p2pfl import data
from p2pfl.config import RunConfig
from p2pfl.modes import Roles


def split_of_run(config: RunConfig, roles: Roles, dataset: data.Dataset) -> data.Split:
    """Split a run's training samples among the processes that train.

    Every process computes the split of all. Raises ConfigError where --partition does not fit the data set.
    """
    if roles.mode.pools_data:
        return data.pooled(len(dataset.train_labels))
    return data.partition(
        data.Request(
            spec=config.data.partition,
            labels=dataset.train_labels.numpy(),
            names=tuple(roles.topology.names[: roles.shards]),
            seed=config.record.seed,
            classes=len(dataset.classes),
            min_samples=config.data.min_samples,
        )
    )
