"""A decoded data set, and the one safetensors file from which every CPU peer maps the same pages."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from p2pfl.data.content import arrays_content
from p2pfl.errors import DataError, one_line, unwritable
from p2pfl.util.files import check_regular

IMAGE_SIDE = 32  # pixels: every data set is brought to what VGG's five poolings reduce to 1×1
FORMAT = 2  # of the cache file; part of its name, so that a new format never reads an old file
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")
BLOCK = 1024  # images converted at once while statistics are computed


@dataclass(frozen=True, eq=False)
class Dataset:
    """Everything about the data that a run needs.

    Images are uint8 (N, 32, 32, 3), labels int64 (N,) in 0..len(classes)-1. `mean` and `std` are those of
    the training images, a channel each, on the scale 0..1. `augment` says whether crop and flip suit the
    data: they do for photographs and hurt digits. `notes`: what decoding found worth knowing, a line each.
    `content` is a digest of what the data were made from, by which peers on other machines tell whether theirs is the
    same; empty until `save` takes it from the arrays.
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


def statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (N, H, W, 3), on the scale 0..1.

    The sums are whole numbers below 2⁵³, so float64 holds them exactly. A constant channel gets a standard
    deviation of 1, because it is divided by.
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
    """Whether all pixels of all images (N, H, W, 3) are the same."""
    parts = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    return all(bool((part == images[0, 0, 0]).all()) for part in parts)


def save(dataset: Dataset, path: Path) -> None:
    """Write the cache file at once or not at all; two processes may do so at the same time.

    Raises DataError where the file cannot be written.
    """
    about = {
        "name": dataset.name,
        "classes": dataset.classes,
        "mean": dataset.mean,
        "std": dataset.std,
        "augment": dataset.augment,
        "notes": dataset.notes,
        "content": dataset.content or content_of_arrays(dataset),
    }
    tensors = {name: getattr(dataset, name).contiguous() for name in TENSORS}
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, unfinished, metadata={"p2pfl": json.dumps(about)})
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{unwritable(path, error)}, or choose another --data-dir") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def load(path: Path) -> Dataset:
    """Map a cache file: the tensors are views of the file's pages, which all processes share.

    Raises DataError where the file is missing, damaged or of another kind.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
            tensors = {name: file.get_tensor(name) for name in TENSORS}
        dataset = Dataset(
            name=str(about["name"]),
            classes=tuple(about["classes"]),
            mean=tuple(about["mean"]),
            std=tuple(about["std"]),
            augment=bool(about["augment"]),
            notes=tuple(about.get("notes", ())),
            content=str(about["content"]),
            **tensors,
        )
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such cached data set; prepare it again") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a cached data set ({one_line(error)}); delete it, and it is made again"
        ) from error
    problem = invalid(dataset)
    if problem:
        raise DataError(f"{path}: {problem}; delete it, and it is made again")
    return dataset


def content_of_arrays(dataset: Dataset) -> str:
    """The digest of a data set that was made from arrays as they are."""
    arrays = (getattr(dataset, name).numpy() for name in TENSORS)
    return arrays_content((dataset.classes, dataset.augment), arrays)


def invalid(dataset: Dataset) -> str:
    """What is wrong with a data set, in words, or an empty string."""
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
