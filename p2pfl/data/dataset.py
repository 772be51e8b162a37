"""Data sets: sources not yet read, decoded samples, digests of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

IMAGE_SIDE = 32  # pixels: every data set is brought to what VGG's five poolings reduce to 1×1
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
BLOCK = 1024  # images converted at once while statistics are computed

Progress = Callable[[str, int, int], None]
"""A report of progress: what is being done, how much of it is done, and the total."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Decoded samples, their classes and statistics.

    Images are uint8 (N, 32, 32, 3), labels int64 (N,) in 0..len(classes)-1. `mean` and `std` are those of
    the training images, a channel each, on the scale 0..1. `augment` says whether crop and flip suit the
    data: they do for photographs and hurt digits. `notes`: what decoding found worth knowing, a line each.
    `content` is a digest of what the data were made from, by which peers on other machines tell whether theirs is the
    same; empty until `save` takes it from the arrays. `owners`: labels of the peers whose the samples are, where the
    data say so, and `train_owners` the place of each sample's, int64 (N,). `held_out`: numbers of the training samples
    that are held back for validation, int64 in order; None without a validation set.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool
    notes: tuple[str, ...] = ()
    content: str = ""
    owners: tuple[str, ...] = ()
    train_owners: torch.Tensor | None = None
    held_out: torch.Tensor | None = None


@dataclass(frozen=True)
class Source:
    """A data set that was found, but not read yet; `key` names its cache file.

    The key changes with the source. `notes`: oddities, a line each. `is_judged_by_reading`: whether a dry
    run has to decode it, because only that tells whether it can be used. `is_mirrored`: a user's own data
    that are augmented unless `--augment` says otherwise, which is noted. `needs_download`: its files are not on this
    machine yet.
    """

    name: str
    key: str
    train_samples: int
    test_samples: int
    classes: tuple[str, ...]
    read: Callable[[Progress], Dataset]
    notes: tuple[str, ...] = ()
    is_judged_by_reading: bool = False
    is_mirrored: bool = False
    needs_download: bool = False


def statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, H, W, 3).

    On the scale 0..1. The sums are whole numbers below 2⁵³, so float64 holds them exactly. A constant channel gets a
    standard deviation of 1, because it is divided by.
    """
    total = torch.zeros(images.shape[-1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(images), BLOCK):
        values = images[start : start + BLOCK].reshape(-1, images.shape[-1]).double()
        total += values.sum(0)
        squares += values.square_().sum(0)
    pixels = images.numel() // images.shape[-1]
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp_(min=0).sqrt()
    std = torch.where(std > 0, std, 255.0)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def is_one_color(images: torch.Tensor) -> bool:
    """Return whether all pixels of all images (N, H, W, 3) are the same."""
    parts = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    return all(bool((part == images[0, 0, 0]).all()) for part in parts)


def arrays_content(metadata: Iterable[object], arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    """Digest of arrays, their types and shapes, and of further `metadata`."""
    digest = hashlib.sha256(repr(tuple(metadata)).encode(errors="surrogatepass"))
    for array in arrays:
        plain = np.ascontiguousarray(array)
        digest.update(f"\0{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def content_of_arrays(dataset: Dataset) -> str:
    """Digest of a data set that was made from arrays as they are."""
    arrays = [getattr(dataset, name).numpy() for name in TENSORS]
    about: tuple[object, ...] = (dataset.classes, dataset.augment)
    if dataset.train_owners is not None:
        arrays, about = [*arrays, dataset.train_owners.numpy()], (*about, dataset.owners)
    return arrays_content(about, arrays)


def dataset_problem(dataset: Dataset) -> str:
    """Reason why a data set cannot be used, in words; empty if it can."""
    for split in ("train", "test"):
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        if images.dtype != torch.uint8 or images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE, 3):
            kind = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            return f"{split}_images must be uint8 (N, {IMAGE_SIDE}, {IMAGE_SIDE}, 3), not {kind}"
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            return (
                f"{split}_labels must be one integer for each of {len(images)} images, "
                f"not of shape {tuple(labels.shape)}"
            )
        if not len(images):
            return f"{split}_images holds no image"
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(dataset.classes):
            number = len(dataset.classes)
            span = f"{split}_labels run from {low} to {high}, but there are {number} classes, counted 0 to {number - 1}"
            return f"{span}: subtract {low} from the labels" if low > 0 and high - low < number else span
    return ""
