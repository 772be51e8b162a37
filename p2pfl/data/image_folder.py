"""Image folders, laid out as train/<class>/… and test/<class>/… as in torchvision."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from p2pfl.config import PictureOptions
from p2pfl.data.dataset import IMAGE_SIDE, Dataset, Progress, Source, is_one_color, statistics
from p2pfl.data.image_findings import Findings
from p2pfl.data.image_listing import Samples, Split, list_folder
from p2pfl.data.peer_folders import list_peer_folders
from p2pfl.data.pictures import quiet, read_picture
from p2pfl.data.pixel_values import PictureError
from p2pfl.errors import DataError, one_line
from p2pfl.util.files import opener

REPORT_EVERY = 256  # files between two reports of progress
DARK = 32  # levels: what stays below, in all pictures, is rather a mistake of scale than night
_DECODING = 3  # of the cache key: differs from that of caches whose pictures were decoded in another way


def image_folder(argument: str, root: Path, options: PictureOptions) -> Source:
    """Source of the pictures below a directory, resized to 32×32 RGB.

    Bilinear and antialiased. Lists both splits without opening a picture. Raises DataError where DIR/train or DIR/test
    is missing or has no class, a training class has no picture, or a test class is not among the training classes.
    """
    if not argument:
        raise DataError("--dataset imagefolder: name the directory, as in imagefolder:/data/images")
    directory = Path(argument).expanduser().resolve()
    if options.by_peer:
        return _by_peer(directory, options)
    train, test, notes = list_folder(directory)
    return Source(
        name=f"imagefolder:{directory}",
        key=f"imagefolder-{_digest(directory, train.samples + test.samples, options)}",
        train_samples=len(train.samples),
        test_samples=len(test.samples),
        classes=train.classes,
        read=lambda progress: _read(directory, train, test, options, progress),
        notes=notes,
        is_judged_by_reading=True,
        is_mirrored=True,
    )


def _by_peer(directory: Path, options: PictureOptions) -> Source:
    """Source of the peers' own pictures, in a folder for each of them."""
    found = list_peer_folders(directory)
    train, test = (Split(found.classes, samples, ()) for samples in (found.train, found.test))

    def read(progress: Progress) -> Dataset:
        dataset = _read(directory, train, test, options, progress)
        return replace(dataset, owners=found.owners, train_owners=torch.tensor(found.places))

    return Source(
        name=f"imagefolder:{directory}",
        key=f"imagefolder-by-peer-{_digest(directory, train.samples + test.samples, options)}",
        train_samples=len(found.train),
        test_samples=len(found.test),
        classes=found.classes,
        read=read,
        notes=found.notes,
        is_judged_by_reading=True,
        is_mirrored=True,
    )


def _read(directory: Path, train: Split, test: Split, options: PictureOptions, progress: Progress) -> Dataset:
    """Decode both splits. Raises DataError naming all pictures that cannot be used."""
    findings = Findings(directory, options)
    with quiet():
        train_images = _decode(train.samples, "decoding training images", findings, progress)
        test_images = _decode(test.samples, "decoding test images", findings, progress)
    findings.check()
    if is_one_color(train_images):
        said = "".join(f"; {note}" for note in findings.notes())
        raise DataError(f"{directory / 'train'}: every picture is of one and the same color{said}; check the pictures")
    notes = findings.notes()
    brightest = int(train_images.max())
    if brightest < DARK:
        notes += (f"the brightest level of all training pictures is {brightest} of 255: is their scale right?",)
    mean, std = statistics(train_images)
    return Dataset(
        name=f"imagefolder:{directory}",
        train_images=train_images,
        train_labels=torch.tensor([label for _, label in train.samples]),
        test_images=test_images,
        test_labels=torch.tensor([label for _, label in test.samples]),
        classes=train.classes,
        mean=mean,
        std=std,
        augment=True,
        notes=notes,
        content=files_content(directory, train.samples + test.samples, progress),
    )


def _decode(samples: Samples, what: str, findings: Findings, progress: Progress) -> torch.Tensor:
    """Pictures as uint8 (N, 32, 32, 3); on one core: threads made small files slower."""
    images = np.zeros((len(samples), IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
    progress(what, 0, len(samples))
    for row, (path, _) in enumerate(samples):
        try:
            picture = read_picture(path, findings.options)
        except PictureError as error:
            findings.refuse(path, error)
        else:
            images[row] = picture.pixels
            findings.add(path, picture)
        if (row + 1) % REPORT_EVERY == 0 or row + 1 == len(samples):
            progress(what, row + 1, len(samples))
    return torch.from_numpy(images)


def _digest(directory: Path, samples: Samples, options: PictureOptions) -> str:
    """Digest of the options and of all files' names, sizes and times of change."""
    digest = hashlib.sha256(f"{directory}\0{IMAGE_SIDE}\0{_DECODING}\0{options}".encode())
    for path, _ in samples:
        name = os.path.relpath(path, directory)
        try:
            status = os.stat(path)
            digest.update(f"\0{name}\0{status.st_size}\0{status.st_mtime_ns}".encode(errors="surrogateescape"))
        except OSError as error:  # named with all others that cannot be read, when these are decoded
            digest.update(f"\0{name}\0{error.errno}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def files_content(directory: Path, samples: Sequence[tuple[str, int]], progress: Progress) -> str:
    """Digest of files in their order: relative names, labels and bytes.

    `samples`: (path, label) of each file. Raises DataError naming a file that cannot be read.
    """
    digest = hashlib.sha256()
    for number, (path, label) in enumerate(samples, start=1):
        try:
            with open(path, "rb", opener=opener) as file:
                one = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
        name = Path(path).relative_to(directory).as_posix()
        digest.update(f"{name}\0{label}\0".encode(errors="surrogateescape") + one)
        if number % REPORT_EVERY == 0 or number == len(samples):
            progress("reading image files", number, len(samples))
    return digest.hexdigest()
