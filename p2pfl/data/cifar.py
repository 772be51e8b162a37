"""CIFAR-10 through torchvision, downloaded once with progress and a deadline."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, extract_archive

from p2pfl.config import PictureOptions
from p2pfl.data.dataset import Dataset, Progress, Source, statistics
from p2pfl.errors import DataError, one_line, unreadable
from p2pfl.util.files import check_regular

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_SAMPLES, TEST_SAMPLES = 50_000, 10_000
SILENCE = 20.0  # seconds without a byte from the server after which the download has failed
CHUNK = 1 << 16  # bytes between two reports of progress


def cifar10(argument: str, root: Path, options: PictureOptions) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 60,000 photographs of 32×32 in ten classes.

    `root/cifar-10-batches-py`, the extracted archive, is used where it exists; otherwise it is downloaded.
    """
    if argument:
        raise DataError(f"--dataset cifar10:{argument}: cifar10 takes no argument; see --data-dir")

    def read(progress: Progress) -> Dataset:
        _provide(root, progress)
        return _read(root, progress)

    missing = not any((root / name).exists() for name in (CIFAR10.base_folder, CIFAR10.filename))
    return Source("cifar10", "cifar10", TRAIN_SAMPLES, TEST_SAMPLES, CLASSES, read, needs_download=missing)


def _read(root: Path, progress: Progress) -> Dataset:
    """Read both splits by torchvision, which checks every file's MD5 sum first."""
    progress("reading CIFAR-10", 0, 2)
    try:
        train = CIFAR10(str(root), train=True)
        progress("reading CIFAR-10", 1, 2)
        test = CIFAR10(str(root), train=False)
    except (RuntimeError, OSError) as error:
        folder = root / CIFAR10.base_folder
        raise DataError(
            f"{folder}: incomplete or damaged ({one_line(error)}); delete it, and it is downloaded again"
        ) from error
    progress("reading CIFAR-10", 2, 2)
    train_images = _contiguous(train.data)
    mean, std = statistics(train_images)
    return Dataset(
        name="cifar10",
        train_images=train_images,
        train_labels=torch.tensor(train.targets),
        test_images=_contiguous(test.data),
        test_labels=torch.tensor(test.targets),
        classes=tuple(train.classes),
        mean=mean,
        std=std,
        augment=True,
    )


def _contiguous(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images))  # torchvision gives a transposed view


def _provide(root: Path, progress: Progress) -> None:
    """Download and extract the archive below `root`, unless it is there already."""
    folder = root / CIFAR10.base_folder
    archive = root / CIFAR10.filename
    try:
        for path in [*folder.iterdir()] if folder.exists() else [archive] if archive.exists() else []:
            check_regular(path)  # torchvision would wait for a pipe
    except OSError as error:
        raise DataError(unreadable(path, error)) from error
    if folder.exists():
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not check_integrity(str(archive), CIFAR10.tgz_md5):
            _download(archive, progress)
        _extract(archive, folder)
    except OSError as error:
        raise DataError(f"{root}: cannot store CIFAR-10 ({one_line(error)}); choose another --data-dir") from error


def _download(archive: Path, progress: Progress) -> None:
    unfinished = archive.with_name(f".{archive.name}.{secrets.token_hex(6)}.tmp")
    try:
        with (
            urllib.request.urlopen(CIFAR10.url, timeout=SILENCE) as response,
            unfinished.open("wb") as file,
        ):
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            progress("downloading CIFAR-10", done, total)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress("downloading CIFAR-10", done, max(done, total))
        if not check_integrity(str(unfinished), CIFAR10.tgz_md5):
            raise DataError(_unreachable("what arrived has the wrong MD5 sum", archive.parent))
        unfinished.replace(archive)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(_unreachable(one_line(error), archive.parent)) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _unreachable(reason: str, root: Path) -> str:
    return (
        f"--dataset cifar10: cannot download {CIFAR10.url} ({reason}); instead use --data-dir DIR with the "
        f"extracted archive as DIR/{CIFAR10.base_folder} (DIR is now {root}), "
        "--dataset imagefolder:DIR, or --dataset digits"
    )


def _extract(archive: Path, folder: Path) -> None:
    """Extract into a temporary folder and rename it, so that none is ever incomplete."""
    beside = Path(tempfile.mkdtemp(prefix=".extract-", dir=folder.parent))
    try:
        extract_archive(str(archive), str(beside))
        if not folder.exists():
            (beside / folder.name).rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was first, with the same files
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
