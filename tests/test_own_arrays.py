"""Arrays of a user's own function: labels with gaps or from 1, and other types and shapes, named with what helps."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from p2pfl.data import Dataset, describe, load, prepare
from p2pfl.errors import DataError

IMAGES = np.arange(6 * 32 * 32 * 3, dtype=np.uint32).reshape(6, 32, 32, 3).astype(np.uint8)


def given(monkeypatch: pytest.MonkeyPatch, **entries: Any) -> str:
    """A module whose function returns six training and two test images, with some entries replaced."""
    plain = {"train_images": IMAGES, "train_labels": [0, 1, 2] * 2, "test_images": IMAGES[:2], "test_labels": [0, 1]}
    module = ModuleType("own_arrays")
    module.data = lambda: plain | entries  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_arrays", module)
    return "own_arrays:data"


def refusal(monkeypatch: pytest.MonkeyPatch, **entries: Any) -> str:
    with pytest.raises(DataError) as caught:
        describe(given(monkeypatch, **entries), None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **entries: Any) -> tuple[Dataset, str]:
    spec = given(monkeypatch, **entries)
    return load(prepare(spec, tmp_path, lambda *_: None)), "\n".join(describe(spec, tmp_path).notes)


def test_labels_from_1_or_with_gaps_are_refused_unless_classes_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(monkeypatch, train_labels=[1, 2, 3] * 2, test_labels=[1, 2])
    assert "train_labels run from 1 to 3, not from 0: subtract 1 from train_labels and test_labels" in message
    message = refusal(monkeypatch, train_labels=[0, 2, 5] * 2)
    assert "no training image has the label 1, 3, 4: number the classes 0 to 2" in message
    assert "and 80 more" in refusal(monkeypatch, train_labels=[0, 1, 10**12] * 2)
    message = refusal(monkeypatch, train_labels=[1, 2, 3] * 2, test_labels=[1, 2], classes=["a", "c", "d"])
    assert "run from 1 to 3, but there are 3 classes, counted 0 to 2: subtract 1" in message
    dataset, notes = made(tmp_path, monkeypatch, train_labels=[1, 2, 3] * 2, test_labels=[1, 3], classes=list("wxyz"))
    assert dataset.classes == ("w", "x", "y", "z")
    assert "no training images of class 'w'" in notes
    assert "no test images of classes 'w', 'y'" in notes


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0.0, 1, 2, 0, 1, 2]), "not float64: take labels.astype('int64')"),
        (np.eye(3)[[0, 1, 2, 0, 1, 2]], "one-hot, take labels.argmax(1)"),
        (np.array([[0], [1], [2]] * 2), "take labels.reshape(-1)"),
        (["cat", "dog", "cow"] * 2, "numpy.unique(labels, return_inverse=True)"),
        (np.array([0.5] * 6), "must be integers from 0, not float64"),
        (np.array([True, False, True] * 2), "must be integers from 0, not bool"),
        (np.array([2**63] * 6, np.uint64), "must be smaller numbers"),
    ],
)
def test_other_labels(labels: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert words in refusal(monkeypatch, train_labels=labels)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES / 255, "take (255 * images).round().astype('uint8')"),
        (IMAGES / 127.5 - 1, "take (127.5 * (images + 1)).round().astype('uint8')"),
        (IMAGES.astype(np.float32), "take images.round().astype('uint8') (they run from 0 to 255)"),
        (IMAGES.astype(np.int64), "not int64 (6, 32, 32, 3): take images.round().astype('uint8')"),
        (IMAGES.astype(np.uint16) * 257, "take (images / 257).round().astype('uint8')"),
        ((IMAGES - 120.0) / 60, "perhaps normalized"),
        (IMAGES > 9, "multiply by 255"),
        (IMAGES * np.float32("nan"), "not finite"),
        (torch.from_numpy(IMAGES.transpose(0, 3, 1, 2) / 255), ".astype('uint8') (they run from 0 to 1), then put"),
        (IMAGES.transpose(0, 3, 1, 2), "put the channels last by images.transpose(0, 2, 3, 1)"),
        (IMAGES[..., 0], "numpy.repeat(images[..., None], 3, axis=3)"),
        (IMAGES[..., :1], "numpy.repeat(images, 3, axis=3)"),
        (IMAGES.transpose(0, 3, 1, 2)[:, :1], "numpy.repeat(images.transpose(0, 2, 3, 1), 3, axis=3)"),
        (IMAGES.reshape(6, -1), "reshape the flattened images"),
        (np.concatenate([IMAGES, IMAGES], 3)[..., :4], "drop it by images[..., :3]"),
        (IMAGES[:, :28, :28], "resize the images to 32×32"),
    ],
)
def test_other_images(images: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, train_images=images)
    assert "train_images must be uint8 (N, 32, 32, 3), not " in message
    assert words in message


def test_views_and_other_byte_orders_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array([0, 1, 2] * 2, ">i4")
    dataset, notes = made(tmp_path, monkeypatch, train_images=IMAGES[::-1, :, :, ::-1], train_labels=labels)
    assert (dataset.train_images.numpy() == IMAGES[::-1, :, :, ::-1]).all()
    assert dataset.train_labels.tolist() == [0, 1, 2] * 2
    assert "no test images of class '2'" in notes


def test_images_that_lost_their_scale_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "above 1" in made(tmp_path, monkeypatch, train_images=(IMAGES / 255).astype(np.uint8))[1]
