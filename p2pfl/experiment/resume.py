"""Resume a run: where it starts from, and preparation for more rounds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import safetensors

from p2pfl.config import RunConfig, replace_options
from p2pfl.errors import CheckpointError, ConfigError, OtherVersionError
from p2pfl.modes import Roles, mode_of
from p2pfl.report import known_facts, read_summary, summarize, write_summary
from p2pfl.run.directory import open_run_dir, rounds_unsaved, write_settings
from p2pfl.run.fingerprint import SCHEDULES_OVER_ALL_ROUNDS
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
from p2pfl.run.records import read_recorded, read_rounds
from p2pfl.run.recovery import RecoveryLine
from p2pfl.run.repair import repair
from p2pfl.util.files import check_regular

_UNKNOWN = -1  # there is something, and its own process says by name why it cannot be used now


def starting_point(
    roles: Roles, config: RunConfig, run_dir: Path, again: str | None = None, line: RecoveryLine | None = None
) -> str:
    """Describe in one line where a resumed run starts from, as its directory tells.

    `again`: the command that repeats a run of a comparison. `line`: where peers continue, if not from their newest.
    Only names and headers of checkpoints are read; each process checks the rest of the checkpoint that it loads.

    Raises CheckpointError where rounds were done and no checkpoint of them can be used.
    """
    if not config.record.checkpoint:
        return "begins at round 1: the run keeps no checkpoints"
    folders = peer_dirs(run_dir, roles.topology)
    holders = range(roles.topology.n) if roles.coordinator is None else [roles.coordinator]
    newest = [_newest_round(run_dir, folders[index], roles.topology.names[index], index) for index in holders]
    if not any(newest):
        if _shows_rounds(run_dir, folders, rounds_unsaved(run_dir, config)):
            who = "no peer has a" if roles.coordinator is None and roles.topology.n > 1 else "there is no"
            raise CheckpointError(
                f"{run_dir}: rounds were done, and {who} checkpoint that can be used in {run_dir / PEERS_FOLDER}",
                remedy=new_run(config, run_dir, again),
                resumable=False,
            )
        return "begins at round 1: the run was stopped before it had saved a checkpoint"
    if line is not None and line.lowered:
        return _back(line) if roles.coordinator is None else _back_with_coordinator(line)
    last = config.training.rounds + roles.consensus_rounds - 1  # the very last round is always done again
    return _text([min(number, last) for number in newest if number > 0])


def new_run(config: RunConfig, run_dir: Path, again: str | None = None) -> str:
    """Remedy where a run cannot be resumed: the command for a new one like it."""
    if again is not None:
        return f"move {run_dir} away, then run it again with: {again}"
    return f"start a new run with: p2pfl {config.mode} --config {shlex.quote(str(run_dir / CONFIG_FILE))}"


def has_other_rounds(run_dir: Path, config: RunConfig) -> bool:
    """Whether a run is to be resumed with another number of rounds than before.

    Raises ConfigError where it cannot: its schedule spreads the learning rate over all rounds, it has no checkpoints,
    or has done more rounds already.
    """
    topology, saved = open_run_dir(run_dir)
    asked, before = config.training.rounds, saved.training.rounds
    if asked == before:
        return False
    if saved.training.schedule in SCHEDULES_OVER_ALL_ROUNDS:
        model = run_dir / MODEL_FILE
        remedy = f"start a new run from its model: --init {model}" if model.is_file() else "leave --rounds out"
        raise ConfigError(
            f"--rounds {asked}: {run_dir} was started with {before}, and --schedule {saved.training.schedule} "
            f"depends on their number; {remedy}"
        )
    _check_version(peer_dirs(run_dir, topology)[0])
    if not saved.record.checkpoint:
        raise ConfigError(f"--rounds {asked}: {run_dir} keeps no checkpoints to resume from; leave it out")
    done = max(_rounds_done(folder) for folder in peer_dirs(run_dir, topology))
    if asked < done:
        raise ConfigError(f"--rounds {asked}: {run_dir} has done {done} rounds; choose {done} or more")
    return True


def _check_version(peer_dir: Path) -> None:
    """Raise ConfigError for checkpoints of another version.

    In time, before anything of a finished run is changed.
    """
    from p2pfl.run.checkpoint import newest  # here, since it imports torch

    try:
        newest(peer_dir / CHECKPOINTS_FOLDER)
    except OtherVersionError as error:
        raise ConfigError(str(error)) from None


def prolong(run_dir: Path, config: RunConfig) -> None:
    """Give a run the number of rounds of `config`, as if it had been interrupted.

    Peers resume from their checkpoints of the last training round. Their records of the consensus phase, which comes
    again after the new last round, are cut first, so that at any instant the directory is that of an interrupted run
    with the old or with the new number of rounds.

    Raises ConfigError or CheckpointError naming the file that cannot be written.
    """
    topology, saved = open_run_dir(run_dir)
    before = saved.training.rounds
    for folder in peer_dirs(run_dir, topology):
        if any(record.round > before for record in read_rounds(folder)):
            repair(folder, before, sketched=mode_of(saved).has_peers)
    write_settings(run_dir, replace_options(saved, rounds=config.training.rounds))
    facts = known_facts(run_dir)
    if facts:  # a launcher has called the run complete, which it is no longer
        write_summary(run_dir, summarize(run_dir, **facts))


def _text(rounds: Sequence[int]) -> str:
    if not rounds:
        return "looking for checkpoints to resume from"
    low, high = min(rounds), max(rounds)
    if high < 1:
        return "begins at round 1 again"
    if low == high:
        return f"resuming after round {high}"
    return f"resuming after round {low} to {high}, each peer from its own newest checkpoint"


def _back(line: RecoveryLine) -> str:
    """Words about a run whose peers go back to a common round."""
    low, high = min(line.rounds), max(line.rounds)
    if high == 0:
        return "begins at round 1 again: not all peers had saved a checkpoint"
    to = f"round {high}, the newest that all have" if low == high else f"round {low} to {high}"
    return f"resuming after {to}; {len(line.lowered)} of {len(line.rounds)} peers go back from later checkpoints"


def _back_with_coordinator(line: RecoveryLine) -> str:
    """Words about a centralized run that goes back, as a client lacks its part."""
    return f"resuming after round {max(line.rounds)}: a client has not saved its part in the next one"


def _newest_round(run_dir: Path, peer_dir: Path, name: str, index: int) -> int:
    """Round of the newest checkpoint that looks whole, 0 without one, or `_UNKNOWN`."""
    try:
        run = run_id_of(run_dir, peer_dir)
        numbered = [
            (int(m[1]), path)
            for path in (peer_dir / CHECKPOINTS_FOLDER).iterdir()
            if (m := CHECKPOINT_NAME.fullmatch(path.name))
        ]
    except (FileNotFoundError, NotADirectoryError):
        return _UNKNOWN if (peer_dir / CHECKPOINTS_FOLDER).is_symlink() else 0
    except (OSError, CheckpointError):
        return _UNKNOWN
    found = 0
    for number, path in sorted(numbered, reverse=True):
        state = _look_into(path, number, {"peer": name, "index": index} | ({"run": run} if run else {}))
        if state > 0:
            return state
        found = found or state
    return found


def _look_into(path: Path, number: int, expected: dict[str, object]) -> int:
    """Round of a checkpoint file whose header is as expected; else 0 or `_UNKNOWN`."""
    try:
        check_regular(path)  # safetensors hides the system's errors, and waits for pipes
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})["p2pfl"])
        if {"round": number, **expected}.items() <= metadata.items():
            return number
        return 0 if expected.keys() <= metadata.keys() else _UNKNOWN  # another version's may say other things
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return 0
    except IsADirectoryError:
        return 0
    except (OSError, MemoryError):
        return _UNKNOWN


def _shows_rounds(run_dir: Path, folders: Sequence[Path], every: int) -> bool:
    """Whether a run directory shows that rounds were done and their weights saved.

    The first `every` rounds tell nothing: a process may be stopped after it has recorded these, before its first
    checkpoint is on disk.
    """
    recorded = max((record.round for folder in folders for record in read_rounds(folder)), default=0)
    if recorded > every or any(_newest_file(folder) > every for folder in folders):
        return True
    if (run_dir / MODEL_FILE).exists():
        return True
    try:
        completed = read_summary(run_dir).get("rounds_completed")
    except ConfigError:
        return recorded == 0 and any((run_dir / name).exists() for name in (REPORT_FILE, PLOTS_FOLDER))
    return isinstance(completed, int) and completed > recorded


def _rounds_done(folder: Path) -> int:
    """The last training round of which a process has a record or a checkpoint."""
    recorded = [record.round for record in read_recorded(folder).rounds if record.phase == "train"]
    return max([*recorded, _newest_file(folder)])


def _newest_file(folder: Path) -> int:
    """Newest round with a checkpoint file, intact or not; 0 if there is none."""
    names = (CHECKPOINT_NAME.fullmatch(path.name) for path in (folder / CHECKPOINTS_FOLDER).glob("*"))
    return max((int(name[1]) for name in names if name), default=0)
