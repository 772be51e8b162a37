"""Noise in place of images, for the trial of a model before the data are read."""

from __future__ import annotations

import torch
from torch import Tensor

from p2pfl import data


def noise_dataset(count: int, classes: int, evaluated: int) -> data.Dataset:
    """A data set of `count` random training images, their classes in turn, and `evaluated` test images."""
    generator = torch.Generator().manual_seed(0)

    def draw(images: int) -> tuple[Tensor, Tensor]:
        shape = (images, data.IMAGE_SIDE, data.IMAGE_SIDE, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pixels, torch.arange(images) % classes

    (train_images, train_labels), (test_images, test_labels) = draw(count), draw(evaluated)
    return data.Dataset(
        name="noise",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(str(number) for number in range(classes)),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augment=False,
    )


def varied_images(count: int) -> Tensor:
    """Noise images, normalized, in channels_last, that differ in brightness and contrast, as outputs must show."""
    side, generator = data.IMAGE_SIDE, torch.Generator().manual_seed(0)
    contrast, brightness = (torch.linspace(low, high, count).view(count, 1, 1, 1) for low, high in ((1, 0.5), (0, 0.5)))
    images = torch.randn(count, 3, side, side, generator=generator) * contrast + brightness
    return images.contiguous(memory_format=torch.channels_last)
