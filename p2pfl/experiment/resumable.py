"""What a run that is to be resumed can go on from, looked for before any of its processes is started."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import safetensors

from p2pfl.config import RunConfig
from p2pfl.errors import CheckpointError, ConfigError
from p2pfl.modes import Roles
from p2pfl.report import read_summary
from p2pfl.run.identity import run_id_of
from p2pfl.run.paths import (
    CHECKPOINT_NAME,
    CHECKPOINTS_FOLDER,
    CONFIG_FILE,
    MODEL_FILE,
    PEERS_FOLDER,
    PLOTS_FOLDER,
    REPORT_FILE,
    peer_dirs,
)
from p2pfl.run.records import read_rounds
from p2pfl.util.files import check_regular

_NOT_LOST = -1  # there is something, and the process that it belongs to says by name why it cannot be used now


def starting_point(roles: Roles, config: RunConfig, run_dir: Path, again: str | None = None) -> str:
    """One line that says after which round a resumed run goes on, as its directory tells.

    `again`: the command that a run of a comparison is repeated by. Only names and headers of checkpoints are read; the
    processes check the rest, each its own.

    Raises CheckpointError where rounds were done and nobody has any weights of them.
    """
    if not config.record.checkpoint:
        return "begins at round 1: the run keeps no checkpoints"
    folders = peer_dirs(run_dir, roles.topology)
    holders = range(roles.topology.n) if roles.coordinator is None else [roles.coordinator]
    newest = [_newest_round(run_dir, folders[index], roles.topology.names[index], index) for index in holders]
    if not any(newest):
        if _shows_rounds(run_dir, folders):
            who = "no peer has a" if roles.coordinator is None and roles.topology.n > 1 else "there is no"
            raise CheckpointError(
                f"{run_dir}: rounds were done, and {who} checkpoint that can be used in {run_dir / PEERS_FOLDER}",
                remedy=new_run(config, run_dir, again),
                resumable=False,
            )
        return "begins at round 1: the run was stopped before it had saved a checkpoint"
    last = config.training.rounds + roles.consensus_rounds - 1  # the very last round is always done again
    return _text([min(number, last) for number in newest if number > 0])


def new_run(config: RunConfig, run_dir: Path, again: str | None = None) -> str:
    """The remedy where a run cannot be resumed: the command for a new one with the same settings."""
    if again is not None:
        return f"move {run_dir} away, then run it again with: {again}"
    return f"start a new run with: p2pfl {config.mode} --config {shlex.quote(str(run_dir / CONFIG_FILE))}"


def _text(rounds: Sequence[int]) -> str:
    if not rounds:
        return "looking for what the run can go on from"
    low, high = min(rounds), max(rounds)
    if high < 1:
        return "begins at round 1 again"
    if low == high:
        return f"going on after round {high}"
    return f"going on after round {low} to {high}, each peer from its own newest checkpoint"


def _newest_round(run_dir: Path, peer_dir: Path, name: str, index: int) -> int:
    """The round of a process's newest checkpoint that looks whole, 0 where there is none, or `_NOT_LOST`."""
    try:
        run = run_id_of(run_dir, peer_dir)
        numbered = [
            (int(m[1]), path)
            for path in (peer_dir / CHECKPOINTS_FOLDER).iterdir()
            if (m := CHECKPOINT_NAME.fullmatch(path.name))
        ]
    except (FileNotFoundError, NotADirectoryError):
        return _NOT_LOST if (peer_dir / CHECKPOINTS_FOLDER).is_symlink() else 0
    except (OSError, CheckpointError):
        return _NOT_LOST
    found = 0
    for number, path in sorted(numbered, reverse=True):
        state = _look_into(path, number, {"peer": name, "index": index} | ({"run": run} if run else {}))
        if state > 0:
            return state
        found = found or state
    return found


def _look_into(path: Path, number: int, expected: dict[str, object]) -> int:
    """The round of a checkpoint file that is whole by its header and says what is expected; else as above."""
    try:
        check_regular(path)  # safetensors hides the system's errors, and waits for pipes
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
        if {"round": number, **expected}.items() <= about.items():
            return number
        return 0 if expected.keys() <= about.keys() else _NOT_LOST  # another version's may say other things
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return 0
    except IsADirectoryError:
        return 0
    except (OSError, MemoryError):
        return _NOT_LOST


def _shows_rounds(run_dir: Path, folders: Sequence[Path]) -> bool:
    """Whether anything in a run directory shows that rounds were done whose weights were saved.

    One recorded round tells nothing: a process may be stopped after it has recorded its first, before it has saved it.
    """
    recorded = max((record.round for folder in folders for record in read_rounds(folder)), default=0)
    if recorded > 1 or any(any((folder / CHECKPOINTS_FOLDER).glob("round-*.safetensors")) for folder in folders):
        return True
    if (run_dir / MODEL_FILE).exists():
        return True
    try:
        completed = read_summary(run_dir).get("rounds_completed")
    except ConfigError:
        return recorded == 0 and any((run_dir / name).exists() for name in (REPORT_FILE, PLOTS_FOLDER))
    return isinstance(completed, int) and completed > recorded
