"""Batches of one peer's shard, shuffled, cropped and flipped in one gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from p2pfl.config import EvaluationSet
from p2pfl.data.dataset import Dataset
from p2pfl.errors import ConfigError
from p2pfl.seeding import torch_generator

PADDING = 4  # pixels of reflection around an image from which the crop is taken
CHANNELS = 3
EVALUATION_BATCH = 256  # images


@dataclass(frozen=True, eq=False)
class _Epoch:
    """Random draws of one epoch, by position in its order: (n,) tensors on the device."""

    number: int
    order: torch.Tensor  # positions in the shard
    top: torch.Tensor  # 0..8
    left: torch.Tensor  # 0..8
    flip: torch.Tensor  # bool


class Batches:
    """Training batches of one peer, each a pure function of its step.

    So resuming needs no state. On the CPU images stay in the mapped file, whose pages all peers share; on another
    device the shard (not the whole set) is moved there as uint8 once. Each epoch has its own order, and its last,
    incomplete batch is dropped. An epoch of a shard that is smaller than a batch is one batch, in which all samples
    occur equally often, give or take one.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: npt.NDArray[np.int64],
        batch_size: int,
        device: torch.device,
        seed: int,
        peer: int,
    ) -> None:
        """Make the batches of a shard, `indices` (n,).

        Raises ConfigError for a batch without a sample, and a shard without any.
        """
        if batch_size < 1 or not len(indices):
            raise ConfigError(f"--batch-size {batch_size}: peer {peer} has a shard of {len(indices)} samples")
        self.steps_per_epoch = max(1, len(indices) // batch_size)
        self._samples = len(indices)
        self._drawn = max(batch_size, len(indices))  # of an epoch
        self._batch_size = batch_size
        self._device = device
        self._seed = seed
        self._peer = peer
        self._augment = dataset.augment

        shard = torch.tensor(indices, dtype=torch.int64)
        self._labels = dataset.train_labels[shard].to(device)
        if device.type == "cpu":
            self.images = dataset.train_images
            self._rows = shard  # position in the shard -> row of the images
        else:
            self.images = dataset.train_images[shard].to(device)
            self._rows = torch.arange(len(shard), device=device)
        self._normalize = _Normalization(dataset, device)
        self._mirror = _reflection(dataset.train_images.shape[1], device)
        self._epoch = self._draw(0)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch of a step, counted from the start of the run.

        Its epoch is `step // steps_per_epoch`. Returns images, float32 (B, 3, 32, 32) in channels_last, normalized, and
        labels, int64 (B,), both on the device. Training images are cropped from a reflected border of 4 and flipped
        with probability ½, each drawn for itself, where the data set says so.
        """
        number, position = divmod(step, self.steps_per_epoch)
        if number != self._epoch.number:
            self._epoch = self._draw(number)
        here = slice(position * self._batch_size, (position + 1) * self._batch_size)
        return self._normalize(self._gather(here)), self._labels[self._epoch.order[here]]

    def images_of_epoch(self, number: int) -> Iterator[torch.Tensor]:
        """Images of an epoch's batches, as in `batch`."""
        first = number * self.steps_per_epoch
        return (self.batch(step)[0] for step in range(first, first + self.steps_per_epoch))

    def _draw(self, number: int) -> _Epoch:
        """Draw an epoch's order and augmentation, on the CPU for every device alike."""
        generator = torch_generator(self._seed, "order", self._peer, number)
        passes = -(-self._drawn // self._samples)
        orders = [torch.randperm(self._samples, generator=generator) for _ in range(passes)]
        order = torch.cat(orders)[: self._drawn]
        generator = torch_generator(self._seed, "augment", self._peer, number)
        corner = torch.randint(0, 2 * PADDING + 1, (2, self._drawn), generator=generator)
        flip = torch.rand(self._drawn, generator=generator) < 0.5
        top, left = corner.to(self._device)
        return _Epoch(number, order.to(self._device), top, left, flip.to(self._device))

    def _gather(self, here: slice) -> torch.Tensor:
        """Images, uint8 (B, H, W, 3), at positions of the order, cropped and flipped."""
        rows = self._rows[self._epoch.order[here]]
        if not self._augment:
            return self.images.index_select(0, rows)
        _, height, width, _ = self.images.shape
        down = torch.arange(height, device=self._device)
        right = torch.arange(width, device=self._device)
        right = torch.where(self._epoch.flip[here, None], width - 1 - right, right)  # (B, W)
        y = self._mirror[self._epoch.top[here, None] + down]  # (B, H), in the image again
        x = self._mirror[self._epoch.left[here, None] + right]
        # One index a pixel: gathering triples from flat pixels is over twice as fast as images[n, y, x].
        pixels = (rows[:, None, None] * height + y[:, :, None]) * width + x[:, None, :]
        chosen = self.images.view(-1, CHANNELS).index_select(0, pixels.view(-1))
        return chosen.view(-1, height, width, CHANNELS)


class _Normalization:
    """Normalization: uint8 (B, H, W, 3) to float32 (B, 3, H, W) in channels_last.

    (value / 255 - mean) / std.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        std = torch.tensor(dataset.std, dtype=torch.float64)
        mean = torch.tensor(dataset.mean, dtype=torch.float64)
        # Repeated for a whole row of pixels: vectors of 96 instead of 3 make it four times as fast.
        width = dataset.train_images.shape[2]
        self._scale = (1 / (255 * std)).repeat(width).to(device, torch.float32)
        self._shift = (-mean / std).repeat(width).to(device, torch.float32)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        lines = images.view(-1, len(self._scale)).float()
        return lines.mul_(self._scale).add_(self._shift).view(images.shape).permute(0, 3, 1, 2)


def _reflection(side: int, device: torch.device) -> torch.Tensor:
    """Indices of reflected padding: (side + 8,) rows or columns of the image."""
    inside = torch.arange(side, device=device)
    before = inside[1 : PADDING + 1].flip(0)
    after = inside[side - PADDING - 1 : side - 1].flip(0)
    return torch.cat([before, inside, after])


def evaluation_samples(dataset: Dataset, on: EvaluationSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels with the test or validation set in them, and its places there.

    The places are int64.
    """
    if on == "validation" and dataset.held_out is not None:
        return dataset.train_images, dataset.train_labels, dataset.held_out
    return dataset.test_images, dataset.test_labels, torch.arange(len(dataset.test_labels))


# Six parameters with the size of a batch, which tests vary.
def evaluation_batches(
    dataset: Dataset,
    device: torch.device,
    samples: int,
    seed: int,
    batch_size: int = EVALUATION_BATCH,
    on: EvaluationSet = "test",
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of the test or validation set, in the form of `Batches.batch`.

    Images are not augmented. The last batch may be smaller. `samples` 0, or more than there are, means the whole set;
    otherwise that many, drawn from `seed` alone and so the same in every peer and round. Raises ConfigError for a
    negative number.
    """
    images, labels, chosen = evaluation_samples(dataset, on)
    total = len(chosen)
    if samples < 0:
        raise ConfigError(f"{samples} {on} samples: must be 0 (all) to {total}")
    if 0 < samples < total:
        order = torch.randperm(total, generator=torch_generator(seed, "evaluation"))
        chosen = chosen[order[:samples].sort().values]
    normalize = _Normalization(dataset, device)
    parts = (chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size))
    return ((normalize(images[part].to(device)), labels[part].to(device)) for part in parts)
