"""Validation set: size, classes, seed, and what is evaluated on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.helpers import CPU

from p2pfl.data import Dataset, evaluation_batches, hold_out, holdout_notes, remaining, without_test
from p2pfl.errors import ConfigError

SIZES = (40, 30, 25, 5)


def made(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Dataset:
    """Classes of these sizes in any order.

    The first pixel of an image is the number of its sample.
    """
    count = sum(sizes)
    order = np.random.default_rng(seed).permutation(count)
    images = torch.zeros((count, 32, 32, 3), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count)
    return Dataset(
        name="made",
        train_images=images,
        train_labels=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)[order]),
        test_images=torch.full((8, 32, 32, 3), 200, dtype=torch.uint8),
        test_labels=torch.arange(8) % len(sizes),
        classes=tuple("abcdefgh"[: len(sizes)]),
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
        augment=True,
    )


def numbers(dataset: Dataset) -> list[int]:
    assert dataset.held_out is not None
    return dataset.held_out.tolist()


def by_class(dataset: Dataset) -> list[int]:
    return dataset.train_labels[numbers(dataset)].bincount(minlength=len(dataset.classes)).tolist()


def test_without_a_fraction_nothing_changes() -> None:
    dataset = made()
    assert hold_out(dataset, 0.0, 3) is dataset
    assert remaining(dataset).tolist() == list(range(100))
    assert holdout_notes(dataset, 0.0) == ()


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.33, 0.5, 0.9])
def test_each_class_has_its_share_give_or_take_one(fraction: float) -> None:
    found = hold_out(made(), fraction, 3)
    held = numbers(found)
    assert held == sorted(set(held))
    assert len(held) == int(100 * fraction + 0.5)
    for size, count in zip(SIZES, by_class(found), strict=True):
        assert abs(count - fraction * size) < 1
    assert sorted([*held, *remaining(found).tolist()]) == list(range(100))


def test_the_seed_alone_chooses() -> None:
    assert numbers(hold_out(made(), 0.2, 3)) == numbers(hold_out(made(), 0.2, 3))
    assert numbers(hold_out(made(), 0.2, 3)) != numbers(hold_out(made(), 0.2, 4))
    again = hold_out(hold_out(made(), 0.2, 3), 0.5, 9)
    assert numbers(again) == numbers(hold_out(made(), 0.2, 3)), "what is held back stays so"


def test_one_sample_of_each_class_stays_in_training() -> None:
    found = hold_out(made((1, 1, 98)), 0.97, 0)
    assert by_class(found) == [0, 0, 96]
    assert holdout_notes(found, 0.97) == ("--validation 0.97: no validation sample of class a, b",)


def test_equal_remainders_are_drawn() -> None:
    """Otherwise, of small classes of one size the first would be held back."""
    chosen = {tuple(by_class(hold_out(made((3,) * 8), 0.1, seed))) for seed in range(8)}
    assert len(chosen) > 2
    assert {sum(counts) for counts in chosen} == {2}


def test_each_owner_gives_its_share() -> None:
    owners = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    found = hold_out(replace(made(), owners=("x", "y", "z"), train_owners=owners), 0.2, 1)
    assert owners[numbers(found)].bincount().tolist() == [14, 4, 2]


@pytest.mark.parametrize(
    ("fraction", "words"),
    [
        (0.001, "no sample would be held back, of 100; choose a larger fraction"),
        (0.999, None),
    ],
)
def test_an_empty_validation_set_is_refused(fraction: float, words: str | None) -> None:
    if words is None:
        assert len(numbers(hold_out(made(), fraction, 0))) == 96, "one of each class is left"
        return
    with pytest.raises(ConfigError, match=f"^--validation {fraction:g}: {words}$"):
        hold_out(made(), fraction, 0)


@pytest.mark.parametrize("samples", [0, 7])
def test_validation_images_are_evaluated_as_they_are(samples: int) -> None:
    dataset = hold_out(made(), 0.2, 3)
    parts = list(evaluation_batches(dataset, CPU, samples, seed=0, batch_size=6, on="validation"))
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    shown = images[:, 0, 0, 0].round().long()  # of statistics that leave pixels as they are
    assert len(shown) == (samples or 20)
    assert set(shown.tolist()) <= set(numbers(dataset))
    assert torch.equal(labels, dataset.train_labels[shown])
    again = evaluation_batches(dataset, CPU, samples, seed=0, batch_size=6, on="validation")
    assert torch.equal(torch.cat([batch for batch, _ in again]), images)


def test_nothing_is_left_of_a_test_set_that_is_not_used() -> None:
    dataset = without_test(made())
    assert (len(dataset.test_images), len(dataset.test_labels)) == (0, 0)
    assert list(evaluation_batches(dataset, CPU, 0, seed=0)) == []
