"""Tuning of a comparison: trials on a validation set, and choice of values.

The test set plays no part in it: trials do not read it. The runs that are compared have the chosen values, train on the
whole training set, and read the test set only after their last round: for the peers, and for the final model.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pfl import config as settings
from p2pfl.config import replace_options
from p2pfl.errors import ConfigError
from p2pfl.experiment.plan import Cell, Planned
from p2pfl.modes import has_final_model
from p2pfl.report import complete_summary
from p2pfl.report.compare.tuning import CellTuning, Trial, Tuning, read_tuning, write_tuning
from p2pfl.run.paths import TUNING_FOLDER

VALIDATION = 0.1  # held back, unless --validation is given


@dataclass(frozen=True)
class TuneOptions:
    """Values to be tried of options in `config.TUNABLE`, all combinations of them.

    `share`: the rounds of a trial, as a share of those of the run. `validation`: the fraction held back.
    """

    values: Mapping[str, tuple[float, ...]]
    share: float = 1.0
    validation: float = VALIDATION


@dataclass(frozen=True)
class PlannedTrial:
    """A trial before it is run: the values tried, and its run."""

    values: dict[str, float]
    planned: Planned


@dataclass(frozen=True)
class TunedCell:
    """A cell with its trials."""

    cell: Cell
    trials: tuple[PlannedTrial, ...]


def plan_tuning(cells: Sequence[Cell], options: TuneOptions, seed: int) -> list[TunedCell]:
    """Plan the trials of each cell, all with one seed.

    Raises ConfigError, which names the cell, where a value does not fit.
    """
    return [
        TunedCell(cell, tuple(_trial(cell, values, options, seed) for values in _products(options))) for cell in cells
    ]


def _products(options: TuneOptions) -> list[dict[str, float]]:
    names = list(options.values)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*options.values.values())]


def _trial(cell: Cell, values: dict[str, float], options: TuneOptions, seed: int) -> PlannedTrial:
    before = cell.config
    rounds = max(1, round(before.training.rounds * options.share))
    every = before.record.eval_every or 1
    try:
        config = replace_options(
            before,
            **values,
            seed=seed,
            rounds=rounds,
            eval_every=max(1, round(every * rounds / before.training.rounds)),
            validation=options.validation,
            test=False,
            profile=None,
        )
        settings.check_together(config)
    except ConfigError as error:
        raise ConfigError(f"--tune: {cell.name}: {error}") from None
    return PlannedTrial(values, Planned(f"{cell.name}{_suffix(values)}", config, cell.topology, cell.steps))


def plan_final(cell: Cell, values: Mapping[str, float], seeds: Sequence[int]) -> list[Planned]:
    """Plan the runs of a cell with the chosen values, on the whole training set.

    They are evaluated after the last round only.
    """
    config = replace_options(cell.config, **values, validation=0.0, test=True, eval_every=cell.config.training.rounds)
    chosen = dataclasses.replace(cell, name=f"{cell.name}{_suffix(values)}", config=config)
    return [chosen.with_seed(seed) for seed in seeds]


def _suffix(values: Mapping[str, float]) -> str:
    """End of a folder's name; each value is written in full."""
    return "".join(f"-{name.replace('_', '-')}-{value!r}" for name, value in values.items())


class Tuner:
    """Results of the trials so far, kept in the comparison's folder after each."""

    def __init__(self, folder: Path, cells: Sequence[TunedCell], validation: float) -> None:
        self.folder = folder / TUNING_FOLDER
        self._comparison = folder
        before = read_tuning(folder)
        lost = {trial.run: trial.diverged for one in (before.cells if before else ()) for trial in one.trials}
        seed = cells[0].trials[0].planned.config.record.seed
        self._cells = {
            one.cell.name: {
                trial.planned.name: Trial(trial.planned.name, trial.values, None, lost.get(trial.planned.name, ""))
                for trial in one.trials
            }
            for one in cells
        }
        self._seed, self._validation = seed, validation

    def why_lost(self, trial: PlannedTrial) -> str:
        """Reason why a trial of an earlier call diverged; empty without its folder."""
        known = next(own[trial.planned.name] for own in self._cells.values() if trial.planned.name in own)
        return known.diverged if (self.folder / trial.planned.name).is_dir() else ""

    def finish(self, cell: Cell, trial: PlannedTrial, diverged: str) -> None:
        """Take the result of a trial, which is complete or has diverged."""
        name = trial.planned.name
        accuracy = None if diverged else self._accuracy(trial)
        self._cells[cell.name][name] = Trial(name, trial.values, accuracy, diverged)
        write_tuning(self._comparison, self.result())

    def _accuracy(self, trial: PlannedTrial) -> float | None:
        """Validation accuracy of the final model, or without one of the mean peer."""
        summary = complete_summary(self.folder / trial.planned.name) or {}
        has_model = has_final_model(trial.planned.config)
        value = summary.get("consensus_accuracy" if has_model else "mean_peer_accuracy")
        return None if value is None else float(value)

    def result(self) -> Tuning:
        """All results so far."""
        cells = [CellTuning(name, list(own.values())) for name, own in self._cells.items()]
        return Tuning(self._seed, self._validation, cells)

    def chosen(self, cell: Cell) -> dict[str, float] | None:
        """Chosen values of a cell; None where all trials diverged."""
        best = CellTuning(cell.name, list(self._cells[cell.name].values())).chosen
        return None if best is None else best.values
