"""Shards of a run before it starts: sizes, classes, and steps of a round."""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2pfl import data
from p2pfl.config import PictureOptions, RunConfig
from p2pfl.modes import Roles
from p2pfl.training import local_steps, with_common_steps

PLAIN_PARTITION = "iid"


def is_own_alone(config: RunConfig, index: int | None) -> bool:
    """Whether the only process on this machine has data that nobody else has."""
    return index is not None and config.data.partition == "own"


def pictures_of(config: RunConfig, index: int | None) -> PictureOptions:
    """Options of decoding an image folder, which a peer alone has to itself."""
    return replace(config.data.pictures, by_peer=config.data.pictures.by_peer and index is None)


def needs_split(config: RunConfig, roles: Roles) -> bool:
    """Whether only a split of the decoded data set tells the sizes of the shards.

    Plain SGD has all samples, or all that a file gives to anybody.
    """
    if roles.mode.pools_data:
        return config.data.partition_file is not None
    return config.data.partition != PLAIN_PARTITION


def training_samples(config: RunConfig, info: data.DatasetInfo) -> int:
    """Samples that are trained on, as far as known before the data set is decoded.

    Raises ConfigError for an empty validation set.
    """
    total, fraction = info.train_samples, config.data.validation
    if fraction == 0:
        return total
    held = data.held_out_number(fraction, total)
    data.check_held_out(fraction, held, total)
    return total - held


@dataclass(frozen=True)
class CheckedSplit:
    """A run's split, and the samples of each shard by class.

    `held_out`: how many are held back for validation.
    """

    split: data.Split
    class_counts: list[list[int]]
    held_out: int = 0

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(self.split.sizes)


@dataclass(frozen=True)
class ShardSizes:
    """Sizes of the shards, and their samples by class where these are known."""

    sizes: tuple[int, ...]
    mean: int
    class_counts: tuple[tuple[int, ...], ...] = ()

    @property
    def smallest(self) -> int:
        return min(self.sizes)

    @property
    def largest(self) -> int:
        return max(self.sizes)


def shard_sizes(samples: int, peers: int, split: CheckedSplit | None) -> ShardSizes:
    """Sizes of the shards; those of equal ones where there is no split yet."""
    if split is None:
        return ShardSizes(tuple((samples + peers - 1 - peer) // peers for peer in range(peers)), samples // peers)
    counts = tuple(map(tuple, split.class_counts))
    return ShardSizes(tuple(split.split.sizes), split.split.mean_size, counts)


def steps_of_shard(config: RunConfig, shard: int, mean: int) -> int:
    """Steps of a shard of this size in a round, where the shards have this mean."""
    training = with_common_steps(config, mean).training
    return local_steps(training, max(1, shard // training.batch_size))


def split_notes(config: RunConfig, is_split: bool, split: CheckedSplit | None) -> tuple[str, ...]:
    if is_split and split is None:
        return (f"--partition {config.data.partition}: sizes and classes are known once the data set is downloaded",)
    return () if split is None else split.split.notes
