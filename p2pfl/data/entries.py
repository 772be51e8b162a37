"""Optional entries of a user's data set: class names, and whether to augment."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_ORDERLESS = (set, frozenset)
_TEXTUAL = (str, int, float, np.integer, np.floating)  # whose text is the same in every process


class EntryError(Exception):
    """An entry that cannot be used, what is wrong, and the remedy."""


def class_names(given: Any) -> tuple[str, ...]:
    """The name of each label, from what a function returned as `classes`.

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
    """Whether to augment, from what a function returned as `augment`. Raises EntryError unless it is a bool."""
    if not isinstance(given, bool | np.bool_):
        raise EntryError(f"augment must be True or False, not {str(given)[:40]!r} ({type(given).__name__})")
    return bool(given)
