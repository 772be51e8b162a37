"""Results of tuning: trials of each cell, chosen values, cautions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from p2pfl.errors import ConfigError, unreadable
from p2pfl.report.output import write_text
from p2pfl.run.paths import TUNING_FILE, TUNING_FOLDER
from p2pfl.util.files import read_file


class Trial(msgspec.Struct, frozen=True):
    """One trial: the values tried, and the accuracy on the validation set.

    `run`: its folder below `tuning`. `diverged`: why it has no accuracy, if it diverged; `unmeasured`: why, if it was
    complete. All are empty for a trial still to run. `settings`: digest of its settings, topology and data, where it
    diverged and left no folder that has them.
    """

    run: str
    values: dict[str, float]
    accuracy: float | None = None
    diverged: str = ""
    unmeasured: str = ""
    settings: str = ""

    @property
    def lost(self) -> str:
        """Why it has no accuracy; empty for a trial that has one, or is still to run."""
        return self.diverged or self.unmeasured


class CellTuning(msgspec.Struct, frozen=True):
    """Trials of one cell."""

    cell: str
    trials: list[Trial]

    @property
    def chosen(self) -> Trial | None:
        """Most accurate trial, of equal ones that with the smaller values.

        None where none has an accuracy.
        """
        known = [trial for trial in self.trials if trial.accuracy is not None]
        return min(known, key=lambda trial: (-(trial.accuracy or 0.0), tuple(trial.values.values())), default=None)

    @property
    def is_complete(self) -> bool:
        """Whether no trial is still to be run."""
        return all(trial.accuracy is not None or trial.lost for trial in self.trials)


class Tuning(msgspec.Struct, frozen=True):
    """Tuning of a comparison: seed, fraction held back, trials of each cell."""

    seed: int
    validation: float
    cells: list[CellTuning]


def loss_text(trials: Sequence[Trial]) -> str:
    """End of trials of which none has an accuracy, such as all trials diverged."""
    diverged = sum(bool(trial.diverged) for trial in trials)
    if diverged == len(trials):
        return "all trials diverged"
    if diverged == 0:
        return "all trials ended without a model to measure"
    return f"{diverged} of {len(trials)} trials diverged, and the others ended without a model to measure"


def loss_remedy(trials: Sequence[Trial]) -> str:
    """Remedy where no trial has an accuracy."""
    if any(trial.diverged for trial in trials):
        return "add smaller values to --tune"
    return f"delete their folders below {TUNING_FOLDER}/, and the same command runs them again"


def values_text(values: Mapping[str, float]) -> str:
    """Values of a trial, such as lr 0.05, momentum 0.9."""
    return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in values.items())


def run_name(cell: str, values: Mapping[str, float]) -> str:
    """Folder's name of a trial, and beginning of a run's, which ends with its seed.

    Each value is written in full.
    """
    return cell + "".join(f"-{name.replace('_', '-')}-{value!r}" for name, value in values.items())


def write_tuning(folder: Path, tuning: Tuning) -> None:
    """Write trials and choices to a comparison's folder, atomically.

    Raises ConfigError.
    """
    cells = [
        {"cell": one.cell, "chosen": one.chosen and one.chosen.values, "trials": msgspec.to_builtins(one.trials)}
        for one in tuning.cells
    ]
    found = {"seed": tuning.seed, "validation": tuning.validation, "cells": cells}
    (folder / TUNING_FOLDER).mkdir(exist_ok=True)  # where the only trial has left nothing
    write_text(folder / TUNING_FOLDER / TUNING_FILE, json.dumps(found, indent=2, allow_nan=False) + "\n")


def read_tuning(folder: Path) -> Tuning | None:
    """Read the trials of a comparison; None where nothing was tuned.

    Raises ConfigError where the file cannot be read.
    """
    path = folder / TUNING_FOLDER / TUNING_FILE
    try:
        return msgspec.json.decode(read_file(path), type=Tuning)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(unreadable(path, error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable ({error}); delete it, and the same command makes it again") from None


def tuning_of(folder: Path, run_dirs: Sequence[Path]) -> Tuning | None:
    """Tuning that chose the values of these runs, which are in its folder.

    None for other runs: an earlier comparison in this folder may have left its trials. Raises ConfigError as
    `read_tuning` does.
    """
    found = read_tuning(folder)
    chosen = [] if found is None else [(one.cell, one.chosen) for one in found.cells]
    names = tuple(f"{run_name(cell, trial.values)}-seed-" for cell, trial in chosen if trial is not None)
    inside = (run.name.startswith(names) and run.resolve().parent == folder.resolve() for run in run_dirs)
    return found if all(inside) else None


def cautions(tuning: Tuning) -> list[str]:
    """Sentences about choices at an end of the list, and cells without a choice."""
    found, ends = [], dict[str, list[str]]()
    for one in tuning.cells:
        chosen = one.chosen
        if chosen is None and one.is_complete:
            tried = "; ".join(values_text(trial.values) for trial in one.trials)
            found.append(f"{one.cell}: {loss_text(one.trials)} ({tried}), so it was not run; {loss_remedy(one.trials)}")
        for name, value in {} if chosen is None else chosen.values.items():
            if end := _end(name, value, one.trials):
                option = name.replace("_", "-")
                sentence = f"the best {option}, {value:g}, is the {end} tried; widen the list"
                ends.setdefault(sentence, []).append(one.cell)
    return [*found, *(f"{', '.join(cells)}: {sentence}" for sentence, cells in ends.items())]


def _end(name: str, value: float, trials: Sequence[Trial]) -> str:
    """End of the values tried that a value is; empty for others, or a single one."""
    tried = sorted({trial.values[name] for trial in trials})
    if len(tried) < 2:
        return ""
    return {tried[0]: "smallest", tried[-1]: "largest"}.get(value, "")
