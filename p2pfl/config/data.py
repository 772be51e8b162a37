"""Section of settings of the data: data set, partition, decoding, augmentation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from p2pfl import registry
from p2pfl.config.fields import check, one_of, positive, unset
from p2pfl.config.partition import checked_partition
from p2pfl.config.pictures import (
    COLOR_REMEDY,
    RANGE_REMEDY,
    PictureOptions,
    color_text,
    parse_color,
    parse_range,
    range_text,
)

MOST_SAMPLES = 1_000_000_000
EvaluationSet = Literal["test", "validation"]
"""Samples on which a model is evaluated."""


@dataclass(frozen=True)
class DataConfig:
    """Data set, its partition and its augmentation."""

    dataset: Annotated[str, one_of("dataset")] = "cifar10"
    """Data set."""
    data_dir: Annotated[str | None, unset("DIR", "p2pfl in your cache folder")] = None
    """Folder of downloads and decoded data sets."""
    partition: Annotated[str, one_of("partition")] = "iid"
    """Partition of the training samples among the peers."""
    min_samples: Annotated[int | None, unset("INT", "10 with dirichlet and quantity:ALPHA, else 1")] = None
    """Least number of samples of a peer, where a partition draws the sizes."""
    validation: float = 0.0
    """Fraction of the training set that is held back from training, as a validation set; evaluations before the last
    round are then on it."""
    test: bool = True
    """Evaluate on the test set at the end; --no-test: never, and on the validation set instead."""
    image_range: Annotated[str | None, unset("LOW,HIGH", "the range of the file's type; none for 32 bits")] = None
    """Values that become black and white in imagefolder pictures with more than 8 bits, such as 0,4095; 32-bit and
    float pictures need it."""
    augment: Literal["auto", "on", "off"] = "auto"
    """Shift and mirror training images at random: auto (as suits the data set; imagefolder: on), on, or off."""
    background: str = "white"
    """Color behind transparent pictures of an imagefolder: a CSS color name or #rrggbb."""

    def __post_init__(self) -> None:
        registry.check("dataset", self.dataset)
        object.__setattr__(self, "partition", checked_partition(self.partition))
        positive(self, MOST_SAMPLES, "min_samples")
        check(0 <= self.validation < 1, "validation", self.validation, "must be 0 (none) or more, and less than 1")
        if self.image_range is not None:
            value_range = parse_range(self.image_range)
            check(value_range is not None, "image_range", self.image_range, RANGE_REMEDY)
            # One spelling of equal values, since settings of processes and runs are compared as text.
            object.__setattr__(self, "image_range", value_range and range_text(value_range))
        color = parse_color(self.background)
        check(color is not None, "background", self.background, COLOR_REMEDY)
        object.__setattr__(self, "background", color and color_text(color))

    @property
    def kind(self) -> str:
        """Name of the data set without its location, or "module:function"."""
        known = registry.entry_of("dataset", self.dataset) is not None
        return self.dataset.partition(":")[0] if known else registry.OWN["dataset"]

    @property
    def located(self) -> str:
        """Data set with an absolute path, if it is a folder, to resume from any directory."""
        kind, _, folder = self.dataset.partition(":")
        entry = registry.entry_of("dataset", self.dataset)
        is_folder = entry is not None and entry.argument == "DIR" and folder != ""
        return f"{kind}:{os.path.abspath(os.path.expanduser(folder))}" if is_folder else self.dataset

    @property
    def pictures(self) -> PictureOptions:
        """Options of decoding an image folder."""
        value_range = None if self.image_range is None else parse_range(self.image_range)
        background = parse_color(self.background) or PictureOptions().background
        return PictureOptions(value_range, background, by_peer=self.partition == "own")

    @property
    def partition_file(self) -> str | None:
        """Path of the file that the partition is read from, if it is."""
        is_file = registry.entry_of("partition", self.partition) is registry.PARTITIONS["file"]
        return self.partition.partition(":")[2] if is_file else None
