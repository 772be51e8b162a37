"""Copy of a partition's file in the run directory, and the name that its user gave."""

from __future__ import annotations

from pathlib import Path

from p2pfl.config import RunConfig
from p2pfl.run.directory import create_run_dir, open_run_dir
from p2pfl.run.partition_file import given_path, notes_as_given
from p2pfl.topology import make_topology


def started(folder: Path, file: str, name: str) -> RunConfig:
    """Settings that a new run directory has kept."""
    config = RunConfig.of("ring.graphml", partition=f"file:{file}", run_dir=str(folder / name))
    return open_run_dir(create_run_dir(make_topology("ring", 4), config))[1]


def test_a_run_directory_keeps_the_path_that_its_user_gave(tmp_path: Path) -> None:
    given = tmp_path / "hospitals é.csv"
    given.write_text("sample,peer\n0,0\n")
    saved = started(tmp_path, str(given), "first")
    copy = saved.data.partition_file
    assert copy == str(tmp_path / "first" / "partition.csv")
    assert given_path(copy) == str(given)
    assert notes_as_given([f"--partition file:{copy}: 3 are not used"], saved) == (
        f"--partition file:{given}: 3 are not used",
    )
    again = started(tmp_path, copy, "second")
    assert given_path(str(again.data.partition_file)) == str(given), "of a run with the settings of the first"


def test_a_file_that_is_no_copy_keeps_its_path(tmp_path: Path) -> None:
    saved = started(tmp_path, _written(tmp_path), "run")
    (tmp_path / "run" / "partition-name.txt").unlink()
    assert given_path(str(saved.data.partition_file)) == saved.data.partition_file, "of an older version"
    assert given_path("partition.json") == "partition.json"


def _written(folder: Path) -> str:
    path = folder / "split.json"
    path.write_text('{"0": [0]}')
    return str(path)
