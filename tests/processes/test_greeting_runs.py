"""Peers on several machines compare their settings before any of them trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.support.peer_pair import Pair
from tests.support.picture_files import folder

from p2pfl.run import checkpoint

pytestmark = pytest.mark.processes


def test_other_images_under_the_same_spelling_are_named_by_both_and_nobody_trains(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.copy(tmp_path / "b/train/cat/0.png", tmp_path / "b/train/cat/extra.png")
    for name in "ab":  # each machine has its data in a folder of the same name
        (tmp_path / f"on-{name}").mkdir()
        (tmp_path / name).rename(tmp_path / f"on-{name}" / "data")
    ends = pair.run(
        *(pair.words(node, tmp_path / f"on-{name}" / "data") for node, name in zip("01", "ab", strict=True))
    )
    for node, other, end in zip("01", "10", ends, strict=True):
        assert end.returncode == 2
        (line,) = end.stderr.splitlines()
        assert f"peer {node}: peer '{other}' has other data of the same classes (imagefolder: " in line
        assert "6 training and 2 test images" in line
        assert "7 training and 2 test images" in line
        assert pair.records(node) == 0


def test_the_same_data_under_two_paths_is_one_data_set_and_the_run_gets_more_rounds(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "b")
    ends = pair.run(pair.words("0", tmp_path / "a"), pair.words("1", tmp_path / "elsewhere" / "b"))
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 2
    before = load_file(tmp_path / "run-0" / "consensus.safetensors")
    more = [
        ["--resume", str(tmp_path / f"run-{node}"), "--rounds", rounds] for node, rounds in zip("01", "23", strict=True)
    ]
    for other, end in zip("10", pair.run(*more), strict=True):  # which are not the same, and are kept
        assert end.returncode == 2
        assert f"peer '{other}' has --rounds" in end.stderr
    ends = pair.run(*(["--resume", str(tmp_path / f"run-{node}"), "--rounds", "3"] for node in "01"))
    assert [(end.returncode, end.stderr) for end in ends] == [(0, "")] * 2
    assert [pair.records(node) for node in "01"] == [3, 3]
    after = load_file(tmp_path / "run-0" / "consensus.safetensors")
    assert not torch.equal(before["layer.weight"], after["layer.weight"])
    saved = [checkpoint.newest(tmp_path / f"run-{node}" / "peers" / node / "checkpoint")[0] for node in "01"]
    assert [one.round for one in saved if one is not None] == [3, 3]
