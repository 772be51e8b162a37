"""Shards of a run: its partition applied to its data set and its processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p2pfl import data, registry
from p2pfl.config import RunConfig
from p2pfl.modes import Roles


def dataset_of_run(config: RunConfig, dataset: data.Dataset) -> data.Dataset:
    """Data set with what a run may read of it.

    Its validation set is held back, and there is no test set with --no-test. The statistics of the channels stay those
    of all training samples. Raises ConfigError for an empty validation set.
    """
    dataset = data.hold_out(dataset, config.data.validation, config.record.seed)
    return dataset if config.data.test else data.without_test(dataset)


def split_of_run(config: RunConfig, roles: Roles, dataset: data.Dataset) -> data.Split:
    """Split a run's training samples among the processes that train.

    Every process computes the split of all. What is held back is nobody's: a rule deals out the other samples. Where
    numbers of samples are given, by a file, a function or the data set, they are those of the whole training set, and
    what is held back is taken from each list. Raises ConfigError where --partition does not fit the data set.
    """
    dataset = dataset_of_run(config, dataset)
    everything, kept = np.arange(len(dataset.train_labels)), data.remaining(dataset)
    entry = registry.entry_of("partition", config.data.partition)
    names_samples = entry is None or entry.names_samples
    dealt = everything if names_samples else kept
    owners = dataset.train_owners
    request = data.Request(
        spec=config.data.partition,
        labels=dataset.train_labels.numpy()[dealt],
        names=tuple(roles.topology.names[: roles.shards]),
        seed=config.record.seed,
        classes=len(dataset.classes),
        min_samples=config.data.min_samples,
        owners=None if owners is None else owners.numpy()[dealt],
        owner_names=dataset.owners,
    )
    split = data.pooled(request) if roles.mode.pools_data else data.partition(request)
    if dataset.held_out is None:
        return split
    shards = tuple(np.intersect1d(dealt[shard], kept, assume_unique=True) for shard in split.shards)
    bare = [name for name, shard in zip(request.names, shards, strict=True) if not len(shard)]
    if bare:
        raise request.refusal(f"all samples of peer {bare[0]} are held back (--validation); give it more")
    return replace(split, shards=shards, notes=(*split.notes, *data.holdout_notes(dataset, config.data.validation)))


def own_split_of(config: RunConfig, dataset: data.Dataset, sizes: list[int], index: int) -> data.Split:
    """Split of data that are each peer's own, as one of them sees it.

    As `data.own_split`. `sizes`: training samples of each, without those that are held back.
    """
    dataset = dataset_of_run(config, dataset)
    split = data.own_split(sizes, index, data.remaining(dataset))
    return replace(split, notes=(*split.notes, *data.holdout_notes(dataset, config.data.validation)))
