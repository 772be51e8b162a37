"""Arrays of a user's function: labels, types and shapes, refusals with a remedy."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p2pfl.config import RunConfig, replace_options
from p2pfl.data import Dataset, describe, load, prepare
from p2pfl.errors import DataError
from p2pfl.preflight.estimate import CheckedRun
from p2pfl.preflight.trial import TriedModel

IMAGES = np.arange(6 * 32 * 32 * 3, dtype=np.uint32).reshape(6, 32, 32, 3).astype(np.uint8)


def given(monkeypatch: pytest.MonkeyPatch, **entries: Any) -> str:
    """Module whose function returns six training and two test images.

    Some entries are replaced.
    """
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


@pytest.mark.parametrize("value", ["off", "False", "", 1, 0, None, np.array([True]), {"flip": True}])
def test_augment_is_true_or_false_and_nothing_else(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "augment must be True or False, not" in refusal(monkeypatch, augment=value)


def test_mirroring_that_the_function_asks_for_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for augment, noted in ((True, True), (np.True_, True), (False, False)):
        config = RunConfig.of(dataset=given(monkeypatch, augment=augment), data_dir=str(tmp_path), batch_size=2)
        checked = CheckedRun(describe(config.data.dataset, tmp_path), TriedModel(nn.Identity(), ()), None)
        path = prepare(config.data.dataset, tmp_path, lambda *_: None)
        assert any("mirrored" in note for note in checked.notes(config, path)) is noted
        assert load(path).augment is noted
        off = replace_options(config, augment="off")
        assert not any("mirrored" in note for note in checked.notes(off, path))


class Names:
    """Neither hashable by value nor text: its representation holds an address."""


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"a", "b", "c"}, "a list of names, the first that of label 0, not a set, which has no order"),
        (frozenset("abc"), "not a frozenset, which has no order"),
        ({"a": 0, "b": 1, "c": 2}, "not a dict"),
        ({"a": 0, "b": 1, "c": 2}.keys(), "not a dict_keys"),
        (iter("abc"), "not a str_ascii_iterator"),
        ((name for name in "abc"), "not a generator"),
        ("abc", "not a str"),
        (b"abc", "not a bytes"),
        (3, "not a int"),
        (np.array([["a", "b", "c"]]), "not a ndarray"),
        (np.ma.masked_array(["a", "b", "c"], [0, 0, 1]), "not a MaskedArray"),
        (["a", "b", "a"], "'a' names the labels 0 and 2: give each class another name"),
        ([1, "1", "b"], "'1' names the labels 0 and 1"),
        (["é", "b", "e\u0301"], "names the labels 0 and 2"),
        (["a", b"b", "c"], "the name of label 1 is a bytes, not text"),
        ([{"a", "b"}, "b", "c"], "the name of label 0 is a set, not text"),
        (["a", "b", None], "the name of label 2 is a NoneType, not text"),
        (["a", "b", Names()], "the name of label 2 is a Names, not text"),
        (["a", " ", "c"], "the name of label 1 is empty"),
    ],
)
def test_class_names_that_mean_another_label_elsewhere(
    classes: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(monkeypatch, classes=classes)
    assert message.startswith("--dataset own_arrays:data: classes")
    assert words in message


@pytest.mark.parametrize(
    "classes", [("x", "y", "z"), np.array(["x", "y", "z"]), deque("xyz"), torch.arange(3), range(3)]
)
def test_class_names_in_any_sequence(classes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = made(tmp_path, monkeypatch, classes=classes)
    assert dataset.classes in (("x", "y", "z"), ("0", "1", "2"))


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_images", "test_labels"])
def test_arrays_whose_meaning_conversion_would_drop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = IMAGES if name == "train_images" else IMAGES[:2] if name == "test_images" else np.arange(2)
    masked = np.ma.masked_array(plain, np.zeros_like(plain, bool))
    masked[1] = np.ma.masked
    for value in (masked, list(masked), [[masked]]):
        assert f"{name} is masked in places: drop those samples" in refusal(monkeypatch, **{name: value})
    for odd in ({1, 2}, {"a": 1}, (n for n in (0, 1)), None):
        kind = type(odd).__name__
        assert f"{name} is a {kind}, not an array" in refusal(monkeypatch, **{name: odd})


def test_a_mask_that_hides_nothing_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, _ = made(tmp_path, monkeypatch, train_images=np.ma.masked_array(IMAGES))
    assert (dataset.train_images.numpy() == IMAGES).all()


def test_training_images_of_one_color_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "every training image is of one and the same color" in refusal(monkeypatch, train_images=IMAGES * 0 + 7)
