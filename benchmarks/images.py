"""Data set of random images for measured swarms: no download, any size."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.probe import read_order

CLASSES = 10


def random() -> dict[str, Any]:
    """Data set of random 32×32 uint8 images: `--dataset benchmarks.images:random`.

    They are cropped and flipped as photographs are.
    """
    order, draw = read_order(), np.random.default_rng(0)
    entries: dict[str, Any] = {"classes": [str(label) for label in range(CLASSES)], "augment": True}
    for split, count in (("train", order.train_samples), ("test", order.test_samples)):
        entries[f"{split}_images"] = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
        entries[f"{split}_labels"] = np.arange(count) % CLASSES
    return entries
