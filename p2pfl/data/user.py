"""Data set from the user's `module:function`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from p2pfl.data.dataset import TENSORS, Dataset, Source, content_of_arrays, dataset_problem, is_one_color, statistics
from p2pfl.data.image_listing import lacking_images
from p2pfl.data.user_checks import (
    EntryError,
    class_names,
    image_problem,
    is_augmented,
    is_masked,
    label_kind_problem,
    label_problem,
    label_values,
)
from p2pfl.errors import DataError, one_line
from p2pfl.registry import load

OPTIONAL = ("classes", "augment", "train_peers")


def user_function(spec: str) -> Source:
    """Call `module:function` without arguments and check its result.

    It must return a mapping with `train_images` and `test_images`, uint8 arrays or tensors (N, 32, 32, 3),
    and `train_labels` and `test_labels`, integers (N,) from 0; optional are `classes`, a list with a name for
    each label (default: '0', '1', …), and `augment`, True or False (default), which turns crop and flip on. Without
    `classes` every label from 0 to the highest must occur among the training labels. For --partition own there may be
    `train_peers`, the label of the peer whose each training sample is. It is called on every start,
    because only its result tells whether it changed.
    Raises ConfigError where it cannot be imported, DataError where it fails or its result cannot be used.
    """
    function = load(spec, "--dataset")
    try:
        result = function()
    except (Exception, SystemExit) as error:
        raise DataError(f"--dataset {spec}: the function raised {one_line(error)}") from error
    dataset = _check(spec, result)
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", spec)[:60]
    return Source(
        name=spec,
        key=f"{stem}-{hashlib.sha256(repr((spec, dataset.content)).encode()).hexdigest()[:16]}",
        train_samples=len(dataset.train_images),
        test_samples=len(dataset.test_images),
        classes=dataset.classes,
        read=lambda progress: dataset,
        notes=_notes(dataset),
        is_mirrored=dataset.augment,
    )


def _notes(dataset: Dataset) -> tuple[str, ...]:
    """Notes on odd labels and images that can still be used."""
    notes = []
    for split, labels in (("training", dataset.train_labels), ("test", dataset.test_labels)):
        there = set(label_values(labels))
        absent = [name for label, name in enumerate(dataset.classes) if label not in there]
        if absent:
            notes.append(lacking_images(split, absent))
    if int(dataset.train_images.max()) <= 1:
        notes.append("no training image has a value above 1: were they on the scale 0..1 before they became uint8?")
    return tuple(notes)


def _check(spec: str, result: Any) -> Dataset:
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise DataError(f"--dataset {spec}: returned a {kind}, not a mapping with {', '.join(TENSORS)}")
    missing = [name for name in TENSORS if name not in result]
    unknown = [str(name) for name in result if name not in (*TENSORS, *OPTIONAL)]
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown entry {unknown[0]!r}"
        allowed = f"{', '.join(TENSORS)}; optional: {', '.join(OPTIONAL)}"
        raise DataError(f"--dataset {spec}: the mapping {what} (entries: {allowed})")
    tensors: dict[str, Any] = {name: _tensor(spec, name, result[name]) for name in TENSORS}
    classes = result.get("classes")
    if classes is None:
        problem = label_problem(tensors["train_labels"])
        if problem:
            raise DataError(f"--dataset {spec}: {problem}")
        classes = range(len(label_values(tensors["train_labels"])))
    try:
        names = class_names(classes)
        augment = is_augmented(result.get("augment", False))
    except EntryError as error:
        raise DataError(f"--dataset {spec}: {error}") from error
    owners, train_owners = _owners(spec, result.get("train_peers"), len(tensors["train_images"]))
    dataset = Dataset(
        name=spec,
        owners=owners,
        train_owners=train_owners,
        classes=names,
        mean=(),
        std=(),
        augment=augment,
        **tensors,
    )
    problem = dataset_problem(dataset)
    if problem:
        raise DataError(f"--dataset {spec}: {problem}")
    if is_one_color(dataset.train_images):
        raise DataError(f"--dataset {spec}: every training image is of one and the same color; check the function")
    mean, std = statistics(dataset.train_images)
    return replace(dataset, mean=mean, std=std, content=content_of_arrays(dataset))


def _owners(spec: str, given: Any, samples: int) -> tuple[tuple[str, ...], torch.Tensor | None]:
    """Labels of the owners in order, and the place of each sample's owner."""
    if given is None:
        return (), None
    labels = [str(label) for label in given] if isinstance(given, (list, tuple, np.ndarray)) else []
    if len(labels) != samples:
        raise DataError(f"--dataset {spec}: train_peers must be a list with a peer's label for each training image")
    owners = tuple(sorted(set(labels)))
    places = {label: place for place, label in enumerate(owners)}
    return owners, torch.tensor([places[label] for label in labels])


def _tensor(spec: str, name: str, value: Any) -> torch.Tensor:
    """Convert an array or tensor to a tensor on the CPU; labels become int64."""
    if is_masked(value):
        raise DataError(
            f"--dataset {spec}: {name} is masked in places: drop those samples, or fill them in by filled()"
        )
    try:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"--dataset {spec}: {name} is not an array ({one_line(error)})") from error
    if array.ndim == 0:
        raise DataError(f"--dataset {spec}: {name} is a {type(value).__name__}, not an array")
    is_label = name.endswith("labels")
    problem = label_kind_problem(array) if is_label else image_problem(array)
    if problem:
        raise DataError(f"--dataset {spec}: {name} {problem}")
    # A copy, which later changes of the function's own array do not reach.
    return torch.from_numpy(np.array(array, dtype=np.int64 if is_label else np.uint8, order="C"))
