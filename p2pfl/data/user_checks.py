"""Checks of a user's data: arrays, labels, class names, augmentation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from p2pfl.data.dataset import IMAGE_SIDE
from p2pfl.util.text import some

_MOST_GAPS = 100  # that are counted
_SHAPE = (IMAGE_SIDE, IMAGE_SIDE, 3)
_ORDERLESS = (set, frozenset)
_TEXTUAL = (str, int, float, np.integer, np.floating)  # whose text is the same in every process


class EntryError(Exception):
    """An entry that cannot be used, what is wrong, and the remedy."""


def image_problem(images: npt.NDArray[Any]) -> str:
    """Reason why images are not uint8 (N, 32, 32, 3), and remedy; empty if they are."""
    if images.dtype == np.uint8 and images.shape[1:] == _SHAPE:
        return ""
    remedies = [remedy for remedy in (_value_remedy(images), _shape_remedy(images.shape)) if remedy]
    helps = f": {', then '.join(remedies)}" if remedies else ""
    return f"must be uint8 (N, {IMAGE_SIDE}, {IMAGE_SIDE}, 3), not {images.dtype} {images.shape}{helps}"


def label_kind_problem(labels: npt.NDArray[Any]) -> str:
    """Reason why labels are not one integer an image, and remedy; empty if they are."""
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        return f"must be integers (N,), not {labels.dtype} {labels.shape}: if they are one-hot, take labels.argmax(1)"
    if labels.ndim == 2 and labels.shape[1] == 1:
        return f"must be integers (N,), not of shape {labels.shape}: take labels.reshape(-1)"
    if labels.dtype.kind in "iu":
        return "" if not labels.size or int(labels.max()) < 2**63 else "must be smaller numbers"
    if labels.dtype.kind in "SUO":
        return "must be integers from 0, not names: take numpy.unique(labels, return_inverse=True)[1], names as classes"
    if labels.dtype.kind == "f" and labels.size and (labels == np.floor(labels)).all():
        return f"must be integers from 0, not {labels.dtype}: take labels.astype('int64')"
    return f"must be integers from 0, not {labels.dtype}"


def is_masked(value: Any) -> bool:
    """Return whether an array, or one in nested lists, has masked elements."""
    if isinstance(value, list | tuple):
        return any(is_masked(item) for item in value if isinstance(item, np.ma.MaskedArray | list | tuple))
    return bool(np.ma.is_masked(value))


def label_values(labels: torch.Tensor) -> list[int]:
    """Labels that occur, in ascending order."""
    values: list[int] = np.unique(labels.numpy()).tolist()
    return values


def label_problem(labels: torch.Tensor) -> str:
    """Reason why training labels are not 0, 1, 2, … without a gap; empty if they are.

    A label that only the test set has, and a negative one, are found by other checks.
    """
    there = label_values(labels)
    if not there or there[0] < 0 or there == list(range(len(there))):
        return ""
    span = f"train_labels run from {there[0]} to {there[-1]}"
    named = "or return classes, a name for each label from 0"
    if there[-1] - there[0] == len(there) - 1:
        return f"{span}, not from 0: subtract {there[0]} from train_labels and test_labels, {named}"
    known = set(there)
    gaps = list(islice((str(label) for label in range(there[-1]) if label not in known), _MOST_GAPS))
    return (
        f"{span}, but no training image has the label {some(gaps)}: number the "
        f"classes 0 to {len(there) - 1} (numpy.unique(labels, return_inverse=True)[1]), {named}"
    )


def class_names(given: Any) -> tuple[str, ...]:
    """Names of the labels, from the entry `classes`.

    Raises EntryError for what has no order, such as a set, whose order differs between processes, or can be read once
    only, and for names that are no text or are equal.
    """
    if isinstance(given, np.ndarray | torch.Tensor) and given.ndim == 1 and not isinstance(given, np.ma.MaskedArray):
        given = given.tolist()
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Sequence):
        kind = type(given).__name__
        why = ", which has no order" if isinstance(given, _ORDERLESS) else ""
        raise EntryError(f"classes must be a list of names, the first that of label 0, not a {kind}{why}")
    names: dict[str, int] = {}
    for label, value in enumerate(given):
        if not isinstance(value, _TEXTUAL):
            raise EntryError(f"classes: the name of label {label} is a {type(value).__name__}, not text or a number")
        # Two Unicode forms of one text look the same wherever they are shown.
        name = unicodedata.normalize("NFC", str(value))
        if not name.strip():
            raise EntryError(f"classes: the name of label {label} is empty")
        if name in names:
            raise EntryError(
                f"classes: {name!r} names the labels {names[name]} and {label}: give each class another name, or its "
                "images one label"
            )
        names[name] = label
    return tuple(str(value) for value in given)


def is_augmented(given: Any) -> bool:
    """Value of the entry `augment`. Raises EntryError unless it is a bool."""
    if not isinstance(given, bool | np.bool_):
        raise EntryError(f"augment must be True or False, not {str(given)[:40]!r} ({type(given).__name__})")
    return bool(given)


def _value_remedy(images: npt.NDArray[Any]) -> str:
    """Remedy that makes the values uint8 0..255, judged by their type and range."""
    if images.dtype == np.uint8 or not images.size or images.dtype.kind not in "biuf":
        return ""
    if images.dtype.kind == "b":
        return "multiply by 255 (they are true or false)"
    low, high = images.min(), images.max()
    held = f"they run from {low:g} to {high:g}"
    if not (np.isfinite(low) and np.isfinite(high)):
        return "replace the values that are not finite numbers"
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return f"take (255 * images).round().astype('uint8') ({held})"
    if images.dtype.kind == "f" and low >= -1 and high <= 1:
        return f"take (127.5 * (images + 1)).round().astype('uint8') ({held})"
    if low >= 0 and high <= 255:
        return f"take images.round().astype('uint8') ({held})"
    if images.dtype == np.uint16:
        return f"take (images / 257).round().astype('uint8') ({held})"
    return f"bring the values to 0..255 before astype('uint8') ({held}, perhaps normalized)"


def _shape_remedy(shape: tuple[int, ...]) -> str:
    """Remedy that makes the shape (N, 32, 32, 3); empty if none is known."""
    side = IMAGE_SIDE
    if shape[1:] == _SHAPE:
        return ""
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        resize = "" if shape[2:] == (side, side) else f", resized to {side}×{side}"
        return f"put the channels last by images.transpose(0, 2, 3, 1){resize}"
    if shape[1:] == (side, side):
        return "repeat the gray values by numpy.repeat(images[..., None], 3, axis=3)"
    if shape[1:] == (side, side, 1):
        return "repeat the gray values by numpy.repeat(images, 3, axis=3)"
    if shape[1:] == (1, side, side):
        return "repeat the gray values by numpy.repeat(images.transpose(0, 2, 3, 1), 3, axis=3)"
    if shape[1:] == (side, side, 4):
        return "put the alpha channel's color behind it, or drop it by images[..., :3]"
    if shape[1:] in ((side * side * 3,), (side * side,)):
        return "reshape the flattened images, for example by images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)"
    if len(shape) in (3, 4) and shape[0]:
        return f"resize the images to {side}×{side} and give them three channels"
    return ""
