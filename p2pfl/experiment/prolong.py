"""More rounds for a run that is there: whether it can have them, and its directory made ready for them."""

from __future__ import annotations

import re
from pathlib import Path

from p2pfl.config import RunConfig, replace_options
from p2pfl.errors import ConfigError
from p2pfl.modes import mode_of
from p2pfl.report import known_facts, summarize, write_summary
from p2pfl.run.agreement import SCHEDULES_OVER_ALL_ROUNDS
from p2pfl.run.directory import open_run_dir, write_settings
from p2pfl.run.paths import MODEL_FILE, peer_dirs
from p2pfl.run.records import read_recorded, read_rounds
from p2pfl.run.repair import mend

_CHECKPOINT = re.compile(r"round-(\d{6,})\.safetensors")


def has_other_rounds(run_dir: Path, config: RunConfig) -> bool:
    """Whether a run is to be resumed with another number of rounds than it was started with.

    Raises ConfigError where it cannot: its schedule spreads the learning rate over all rounds, it has no checkpoints,
    or has done more rounds already.
    """
    topology, saved = open_run_dir(run_dir)
    asked, before = config.training.rounds, saved.training.rounds
    if asked == before:
        return False
    if saved.training.schedule in SCHEDULES_OVER_ALL_ROUNDS:
        model = run_dir / MODEL_FILE
        remedy = f"start a new run from its model: --init {model}" if model.is_file() else "leave it out"
        raise ConfigError(
            f"--rounds {asked}: {run_dir} was started with {before}, and --schedule {saved.training.schedule} "
            f"depends on their number; {remedy}"
        )
    if not saved.record.checkpoint:
        raise ConfigError(f"--rounds {asked}: {run_dir} keeps no checkpoints to go on from; leave it out")
    done = max(_rounds_done(folder) for folder in peer_dirs(run_dir, topology))
    if asked < done:
        raise ConfigError(f"--rounds {asked}: {run_dir} has done {done} rounds; choose {done} or more")
    return True


def prolong(run_dir: Path, config: RunConfig) -> None:
    """Make a run directory that of a run with the rounds of `config`, interrupted after those that are done.

    Peers go on from their checkpoints of the last training round: what they recorded of the consensus phase, which
    comes again after the new last round, is cut first, so that at any instant the directory is that of an interrupted
    run with the old or with the new number of rounds.

    Raises ConfigError or CheckpointError naming what cannot be written.
    """
    topology, saved = open_run_dir(run_dir)
    before = saved.training.rounds
    for folder in peer_dirs(run_dir, topology):
        if any(record.round > before for record in read_rounds(folder)):
            mend(folder, before, sketched=mode_of(saved).has_peers)
    write_settings(run_dir, replace_options(saved, rounds=config.training.rounds))
    facts = known_facts(run_dir)
    if facts:  # a launcher has called the run complete, which it is no longer
        write_summary(run_dir, summarize(run_dir, **facts))


def _rounds_done(folder: Path) -> int:
    """The last training round of which a process has a record or a checkpoint."""
    recorded = [record.round for record in read_recorded(folder).rounds if record.phase == "train"]
    names = (_CHECKPOINT.fullmatch(path.name) for path in folder.glob("checkpoint/*"))
    return max([*recorded, *(int(name[1]) for name in names if name)], default=0)
