"""The digest of a data set's content: what changes it, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.support.picture_files import folder

from p2pfl import data


def content(path: Path, cache: Path) -> str:
    return data.load(data.prepare(f"imagefolder:{path}", cache, lambda *_: None)).content


def add(path: Path) -> None:
    shutil.copy(path / "train/cat/0.png", path / "train/cat/3.png")


def remove(path: Path) -> None:
    (path / "test/dog/0.png").rename(path / "test/dog/1.png")


def alter(path: Path) -> None:
    Image.open(path / "train/cat/0.png").save(path / "train/cat/0.png", compress_level=0)  # the same pixels


def swap(path: Path) -> None:
    for old, new in (("0", "x"), ("1", "0"), ("x", "1")):
        (path / f"train/dog/{old}.png").rename(path / f"train/dog/{new}.png")


def rename_class(path: Path) -> None:
    for split in ("train", "test"):
        (path / split / "dog").rename(path / split / "wolf")


CHANGES = {"one more": add, "another name": remove, "other bytes": alter, "swapped": swap, "class": rename_class}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    here = tmp_path_factory.mktemp("original")
    path = folder(here / "data")
    return path, content(path, here / "cache")


@pytest.mark.parametrize("name", CHANGES)
def test_what_files_hold_and_their_names_below_the_folder_count(
    tmp_path: Path, original: tuple[Path, str], name: str
) -> None:
    path = Path(shutil.copytree(original[0], tmp_path / "changed"))
    CHANGES[name](path)
    assert content(path, tmp_path / "cache") != original[1]


def test_the_folder_itself_and_times_do_not_count_and_nothing_is_read_twice(
    tmp_path: Path, original: tuple[Path, str]
) -> None:
    path = Path(shutil.copytree(original[0], tmp_path / "elsewhere" / "copy"))
    os.utime(path / "train/cat/0.png", (1, 1))
    assert content(path, tmp_path / "cache") == original[1]
    said: list[str] = []
    again = data.prepare(f"imagefolder:{path}", tmp_path / "cache", lambda what, *_: said.append(what))
    assert data.load(again).content == original[1]
    assert said == []


def test_arrays_of_a_function_count_and_its_name_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import numpy as np
def make(order, classes=("x", "y")):
    images = np.arange(4).repeat(32 * 32 * 3).reshape(4, 32, 32, 3).astype(np.uint8)
    labels = np.array([0, 1, 0, 1])
    return {"train_images": images[order], "train_labels": labels[order], "test_images": images,
            "test_labels": labels, "classes": classes}
def one(): return make([0, 1, 2, 3])
def same(): return make([0, 1, 2, 3])
def reordered(): return make([2, 1, 0, 3])
def renamed(): return make([0, 1, 2, 3], ("x", "z"))
"""
    (tmp_path / "content_functions.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = {
        name: data.load(data.prepare(f"content_functions:{name}", tmp_path, lambda *_: None)).content
        for name in ("one", "same", "reordered", "renamed")
    }
    assert found["one"] == found["same"]
    assert len(set(found.values())) == 3
