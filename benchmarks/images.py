"""A data set of random images for swarms that are measured: no download, any size."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.probe import read_order

CLASSES = 10


def random() -> dict[str, Any]:
    """`--dataset benchmarks.images:random`: uint8 images of 32 × 32 pixels, cropped and flipped as photographs are."""
    order, draw = read_order(), np.random.default_rng(0)
    entries: dict[str, Any] = {"classes": [str(label) for label in range(CLASSES)], "augment": True}
    for split, count in (("train", order.train_samples), ("test", order.test_samples)):
        entries[f"{split}_images"] = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
        entries[f"{split}_labels"] = np.arange(count) % CLASSES
    return entries
