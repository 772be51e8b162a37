"""Every data set by name: what it holds, its cache, and each refusal."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from p2pfl.data import Dataset, describe, load, prepare
from p2pfl.data.cache import FORMAT
from p2pfl.data.cifar import CLASSES
from p2pfl.data.dataset import arrays_content
from p2pfl.errors import ConfigError, DataError


def silent(what: str, done: int, total: int) -> None:
    assert what
    assert 0 <= done <= total


def made(spec: str, data_dir: Path) -> Dataset:
    info = describe(spec, data_dir)
    assert not info.cached
    dataset = load(prepare(spec, data_dir, silent))
    assert describe(spec, data_dir).cached
    assert (info.name, info.classes) == (dataset.name, dataset.classes)
    assert info.image_side == dataset.train_images.shape[1] == dataset.test_images.shape[2]
    return dataset


def refused(spec: str, data_dir: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare(spec, data_dir, silent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names ---


def test_names(tmp_path: Path) -> None:
    assert "--dataset mnist: choose one of cifar10, digits, imagefolder:DIR, module:function" in refused(
        "mnist", tmp_path
    )
    assert "name the directory" in refused("imagefolder", tmp_path)
    assert "no argument" in refused("digits:3", tmp_path)
    assert "no argument" in refused("cifar10:/data", tmp_path)


def test_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert prepare("digits", None, silent).parent == tmp_path / "xdg" / "p2pfl"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare("digits", None, silent).parent == tmp_path / ".cache" / "p2pfl"


# --- digits ---


def test_digits(tmp_path: Path) -> None:
    info, dataset = describe("digits", tmp_path), made("digits", tmp_path)
    assert (len(dataset.train_images), len(dataset.test_images)) == (info.train_samples, info.test_samples)
    assert len(dataset.train_images) + len(dataset.test_images) == 1797
    assert not dataset.augment
    shares = dataset.test_labels.bincount() / (dataset.test_labels.bincount() + dataset.train_labels.bincount())
    assert ((shares > 0.19) & (shares < 0.21)).all()
    images = torch.cat([dataset.train_images, dataset.test_images])
    assert torch.equal(images[..., 0], images[..., 2])
    assert (images.min(), images.max()) == (0, 255)
    # The averages of 4×4 cells are nearest to scikit-learn's own picture of the same digit.
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    assert dataset.content == arrays_content(("digits",), (small.astype(np.uint8), labels.astype(np.int64)))
    cells = torch.nn.functional.avg_pool2d(images[..., 0].float()[:, None], 4).flatten(1) * 16 / 255
    nearest = torch.cdist(cells, torch.from_numpy(small).float()).argmin(1)
    assert len(set(nearest.tolist())) > 1780  # interpolation blurs a little
    found = torch.cat([dataset.train_labels, dataset.test_labels])
    assert (torch.from_numpy(labels)[nearest] == found).float().mean() > 0.999


def test_digits_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sklearn" else find(name))
    assert "pip install 'p2pfl-swarm[demo]'" in refused("digits", tmp_path)


# --- imagefolder ---


def draw(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    for split, number in (("train", 3), ("test", 1)):
        for value, name in ((10, "cat"), (200, "dog")):
            for index in range(number):
                draw(directory / split / name / f"{index}.png", (value, index, 0))
    return directory


def test_image_folder(folder: Path, tmp_path: Path) -> None:
    dataset = made(f"imagefolder:{folder}", tmp_path / "cache")
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train_images[:, 5, 7, 0].tolist() == [10, 10, 10, 200, 200, 200]
    assert dataset.train_images[:, 5, 7, 1].tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test_images[:, 0, 0].tolist() == [[10, 0, 0], [200, 0, 0]]
    assert dataset.augment
    assert dataset.mean == pytest.approx((105 / 255, 1 / 255, 0))
    assert dataset.std == pytest.approx((95 / 255, (2 / 3) ** 0.5 / 255, 1))  # constant blue: not 0


def test_other_sizes_and_modes_become_32_rgb(folder: Path, tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint8).repeat(96).reshape(64, 96) * 2  # 96 wide, 64 high
    Image.fromarray(ramp).save(folder / "train" / "cat" / "0.png")  # grayscale
    draw(folder / "train" / "cat" / "1.jpg", (120, 60, 30), (500, 300))
    dataset = made(f"imagefolder:{folder}", tmp_path / "cache")
    gray = dataset.train_images[0]
    assert torch.equal(gray[..., 0], gray[..., 1])
    # Each kept row averages about two: the values 4k and 4k + 2, and a little of their neighbors.
    expected = torch.arange(32)[1:-1] * 4 + 1
    assert (gray[1:-1, 9, 0].int() - expected).abs().max() <= 1
    jpeg = dataset.train_images[1].int()
    assert (jpeg - torch.tensor([120, 60, 30])).abs().max() <= 3


def test_progress_reaches_the_total(folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    prepare(f"imagefolder:{folder}", tmp_path / "cache", lambda *call: calls.append(call))
    assert ("decoding training images", 0, 6) in calls
    assert ("decoding training images", 6, 6) in calls
    assert ("decoding test images", 2, 2) in calls
    assert calls[-1] == ("reading image files", 8, 8)


def test_only_a_changed_folder_is_decoded_again(folder: Path, tmp_path: Path) -> None:
    spec, cache = f"imagefolder:{folder}", tmp_path / "cache"
    first = prepare(spec, cache, silent)
    calls: list[str] = []
    assert prepare(spec, cache, lambda what, done, total: calls.append(what)) == first
    assert not calls
    changed = folder / "test" / "dog" / "0.png"
    before = changed.stat()
    draw(changed, (201, 0, 0))
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = prepare(spec, cache, silent)
    assert second != first
    assert load(second).test_images[1, 0, 0, 0] == 201
    changed.rename(changed.with_name("1.png"))
    assert prepare(spec, cache, silent) not in (first, second)


def test_image_folder_refusals(folder: Path, tmp_path: Path) -> None:
    spec = f"imagefolder:{folder}"
    assert f"{tmp_path}/nowhere/train: no such directory" in refused(f"imagefolder:{tmp_path}/nowhere", tmp_path)
    bird = folder / "train" / "bird"
    bird.mkdir()
    assert "no picture of class 'bird'" in refused(spec, tmp_path)
    draw(bird / "0.png", (1, 2, 3))
    draw(folder / "test" / "bird" / "0.png", (1, 2, 3))
    broken = folder / "test" / "bird" / "1.png"
    whole = (folder / "test" / "bird" / "0.png").read_bytes()
    for content in (b"no image", whole[: len(whole) // 2], b""):
        broken.write_bytes(content)
        message = refused(spec, tmp_path)
        assert f"{broken}: not a readable image" in message
    assert not list(tmp_path.glob("*.safetensors"))
    (folder / "test").rename(folder / "elsewhere")
    assert f"{folder}/test: no such directory" in refused(spec, tmp_path)


# --- module:function ---


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_data_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np, torch\n"
        "level = 7\n"
        "def good(**changes):\n"
        "    images = np.full((4, 32, 32, 3), level, dtype=np.uint8)\n"
        "    images[0] = 0\n"
        "    return {'train_images': images, 'train_labels': [0, 1, 2, 1],\n"
        "            'test_images': torch.from_numpy(images[:2]), 'test_labels': np.array([0, 2], 'i4'),\n"
        "            **changes}\n"
        "def named(): return good(classes=['a', 'b', 'c', 'd'], augment=True)\n"
        "def floats(): return good(train_images=np.zeros((4, 32, 32, 3)))\n"
        "def small(): return good(train_images=np.zeros((4, 28, 28), np.uint8))\n"
        "def short(): return good(test_labels=[0])\n"
        "def half(): return good(test_labels=[0.5, 1])\n"
        "def above(): return good(test_labels=[0, 3])\n"
        "def below(): return good(train_labels=[0, 1, -1, 0])\n"
        "def none(): return good(train_images=np.zeros((0, 32, 32, 3), 'u1'), train_labels=np.arange(0))\n"
        "one = torch.arange(9).repeat_interleave(3072).view(9, 32, 32, 3).byte()\n"
        "def views(): return good(train_images=one[:4], test_images=one[:2])\n"
        "def typo(): return good(augmentation=True)\n"
        "def ragged(): return good(train_images=[[1], [1, 2]])\n"
        "def text(): return good(classes='abc')\n"
        "def lacking(): return {'train_images': 0}\n"
        "def nothing(): return None\n"
        "def breaks(): raise OSError('first\\nsecond')\n"
    )
    monkeypatch.chdir(tmp_path)
    return name


def test_own_function(own: str, tmp_path: Path) -> None:
    dataset = made(f"{own}:good", tmp_path)
    assert dataset.train_labels.tolist() == [0, 1, 2, 1]
    assert dataset.test_labels.tolist() == [0, 2]
    assert dataset.train_images[:, 3, 3, 1].tolist() == [0, 7, 7, 7]
    assert dataset.classes == ("0", "1", "2")
    assert not dataset.augment
    other = made(f"{own}:named", tmp_path)
    assert other.classes == ("a", "b", "c", "d")
    assert other.augment
    assert made(f"{own}:views", tmp_path).test_images.shape == (2, 32, 32, 3)  # of one tensor


def test_own_functions_new_result_is_seen(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(f"{own}:good", tmp_path, silent)
    assert prepare(f"{own}:good", tmp_path, silent) == first
    monkeypatch.setattr(f"{own}.level", 8)
    second = prepare(f"{own}:good", tmp_path, silent)
    assert (load(first).test_images.max(), load(second).test_images.max()) == (7, 8)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("floats", r"train_images must be uint8 (N, 32, 32, 3), not float64 (4, 32, 32, 3)"),
        ("small", "not uint8 (4, 28, 28)"),
        ("short", "test_labels must be one integer for each of 2 images"),
        ("half", "test_labels must be integers"),
        ("above", "test_labels run from 0 to 3, but there are 3 classes"),
        ("below", "train_labels run from -1 to 1"),
        ("none", "train_images holds no image"),
        ("typo", "unknown entry 'augmentation'"),
        ("ragged", "train_images is not an array"),
        ("text", "classes must be a list of names"),
        ("lacking", "lacks 'train_labels'"),
        ("nothing", "returned a NoneType"),
        ("breaks", "OSError: first second"),
        ("absent", "does not exist"),
    ],
)
def test_own_function_refusals(own: str, tmp_path: Path, function: str, words: str) -> None:
    message = refused(f"{own}:{function}", tmp_path)
    assert message.startswith(f"--dataset {own}:{function}: ")
    assert words in message


# --- cifar10 ---


def write_cifar(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write tiny batches in CIFAR's layout, whose MD5 sums torchvision expects."""
    directory.mkdir(parents=True)
    sums = {}

    def write(name: str, content: dict[str, object]) -> None:
        (directory / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((directory / name).read_bytes()).hexdigest()

    for number in range(6):
        # Rows are all of red, then green, then blue; the value tells batch and channel.
        rows = np.repeat(np.array([number * 3, number * 3 + 1, number * 3 + 2], np.uint8), 1024)
        name = f"data_batch_{number}" if number else "test_batch"
        write(name, {"data": np.stack([rows, rows]), "labels": [number, 9]})
    write("batches.meta", {"label_names": list(CLASSES)})
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})


def check_cifar(dataset: Dataset) -> None:
    assert dataset.train_labels.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert dataset.train_images[::2, 31, 0].tolist() == [[3 * n, 3 * n + 1, 3 * n + 2] for n in range(1, 6)]
    assert dataset.test_images[:, 4, 4].tolist() == [[0, 1, 2]] * 2
    assert dataset.classes == CLASSES
    assert dataset.augment


def test_cifar10_from_an_extracted_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cifar(tmp_path / CIFAR10.base_folder, monkeypatch)
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/never")
    check_cifar(made("cifar10", tmp_path))
    assert capfd.readouterr() == ("", "")


def test_cifar10_downloads_with_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source, root = tmp_path / "server", tmp_path / "data"
    write_cifar(source / CIFAR10.base_folder, monkeypatch)
    archive = source / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "url", archive.as_uri())
    assert "wrong MD5 sum" in refused("cifar10", root)
    assert not list(root.iterdir())
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    calls: list[tuple[str, int, int]] = []
    check_cifar(load(prepare("cifar10", root, lambda *call: calls.append(call))))
    size = archive.stat().st_size
    assert calls[0] == ("downloading CIFAR-10", 0, size)
    assert ("downloading CIFAR-10", size, size) in calls
    assert capfd.readouterr() == ("", "")
    left = {path.name for path in root.iterdir()}
    assert left == {CIFAR10.filename, CIFAR10.base_folder, f"cifar10-v{FORMAT}.safetensors"}


def test_cifar10_without_network_names_the_alternatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")  # refuses connections
    monkeypatch.setenv("no_proxy", "*")
    message = refused("cifar10", tmp_path)
    for words in ("--data-dir", CIFAR10.base_folder, "imagefolder:DIR", "--dataset digits", "127.0.0.1:9"):
        assert words in message
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    info = describe("cifar10", tmp_path)  # needs no network
    assert (info.train_samples, info.test_samples, info.cached) == (50_000, 10_000, False)


def test_damaged_cifar10_is_refused_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / CIFAR10.base_folder
    write_cifar(folder, monkeypatch)
    (folder / "data_batch_3").write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # a pickle that would run a command
    message = refused("cifar10", tmp_path)
    assert message.startswith(f"{folder}: incomplete or damaged")
    assert "delete it" in message


def test_errors_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        describe("imagefolder:/nowhere/at/all", tmp_path)
