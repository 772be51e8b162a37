"""Handwritten digits of scikit-learn as 32×32 RGB images, without a download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from p2pfl.config import PictureOptions
from p2pfl.data.dataset import IMAGE_SIDE, Dataset, Progress, Source, arrays_content, statistics
from p2pfl.errors import DataError
from p2pfl.seeding import numpy_generator

TRAIN_SAMPLES, TEST_SAMPLES = 1438, 359  # 80 % and 20 % of 1,797, rounded in each class
SPLIT_SEED = 0  # fixed: runs with different seeds are tested on the same digits
_FILE = Path("datasets", "data", "digits.csv.gz")  # in scikit-learn's folder, in all versions so far
BRIGHTEST = 16  # scikit-learn counts dark pixels in 4×4 cells


def digits(argument: str, root: Path, options: PictureOptions) -> Source:
    """Digits 0..9 (Alpaydin & Kaynak 1998): 1,797 images of 8×8.

    In a stratified split of 80 to 20. Raises DataError where scikit-learn is not installed.
    """
    if argument:
        raise DataError(f"--dataset digits:{argument}: digits takes no argument")
    if importlib.util.find_spec("sklearn") is None:
        raise DataError("--dataset digits needs scikit-learn: pip install 'p2pfl-swarm[demo]'")
    classes = tuple(str(digit) for digit in range(10))
    return Source("digits", "digits", TRAIN_SAMPLES, TEST_SAMPLES, classes, _read)


def _read(progress: Progress) -> Dataset:
    progress("digits", 0, TRAIN_SAMPLES + TEST_SAMPLES)
    small, labels = _samples()
    images = _enlarge(torch.from_numpy(small).float())
    train, test = (torch.from_numpy(indices) for indices in _split(labels))
    targets = torch.from_numpy(labels).long()
    mean, std = statistics(images[train])
    progress("digits", len(images), len(images))
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=targets[train],
        test_images=images[test],
        test_labels=targets[test],
        classes=tuple(str(digit) for digit in range(10)),
        mean=mean,
        std=std,
        augment=False,
        # Of the small images: enlarging them takes floating-point numbers, which machines may round differently.
        content=arrays_content(("digits",), (small.astype(np.uint8), labels.astype(np.int64))),
    )


def _samples() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Images, (N, 64) in 0..16, and labels, (N,), from scikit-learn's file.

    Its own function imports SciPy, which takes seconds; it is asked only where the file lies elsewhere.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (None if package is None else package.submodule_search_locations) or ():
        if (path := Path(folder, _FILE)).is_file():
            rows = np.loadtxt(path, np.float64, delimiter=",")
            return np.ascontiguousarray(rows[:, :-1]), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels


def _enlarge(small: torch.Tensor) -> torch.Tensor:
    """Enlarge (N, 64) in 0..16 to uint8 (N, 32, 32, 3), bilinearly, in equal channels."""
    size = (IMAGE_SIDE, IMAGE_SIDE)
    gray = torch.nn.functional.interpolate(small.view(-1, 1, 8, 8), size, mode="bilinear")
    bytes_ = (gray * (255 / BRIGHTEST)).round_().to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()


def _split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices of training and test samples; a fifth of each class is test."""
    test = []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        order = numpy_generator(SPLIT_SEED, f"digits-split-{digit}").permutation(members)
        test.append(order[: round(len(members) / 5)])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
