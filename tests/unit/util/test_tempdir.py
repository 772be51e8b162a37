"""Temporary folder of a launcher: removed, replaced, or left during a run."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from p2pfl.errors import ConfigError
from p2pfl.launch.fork_server import ForkServer
from p2pfl.util import tempdir


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tempdir.TemporaryFolder]:
    parent = tmp_path / "tmp"
    parent.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(parent))
    with tempdir.TemporaryFolder() as made:
        yield made


def cleaned(folder: tempdir.TemporaryFolder) -> Path:
    """Path of the folder after its removal."""
    shutil.rmtree(folder.path)
    return folder.path


def is_held(path: Path) -> bool:
    tempdir.remove_if_abandoned(path)
    return (path / tempdir.MARKER_FILE).read_bytes().startswith(b"temporary folder of a p2pfl launcher")


CLEANERS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _path: None,
    "all": shutil.rmtree,
    "marker": lambda path: (path / tempdir.MARKER_FILE).unlink(),
    "another marker": lambda path: (
        (path / tempdir.MARKER_FILE).unlink(),
        (path / tempdir.MARKER_FILE).write_bytes(b"another"),
    ),
}


@pytest.mark.parametrize("cleaner", CLEANERS)
def test_a_folder_that_something_cleans_is_made_again_and_held(folder: tempdir.TemporaryFolder, cleaner: str) -> None:
    path, sockets = folder.path, folder.subfolder()
    CLEANERS[cleaner](path)
    folder.ensure_subfolder(sockets)
    assert folder.ensure() == path
    assert is_held(path)
    assert tempdir.is_private(sockets)
    folder.close()
    assert list(path.parent.iterdir()) == []


def taken_by_link(path: Path, theirs: Path) -> None:
    path.symlink_to(theirs)


def taken_by_file(path: Path, _theirs: Path) -> None:
    path.write_text("theirs")


def taken_by_folder(path: Path, _theirs: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def taken_by_group(path: Path, _theirs: Path) -> None:
    path.mkdir()
    path.chmod(0o710)


def taken_by_another_user(path: Path, _theirs: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)


GONE = r"TMPDIR .*/tmp: no folder for sockets can be made there \(No such file.*set TMPDIR to a folder"
TAKERS = [taken_by_link, taken_by_file, taken_by_folder, taken_by_group, taken_by_another_user]


@pytest.mark.parametrize("take", TAKERS)
def test_a_name_that_somebody_has_taken_is_not_used(
    folder: tempdir.TemporaryFolder, tmp_path: Path, take: Callable[[Path, Path], None]
) -> None:
    if take is taken_by_another_user and os.geteuid() != 0:
        pytest.skip("needs root")
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "kept").write_text("kept")
    sockets = folder.subfolder()
    path = cleaned(folder)
    take(path, theirs)
    with pytest.raises(ConfigError, match="its name is taken; set TMPDIR"):
        folder.ensure_subfolder(sockets)
    assert folder.ensure() != path
    assert is_held(folder.path)
    assert tempdir.is_private(folder.subfolder())
    folder.close()
    assert os.path.lexists(path), "what is not ours is not removed"
    assert [entry.name for entry in theirs.iterdir()] == ["kept"]
    assert list(path.parent.iterdir()) == [path]


def test_a_link_in_the_place_of_a_marker_is_not_followed(folder: tempdir.TemporaryFolder, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    path = cleaned(folder)
    path.mkdir(mode=0o700)
    for name in (tempdir.MARKER_FILE, f".{tempdir.MARKER_FILE}"):
        (path / name).symlink_to(precious)
    folder.ensure()
    assert is_held(folder.path)
    assert precious.read_text() == "kept"


def test_only_private_folders_are_removed_as_abandoned(folder: tempdir.TemporaryFolder) -> None:
    path = folder.path
    marker = (path / tempdir.MARKER_FILE).read_bytes()
    left = [path.with_name(f"p2pfl-{name}") for name in ("open", "closed")]
    for other, mode in zip(left, (0o755, 0o700), strict=True):
        other.mkdir()
        other.chmod(mode)
        (other / tempdir.MARKER_FILE).write_bytes(marker)
    link = path.with_name("p2pfl-link")
    link.symlink_to(left[1])
    tempdir.remove_if_abandoned(link)
    assert left[1].exists()
    tempdir.remove_abandoned(path.parent)
    assert sorted(path.parent.iterdir()) == sorted([path, left[0], link])


def test_a_folder_that_cannot_be_made_names_tmpdir(folder: tempdir.TemporaryFolder) -> None:
    sockets, parent = folder.subfolder(), folder.path.parent
    shutil.rmtree(parent)
    for use in (folder.ensure, folder.subfolder, lambda: folder.ensure_subfolder(sockets)):
        with pytest.raises(ConfigError, match=GONE):
            use()
    parent.mkdir()
    folder.ensure_subfolder(sockets)
    assert tempdir.is_private(sockets), "it may come back"


@pytest.mark.processes  # that none is started is what matters
def test_a_fork_server_is_not_blamed_for_a_folder_that_is_gone(
    folder: tempdir.TemporaryFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(import_module("p2pfl.launch.fork_server"), "stop_server", lambda: stopped.append("stopped"))
    shutil.rmtree(folder.path.parent)
    with pytest.raises(ConfigError, match=GONE):
        ForkServer(folder).start("probe", print)
    assert stopped == []


def test_a_full_disk_leaves_nothing_behind(folder: tempdir.TemporaryFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (folder.path / tempdir.MARKER_FILE).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(ConfigError, match="No space left"):
            folder.ensure()
        with pytest.raises(ConfigError, match="No space left"):
            tempdir.TemporaryFolder()
    assert list(folder.path.parent.rglob("*")) == [folder.path]
    assert is_held(folder.ensure())
