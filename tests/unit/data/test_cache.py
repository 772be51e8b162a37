"""The cache file: exact, mapped and shared, written at once or not at all."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from p2pfl.data import Batches, Dataset, load
from p2pfl.data.cache import save
from p2pfl.data.dataset import statistics
from p2pfl.errors import DataError


def make(samples: int = 64) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (samples, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return Dataset(
        name="made: é",
        train_images=images,
        train_labels=torch.arange(samples) % 3,
        test_images=images[:5].clone(),
        test_labels=torch.zeros(5, dtype=torch.int64),
        classes=("one", "zwei", "três"),
        mean=(0.1, 1 / 3, 0.7),
        std=(0.2, 0.3, 0.4),
        augment=True,
        content="digest",
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "made.safetensors"
    save(make(), path)
    for name, value in vars(make()).items():
        found = getattr(load(path), name)
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    assert list(path.parent.iterdir()) == [path]
    save(replace(make(), content=""), path)
    assert len(load(path).content) == 64  # that of the arrays


def mapping(path: Path) -> dict[str, int]:
    """The kernel's account, in kB, of this process's mappings of the file."""
    sizes: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and words[-1] == "kB":
            sizes[words[0][:-1]] = sizes.get(words[0][:-1], 0) + int(words[1])
    return sizes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_images_are_pages_of_the_file_and_stay_so_in_training(tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    save(make(1000), path)
    dataset = load(path)
    batches = Batches(dataset, np.arange(1000), 50, torch.device("cpu"), seed=0, peer=0)
    for step in range(20):
        batches.batch(step)
    assert batches.images.data_ptr() == dataset.train_images.data_ptr()
    sizes = mapping(path)
    assert sizes["Rss"] > 2900  # all 3 MB were read through the mapping
    assert sizes["Anonymous"] == 0  # none was copied


def test_many_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    failures: list[BaseException] = []

    def write() -> None:
        try:
            save(make(), path)
            assert torch.equal(load(path).train_images, make().train_images)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DataError, match=r"cannot be written .*No space left.*--data-dir"):
        save(make(), tmp_path / "made.safetensors")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save(make(), tmp_path / "file" / "made.safetensors")


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.safetensors"
    with pytest.raises(DataError, match="no such cached data set"):
        load(path)
    save(make(), path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"no tensors",
        whole[:1000],
        whole[:-1],
        whole.replace(b"test_labels", b"test_labelz"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="delete it"):
            load(path)
    save(Dataset(**{**vars(make()), "classes": ("one",)}), path)
    with pytest.raises(DataError, match="there are 1 classes"):
        load(path)


def test_statistics_equal_numpys_over_block_borders() -> None:
    images = make(1030).train_images
    images[:, :, :, 2] = 9
    mean, std = statistics(images)
    values = images.numpy().reshape(-1, 3) / 255
    assert mean == pytest.approx(values.mean(0), rel=1e-12)
    assert std[:2] == pytest.approx(values.std(0)[:2], rel=1e-12)
    assert std[2] == 1  # constant: divided by, so not 0
