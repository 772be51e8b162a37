"""Run directory that peers make at the same time, as those of a Slurm job do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.errors import ConfigError
from p2pfl.run.data_record import DataRecord, keep_data_record, read_data_record
from p2pfl.run.directory import create_run_dir, open_run_dir

RING = make_topology("ring", 3)
SCRIPT = '[[fault]]\nkind = "kill"\npeer = "1"\nround = 2\n'
STEPS = [(os, "replace"), (os, "mkdir"), (shutil, "copyfile"), (Path, "write_bytes"), (Path, "iterdir"), (Path, "glob")]


def interleaved(other: Callable[[], object], step: int, work: Callable[[], object]) -> bool:
    """Do a peer's work, and another's before one of its steps; False if it has fewer."""
    count = 0

    def hooked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                with pytest.MonkeyPatch.context() as plain:
                    for owner, name in STEPS:
                        plain.setattr(owner, name, originals[owner, name])
                    other()
            return function(*args, **options)

        return call

    originals = {(owner, name): getattr(owner, name) for owner, name in STEPS}
    with pytest.MonkeyPatch.context() as patched:
        for owner, name in STEPS:
            patched.setattr(owner, name, hooked(originals[owner, name]))
        work()
    return count >= step


def test_another_peer_may_make_it_between_any_two_steps(tmp_path: Path) -> None:
    (tmp_path / "script.toml").write_text(SCRIPT)
    for step in range(1, 100):
        run_dir = tmp_path / str(step)
        config = RunConfig.of(run_dir=str(run_dir), dataset="digits", faults=str(tmp_path / "script.toml"))
        if not interleaved(
            lambda config=config: create_run_dir(RING, config, "1"),
            step,
            lambda config=config: create_run_dir(RING, config, "0"),
        ):
            break
        assert open_run_dir(run_dir)[0].n == 3
        assert (run_dir / "faults.toml").read_text() == SCRIPT
        assert [path.name for path in run_dir.iterdir() if path.name.startswith(".")] == []
    assert step > 10


def test_what_a_killed_peer_has_left_is_completed(tmp_path: Path) -> None:
    (tmp_path / "run" / "peers" / "0").mkdir(parents=True)
    (tmp_path / "run" / ".config.toml.4711").write_text("half")
    create_run_dir(RING, RunConfig.of(run_dir=str(tmp_path / "run"), dataset="digits"), "0")
    assert open_run_dir(tmp_path / "run")[0].n == 3


def test_a_folder_of_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    with pytest.raises(ConfigError, match="exists already"):
        create_run_dir(RING, RunConfig.of(run_dir=str(tmp_path), dataset="digits"), "0")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_peers_may_record_the_data_at_the_same_time(tmp_path: Path) -> None:
    record = DataRecord("digits", "0123", augment=False)
    for step in range(1, 100):
        folder = tmp_path / str(step)
        folder.mkdir()
        keep = lambda folder=folder: keep_data_record(folder, record)  # noqa: E731
        if not interleaved(keep, step, keep):
            break
        assert read_data_record(folder) == record
        assert [path.name for path in folder.iterdir()] == ["data.json"]
    assert step > 1
