"""Copy of a partition's file in the run directory, and its user's path."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.run.directory import check_new, create_run_dir, open_run_dir
from p2pfl.run.partition_file import check_partition, given_path, notes_as_given
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


@pytest.mark.parametrize("is_file", [True, False])
def test_a_used_run_dir_is_refused_before_a_dry_run_describes_it(tmp_path: Path, is_file: bool) -> None:
    taken = tmp_path / "taken"
    if is_file:
        taken.write_text("")
    else:
        taken.mkdir()
        check_new(str(taken))
        (taken / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=f"^--run-dir {taken}: exists already; choose another$"):
        check_new(str(taken))
    check_new(None)
    check_new(str(tmp_path / "new"))


def test_another_content_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    file, run_dir = _written(tmp_path), tmp_path / "run"
    saved = started(tmp_path, file, "run")
    now = RunConfig.of("ring.graphml", partition=f"file:{file}")
    check_partition(now, run_dir, saved)
    check_partition(RunConfig.of("ring.graphml"), run_dir, saved)
    Path(file).write_text('{"0": [1]}')
    with pytest.raises(ConfigError, match=f"^--partition file:{file}: {run_dir} was made with another content of it;"):
        check_partition(now, run_dir, saved)
