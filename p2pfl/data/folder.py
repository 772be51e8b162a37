"""A directory of images, DIR/train/<class>/… and DIR/test/<class>/…, through torchvision's ImageFolder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from p2pfl.data.content import files_content
from p2pfl.data.dataset import IMAGE_SIDE, Dataset, statistics
from p2pfl.data.source import Progress, Source
from p2pfl.errors import DataError
from p2pfl.plugins import one_line

REPORT_EVERY = 256  # images decoded between two reports of progress

Samples = list[tuple[str, int]]  # path, label


def image_folder(argument: str, root: Path) -> Source:
    """The images under a directory; other sizes are resized to 32×32 RGB (bilinear, antialiased).

    Lists both halves without opening an image. Raises DataError where DIR/train or DIR/test is missing or
    has no class, a class has no image, or the two have different classes.
    """
    if not argument:
        raise DataError("--dataset imagefolder: name the directory, as in imagefolder:/data/images")
    directory = Path(argument).expanduser().resolve()
    train, test = _list(directory, "train"), _list(directory, "test")
    if train.classes != test.classes:
        odd = min(set(train.classes) ^ set(test.classes))
        has, lacks = ("train", "test") if odd in train.classes else ("test", "train")
        raise DataError(f"{directory}: class {odd!r} is in {has}/ but not in {lacks}/; both need the same")

    def read(progress: Progress) -> Dataset:
        train_images = _decode(train.samples, "decoding training images", progress)
        test_images = _decode(test.samples, "decoding test images", progress)
        mean, std = statistics(train_images)
        return Dataset(
            name=f"imagefolder:{directory}",
            train_images=train_images,
            train_labels=torch.tensor(train.targets),
            test_images=test_images,
            test_labels=torch.tensor(test.targets),
            classes=tuple(train.classes),
            mean=mean,
            std=std,
            augment=True,
            content=files_content(directory, train.samples + test.samples, progress),
        )

    return Source(
        name=f"imagefolder:{directory}",
        key=f"imagefolder-{_digest(directory, train.samples + test.samples)}",
        train_samples=len(train.samples),
        test_samples=len(test.samples),
        classes=tuple(train.classes),
        read=read,
    )


def _list(directory: Path, split: str) -> ImageFolder:
    folder = directory / split
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such directory; images belong in {directory}/train/<class>/ and {directory}/test/<class>/"
        )
    try:
        return ImageFolder(str(folder))
    except OSError as error:  # torchvision says which class is empty
        raise DataError(f"{folder}: {' '.join(str(error).split())}") from error


def _digest(directory: Path, samples: Samples) -> str:
    """Differs once any file's name, size or time of change does, so that the images are decoded again."""
    digest = hashlib.sha256(f"{directory}\0{IMAGE_SIDE}".encode())
    for path, _ in samples:
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
        name = os.path.relpath(path, directory)
        digest.update(f"\0{name}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _decode(samples: Samples, what: str, progress: Progress) -> torch.Tensor:
    """All images as uint8 (N, 32, 32, 3); on one core, because threads made small files slower."""
    images = np.empty((len(samples), IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
    progress(what, 0, len(samples))
    for row, (path, _) in enumerate(samples):
        images[row] = _read_image(path)
        if (row + 1) % REPORT_EVERY == 0 or row + 1 == len(samples):
            progress(what, row + 1, len(samples))
    return torch.from_numpy(images)


def _read_image(path: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            # A large JPEG may be decoded at a half, quarter or eighth, but never below twice what is kept.
            image.draft("RGB", (2 * IMAGE_SIDE, 2 * IMAGE_SIDE))
            rgb = image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds, by format and by damage
        raise DataError(f"{path}: not a readable image ({one_line(error)}); repair or remove it") from error
    if rgb.size != (IMAGE_SIDE, IMAGE_SIDE):
        rgb = rgb.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(rgb)
