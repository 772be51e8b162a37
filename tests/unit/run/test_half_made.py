"""Run directories whose making or removal was interrupted.

Files that somebody else put there stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfl import RunConfig, make_topology
from p2pfl.errors import ConfigError, Interrupted
from p2pfl.experiment import grid
from p2pfl.experiment import run as swarm
from p2pfl.experiment.grid import GridPlan
from p2pfl.experiment.plan import CompareOptions, plan_cells
from p2pfl.run import directory as rundir
from p2pfl.run.directory import create_run_dir, open_run_dir, remove_unused
from p2pfl.run.new_directory import remove_incomplete

SCRIPT = '[[fault]]\nkind = "kill"\npeer = "1"\nround = 2\n'
STEPS = [(os, "replace"), (os, "mkdir"), (shutil, "copyfile"), (Path, "write_text"), (Path, "write_bytes")]


class Killed(BaseException):
    """End of a process that no `except Exception` catches."""


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException]) -> Callable[[], int]:
    """Let a process make some files, then end it; returns the number of attempts."""
    count = 0

    def limited(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise error
            return work(*args, **options)

        return call

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, limited(getattr(owner, name)))
    return lambda: count


def settings(folder: Path) -> RunConfig:
    (folder / "script.toml").write_text(SCRIPT)
    return RunConfig.of(run_dir=str(folder / "run"), dataset="digits", faults=str(folder / "script.toml"))


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_whatever_a_killed_process_has_made_is_made_again(tmp_path: Path, error: type[BaseException]) -> None:
    config, ring = settings(tmp_path), make_topology("ring", 3)
    run_dir, left = tmp_path / "run", set[str]()
    for step in range(100):
        with pytest.MonkeyPatch.context() as patched:
            stopped_at(patched, step, error)
            try:
                create_run_dir(ring, config)
                break
            except error:
                pass
        if error is KeyboardInterrupt:
            assert not run_dir.exists(), "what the user interrupts is taken back at once"
            continue
        left |= {path.name for path in run_dir.iterdir()} if run_dir.exists() else set()
        assert remove_incomplete(run_dir) == run_dir.exists() or not run_dir.exists()
        assert not run_dir.exists(), step
    assert step > 6
    seen = {name for name in ("run.id", "faults.toml", ".config.toml.") if any(one.startswith(name) for one in left)}
    assert error is KeyboardInterrupt or len(seen) == 3
    assert not remove_incomplete(run_dir)
    assert open_run_dir(run_dir)[0].n == 3


def test_a_removal_that_was_stopped_in_its_middle_is_finished(tmp_path: Path) -> None:
    run_dir = create_run_dir(make_topology("ring", 3), settings(tmp_path))
    (run_dir / "peers" / "0" / "log.txt").write_text("ready")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        remove_unused(run_dir)
    assert run_dir.exists()
    assert remove_incomplete(run_dir)
    assert not run_dir.exists()


@pytest.mark.parametrize(
    "name",
    ["precious.txt", "peers/0/rounds.jsonl", "peers/0/notes.txt", "peers/0/checkpoint/x", ".hidden", "config.tmp"],
)
def test_what_holds_anything_else_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / "theirs" / name
    path.parent.mkdir(parents=True)
    path.write_text("not ours")
    assert not remove_incomplete(tmp_path / "theirs")
    assert path.read_text() == "not ours"


def test_a_comparison_makes_a_half_made_run_again_and_refuses_what_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = RunConfig.of(dataset="digits", rounds=1, local_steps=1, batch_size=8, model="vgg11", width=0.0625)
    plan = GridPlan(plan_cells(base, CompareOptions((make_topology("ring", 3),))), (0,))
    folder = tmp_path / plan.first.name
    (folder / "peers" / "0").mkdir(parents=True)
    for name in ("faults.toml", ".config.toml.tmp", ".run.id.4711"):
        (folder / name).write_text("half")
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr(grid, "run", lambda config, topology, **options: begun.append(options))
    grid.run_grid(tmp_path, plan, lambda line: None, again="again")
    assert [(one["again"], one["resume"]) for one in begun] == [("again", None)], "a new run, none that is resumed"
    assert not folder.exists()
    folder.mkdir()
    (folder / "precious.txt").write_text("not ours")
    with pytest.raises(ConfigError, match="not a run directory"):
        grid.run_grid(tmp_path, plan, lambda line: None, again="again")
    assert (folder / "precious.txt").exists()


@pytest.mark.parametrize("resumed", [True, False])
def test_an_interruption_before_the_first_round_takes_back_a_new_run_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(swarm, "launch", interrupted)
    config, ring = RunConfig.of(run_dir=str(tmp_path / "run"), dataset="digits"), make_topology("ring", 3)
    resume = create_run_dir(ring, config) if resumed else None
    if resume is not None:
        (resume / "notes.txt").write_text("mine")
    with pytest.raises(Interrupted if resumed else KeyboardInterrupt):
        swarm.run(config, ring, resume=resume)
    assert (tmp_path / "run").exists() == resumed
    if resumed:
        assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
        assert rundir.open_run_dir(tmp_path / "run")[0].n == 3
