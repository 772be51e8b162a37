"""Validation set: a seeded part of the training set that nobody trains on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from p2pfl.data.dataset import Dataset
from p2pfl.data.partitions.request import Counts, Indices
from p2pfl.errors import ConfigError
from p2pfl.seeding import numpy_generator
from p2pfl.util.text import some


def hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Data set with a fraction of its training samples held back for validation.

    With a fraction of 0 it is the same one. Their number is rounded, and each class has its share of it, give or take
    one sample, except that one sample of a class at least stays in training; where the data set says whose its samples
    are, this holds for each owner. Which samples these are depends on the data set and the seed alone, not on
    partition, peers or mode. Raises ConfigError where no sample would be held back.
    """
    if fraction == 0 or dataset.held_out is not None:
        return dataset
    labels, generator = dataset.train_labels.numpy(), numpy_generator(seed, "validation")
    chosen = []
    for members in _by_owner(dataset):
        own = labels[members]
        shares = _shares(np.bincount(own, minlength=len(dataset.classes)), fraction, generator)
        chosen += [generator.permutation(members[own == label])[:share] for label, share in enumerate(shares)]
    numbers = np.sort(np.concatenate(chosen))
    check_held_out(fraction, len(numbers), len(labels))
    return replace(dataset, held_out=torch.from_numpy(numbers))


def without_test(dataset: Dataset) -> Dataset:
    """Data set with an empty test set, so that nothing can be measured on it."""
    return replace(dataset, test_images=dataset.test_images[:0], test_labels=dataset.test_labels[:0])


def held_out_number(fraction: float, samples: int) -> int:
    """Number of samples held back, as far as one can know without the classes."""
    return int(fraction * samples + 0.5)


def check_held_out(fraction: float, number: int, samples: int) -> None:
    """Raise ConfigError if a validation set has no sample, or training none."""
    if 0 < number < samples:
        return
    what = "no sample would be left to train on" if number else "no sample would be held back"
    remedy = "smaller" if number else "larger"
    raise ConfigError(f"--validation {fraction:g}: {what}, of {samples:,}; choose a {remedy} fraction")


def remaining(dataset: Dataset) -> Indices:
    """Numbers of the training samples that are not held back, in order."""
    kept = np.ones(len(dataset.train_labels), dtype=bool)
    if dataset.held_out is not None:
        kept[dataset.held_out.numpy()] = False
    return np.flatnonzero(kept)


def holdout_notes(dataset: Dataset, fraction: float) -> tuple[str, ...]:
    """Note on the classes without a validation sample, if there are any."""
    if dataset.held_out is None:
        return ()
    counts = torch.bincount(dataset.train_labels[dataset.held_out], minlength=len(dataset.classes)).tolist()
    absent = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if not absent:
        return ()
    return (f"--validation {fraction:g}: no validation sample of class {some(absent, 5)}",)


def _by_owner(dataset: Dataset) -> Iterator[Indices]:
    """Numbers of the training samples, of each owner for itself."""
    if dataset.train_owners is None:
        yield np.arange(len(dataset.train_labels))
        return
    owners = dataset.train_owners.numpy()
    for place in range(len(dataset.owners)):
        yield np.flatnonzero(owners == place)


def _shares(sizes: Counts, fraction: float, generator: np.random.Generator) -> Counts:
    """Samples of each class that are held back.

    By largest remainders, of which equal ones are drawn.
    """
    quotas = fraction * sizes
    most = np.maximum(sizes - 1, 0)
    shares: Counts = np.minimum(np.floor(quotas).astype(np.int64), most)
    order = np.lexsort((generator.permutation(len(sizes)), shares - quotas))
    order = order[shares[order] < most[order]]
    missing = held_out_number(fraction, int(sizes.sum())) - int(shares.sum())
    shares[order[: max(missing, 0)]] += 1
    return shares
