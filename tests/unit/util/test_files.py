"""Files that p2pfl reads or appends to: regular and bounded, or refused at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.commands import run as command
from tests.support.runs import make_run

from p2pfl import make_topology
from p2pfl.cli import main
from p2pfl.data import load as load_cached
from p2pfl.data.image_folder import files_content
from p2pfl.errors import CheckpointError, DataError, P2PFLError, unforeseen
from p2pfl.faults import load_faults
from p2pfl.faults.injector import fired
from p2pfl.model.weights_file import read_weights
from p2pfl.run import checkpoint
from p2pfl.run.identity import read_run_id, write_run_id
from p2pfl.run.records import append_round, read_recorded
from p2pfl.run.sketch_file import read_sketches
from p2pfl.topology import load_topology, save_topology
from p2pfl.util.files import UnfitError, check_regular, opener, read_file, read_if_any, replace_file, truncate_file

RING = make_topology("ring", 3)
FORMS = ("pipe", "device", "folder")


def put(path: Path, form: str) -> Path:
    """Something that is no regular file, in its place."""
    path.unlink(missing_ok=True)
    if form == "pipe":
        os.mkfifo(path)
    elif form == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "run id": ("run.id", lambda path: read_run_id(path.parent)),
    "sketches": ("sketches.f32", lambda path: read_sketches(path.parent)),
    "rounds": ("rounds.jsonl", lambda path: read_recorded(path.parent, strict=True)),
    "fired faults": ("faults.fired", lambda path: fired(path)),
    "fault script": ("faults.toml", lambda path: load_faults(path, 0)),
    "initial weights": ("init.safetensors", read_weights),
    "checkpoint": ("round-000001.safetensors", checkpoint.load),
    "topology": ("ring.graphml", load_topology),
    "topology written": ("new.graphml", lambda path: save_topology(RING, path)),
    "cached data": ("digits.safetensors", load_cached),
    "picture": ("a.png", lambda path: files_content(path.parent, [(str(path), 0)], lambda *_: None)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_what_is_no_regular_file(reader: str, form: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    with pytest.raises(P2PFLError) as error:
        read(put(tmp_path / name, form))
    assert name in str(error.value)
    if form != "folder":
        assert "not a regular file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_every_writer_refuses_it_too(form: str, tmp_path: Path) -> None:
    put(tmp_path / "rounds.jsonl", form)
    record = read_recorded(make_run(tmp_path / "run", RING, rounds=1) / "peers" / "0").rounds[0]
    with pytest.raises(CheckpointError, match=r"rounds.jsonl: cannot be written \((not a regular|Is a dir)"):
        append_round(tmp_path, record, None)
    put(tmp_path / "old.tmp", form)
    for write in (lambda: replace_file(tmp_path / "old", b"new"), lambda: truncate_file(tmp_path / "rounds.jsonl", 0)):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            write()
    put(tmp_path / "error.txt", form)
    assert str(tmp_path / "error.txt") not in str(unforeseen(KeyError(1), tmp_path))


def test_a_file_beyond_all_bounds_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**40)  # without a block on the disk
    for name in ("rounds.jsonl", "sketches.f32", "run.id", "ring.graphml", "faults.toml"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to("large")
    for read in (
        lambda: read_recorded(tmp_path, strict=True),
        lambda: read_sketches(tmp_path),
        lambda: read_run_id(tmp_path),
        lambda: load_topology(tmp_path / "ring.graphml"),
        lambda: load_faults(tmp_path / "faults.toml", 0),
    ):
        with pytest.raises(P2PFLError, match=r"larger than [\d,]+ MiB"):
            read()


def test_regular_files_are_read_and_missing_ones_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 3) == b"abc"
    with pytest.raises(UnfitError, match="larger than 0 MiB"):
        read_file(tmp_path / "file", 2)
    assert read_if_any(tmp_path / "none") == b""
    with pytest.raises(UnfitError, match="null byte"):
        check_regular("a\0b")
    with open(tmp_path / "new", "a", opener=opener) as file:
        file.write("x")
    assert (tmp_path / "new").read_text() == "x"
    assert write_run_id(tmp_path) == read_run_id(tmp_path)


def test_settings_that_are_no_regular_file_are_not_called_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", RING, rounds=1)
    commands = (["report", str(run)], ["gossip", "--resume", str(run)], ["compare", str(run)])
    for form, said in (("pipe", "not a regular file"), ("device", "not a regular file"), ("folder", "is a folder")):
        put(run / "config.toml", form)
        for words in commands:
            assert main(words) == 2
            [line] = capsys.readouterr().err.splitlines()
            assert "config.toml" in line
            assert said in line
        (run / "config.toml").rmdir() if form == "folder" else (run / "config.toml").unlink()
    (run / "config.toml").symlink_to("nowhere")
    assert main(commands[0]) == 2
    assert "it links to nowhere, which is missing" in capsys.readouterr().err


@pytest.mark.processes
def test_a_resumed_run_refuses_pipes_and_devices_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ("--dataset", "digits", "--width", "0.0625", "--rounds", "2", "--local-steps", "1", "--batch-size", "2")
    assert command("sgd", *small, "--run-dir", str(run)).returncode == 0
    (run / "summary.json").unlink()
    peer = next((run / "peers").iterdir())
    for name, form in (("rounds.jsonl", "device"), ("log.txt", "pipe")):
        (peer / name).rename(peer / "kept")
        put(peer / name, form)
        done = command("sgd", "--resume", str(run), timeout=200)
        assert done.returncode == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("p2pfl: ")]
        assert f"{name}: cannot be " in line
        assert "(not a regular file); put a regular file in its place" in line
        (peer / "kept").replace(peer / name)


def test_a_pipe_among_the_files_of_cifar_is_not_waited_for(tmp_path: Path) -> None:
    from p2pfl.data import prepare

    (tmp_path / "cifar-10-batches-py").mkdir()
    put(tmp_path / "cifar-10-batches-py" / "data_batch_1", "pipe")
    with pytest.raises(DataError, match=r"data_batch_1: cannot be read \(not a regular file\)"):
        prepare("cifar10", tmp_path, lambda *_: None)
