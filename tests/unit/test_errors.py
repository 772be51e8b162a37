"""Remedies in errors: by kind of failure, not by the place that prints it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.support.commands import run as command
from tests.support.paths import ROOT
from tests.support.runs import make_run

from p2pfl import RunConfig, make_topology
from p2pfl.cli import main
from p2pfl.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    P2PFLError,
    TrainingError,
    TransportError,
    UnreadableError,
    explained,
    unforeseen,
    unreadable,
    unwritable,
)
from p2pfl.experiment import run as swarm
from p2pfl.launch import Outcome
from p2pfl.node import messages
from p2pfl.report import style
from p2pfl.run import checkpoint
from p2pfl.run.directory import create_run_dir, locked
from p2pfl.util.files import read_if_any

RING = str(ROOT / "topologies" / "ring-4.graphml")


def _folder_there(at: Path) -> Path:
    (at / "taken").mkdir()
    return at / "taken"


def _file_above(at: Path) -> Path:
    (at / "file").touch()
    return at / "file" / "below"


def _loop(at: Path) -> Path:
    (at / "loop").symlink_to(at / "loop")
    return at / "loop"


REAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "folder in the place": (_folder_there, "it is a folder: move it away"),
    "file as a folder": (_file_above, "file is a file, not a folder: move it away"),
    "no folder": (lambda at: at / "none" / "file", "make the folder "),
    "long name": (lambda at: at / ("x" * 300), "choose a shorter name"),
    "links in a circle": (_loop, "correct the symbolic links"),
}


@pytest.mark.parametrize("kind", REAL)
def test_each_kind_of_refusal_has_the_remedy_that_fits(kind: str, tmp_path: Path) -> None:
    make, remedy = REAL[kind]
    path = make(tmp_path)
    with pytest.raises(OSError, match=r"\[Errno") as refused:
        path.write_text("x")
    assert unwritable(path, refused.value).partition("; ")[2].startswith(remedy.replace("file is", f"{path.parent} is"))
    with pytest.raises(OSError, match=r"\[Errno") as refused:
        path.read_text()
    assert unreadable(path, refused.value).startswith(f"{path}: cannot be read (")


def test_a_link_to_nowhere_says_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("disk")
    assert read_if_any(tmp_path / "nothing") == b""
    with pytest.raises(
        UnreadableError, match=r"it links to disk, which is missing: bring that back, or remove the link$"
    ):
        read_if_any(tmp_path / "link")


def test_what_cannot_be_tried_here_has_a_remedy_too_or_none() -> None:
    path = Path("some/file")
    expected = {
        errno.ENOSPC: "; make room there",
        errno.EDQUOT: "; make room there",
        errno.EFBIG: "; raise the limit of file sizes (ulimit -f), or choose another disk",
        errno.EMFILE: "; raise the limit of open files (ulimit -n)",
        errno.EROFS: "; choose a place that can be written",
        errno.EACCES: "writable",
        errno.EIO: "(Input/output error)",
        errno.ENXIO: f"({os.strerror(errno.ENXIO)})",
    }
    for number, end in expected.items():
        said = os.strerror(number)
        assert unwritable(path, OSError(number, said)).endswith(end)
        by_words = RuntimeError(f'Error while serializing: I/O error: {said} (os error {number}) at path "/x"')
        assert unwritable(path, by_words) == unwritable(path, OSError(number, said))
    assert unwritable(path, RuntimeError()) == "some/file: cannot be written (RuntimeError)"


def test_a_folder_named_like_a_checkpoint_is_to_be_moved_away(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoint(1, 1, "layout", "settings", torch.zeros(2), torch.zeros(2))
    in_the_way = tmp_path / "round-000001.safetensors"
    (in_the_way / "something").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"round-000001.safetensors: .*; it is a folder: move it away") as error:
        checkpoint.save(tmp_path, saved)
    assert error.value.resumable


def test_what_settings_cause_is_not_resumable_and_says_so_to_the_launcher() -> None:
    errors = {
        TrainingError("the loss is nan", remedy="lower --lr"): (False, False),
        ConfigError("--lr 0: must be greater than 0"): (True, False),
        CheckpointError("x: none of it is whole", remedy="start a new run", resumable=False): (False, False),
        CheckpointError("x: cannot be written"): (False, True),
        TransportError("peer 1 is silent"): (False, True),
    }
    for error, (usage, resumable) in errors.items():
        message = messages.decode_from_worker(messages.encode(messages.failed(error)))
        assert message == messages.Failed(str(error), usage, resumable)
    assert str(next(iter(errors))) == "the loss is nan; lower --lr"


KILLED, NOT_A_NUMBER = "peer 1: killed", "peer 1: nan; lower --lr"
RESUME = "; resume with: p2pfl gossip --resume"
ENDS: dict[str, tuple[Outcome, dict[str, bool], type[P2PFLError], str]] = {
    "resumable": (Outcome("failed", KILLED), {}, P2PFLError, KILLED + RESUME),
    "settings": (Outcome("failed", NOT_A_NUMBER, resumable=False), {}, P2PFLError, NOT_A_NUMBER),
    "interrupted": (Outcome("interrupted", "interrupted"), {}, Interrupted, "interrupted" + RESUME),
    "no checkpoints": (Outcome("failed", KILLED), {"checkpoint": False}, P2PFLError, "killed; start again with: "),
}


@pytest.mark.parametrize("end", ENDS)
def test_only_what_resuming_can_help_advises_it(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, options, kind, said = ENDS[end]
    monkeypatch.setattr(swarm, "launch", lambda *_: outcome)
    monkeypatch.setattr(style, "save", lambda figure, path: path.write_text("<svg></svg>"))
    config = RunConfig.of(dataset="digits", rounds=1, run_dir=str(tmp_path / "run"), **options)
    with pytest.raises(P2PFLError) as error:
        swarm.run(config, make_topology("ring", 3))
    assert type(error.value) is kind
    assert said in str(error.value)
    assert ("--resume" in str(error.value)) == (end != "settings")


def test_only_a_run_directory_is_to_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "of").mkdir(parents=True)
    run = make_run(tmp_path / "run", make_topology("ring", 3), rounds=1)
    for there in (tmp_path / "file", tmp_path / "folder", run):
        with pytest.raises(ConfigError, match="exists already; choose another") as error:
            create_run_dir(make_topology("ring", 3), RunConfig.of(run_dir=str(there)))
        assert ("--resume" in str(error.value)) == (there == run)
    with pytest.raises(ConfigError, match=r"file is a file, not a folder: move it away"):
        create_run_dir(make_topology("ring", 3), RunConfig.of(run_dir=str(tmp_path / "file" / "run")))
    with pytest.raises(ConfigError, match="nowhere: cannot be read"), locked(tmp_path / "nowhere"):
        pass


def test_a_traceback_goes_to_the_run_directory_else_to_the_temp_folder_else_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, temp = tmp_path / "run", tmp_path / "temp"
    run.mkdir()
    temp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temp))
    with pytest.raises(P2PFLError, match=r"unforeseen KeyError: 1 \(see .*run/error.txt\)$"), explained(run):
        raise KeyError(1)
    assert "KeyError: 1" in (run / "error.txt").read_text()
    for folder in (None, tmp_path / "none", run / "error.txt"):
        assert f"see {temp}/p2pfl-error-" in str(unforeseen(ValueError("a\nb"), folder))
    assert all("ValueError" in path.read_text() for path in temp.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    text = str(unforeseen(OSError(errno.EMFILE, "Too many open files"), None))
    assert "no traceback could be written: FileNotFoundError" in text
    assert text.endswith("; raise the limit of open files (ulimit -n)")
    with pytest.raises(ConfigError, match=r"^said$"), explained(run):
        raise ConfigError("said")


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), MemoryError(), ValueError("a\nb\x1b[31m")])
def test_whatever_escapes_a_command_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("p2pfl.topology.load_topology", broken)
    assert main(["topology", "show", RING]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"p2pfl: unforeseen {type(error).__name__}")
    assert "\x1b" not in lines[0]
    assert type(error).__name__ in next(tmp_path.iterdir()).read_text()


@pytest.mark.processes
def test_too_few_open_files_is_one_line(tmp_path: Path) -> None:
    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))

    options = ("--dataset", "digits", "--width", "0.0625", "--rounds", "1", "--run-dir", str(tmp_path / "run"))
    done = command("gossip", RING, *options, preexec_fn=limited)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "p2pfl: only 16 files may be open at once, and this run needs up to 73; "
        "raise the limit (ulimit -n 73), or take fewer processes or neighbors"
    ]
    assert not (tmp_path / "run").exists()
