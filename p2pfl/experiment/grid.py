"""Runs of a comparison: all of a plan, one after the other, with one fork server.

Runs that are complete are kept, and interrupted ones are resumed. All map the same cache file of the data set, which is
decoded once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from p2pfl import data
from p2pfl.config import replace_options
from p2pfl.errors import DivergenceError, P2PFLError
from p2pfl.experiment.checks import COMPLETE, check_data, check_splits, state_of
from p2pfl.experiment.plan import Cell, Planned, describe_plan
from p2pfl.experiment.run import run
from p2pfl.experiment.tune import TunedCell, Tuner, plan_final
from p2pfl.launch import session
from p2pfl.report import complete_summary, write_report
from p2pfl.report.compare.tuning import loss_remedy, loss_text, values_text
from p2pfl.run.data_record import DataRecord, read_data_record
from p2pfl.run.paths import CONFIG_FILE, REPORT_FILE, TUNING_FILE, TUNING_FOLDER
from p2pfl.ui import OverallProgress
from p2pfl.util.signals import interruptible
from p2pfl.util.units import counted, seconds_text


@dataclass(frozen=True)
class GridPlan:
    """Cells of a comparison, its seeds, and the trials of cells that are tuned."""

    cells: Sequence[Cell]
    seeds: tuple[int, ...]
    tuned: Sequence[TunedCell] | None = None

    @property
    def trials(self) -> list[Planned]:
        """Trials in the order of running."""
        return [trial.planned for one in self.tuned or () for trial in one.trials]

    @property
    def finals(self) -> list[Planned]:
        """Runs that are compared; with tuning, their values are still to be chosen."""
        return [cell.with_seed(seed) for cell in self.cells for seed in self.seeds]

    @property
    def names(self) -> set[str]:
        """Folders' names of all trials, and of runs with any values that may be chosen."""
        runs = (
            run
            for one in self.tuned or ()
            for trial in one.trials
            for run in plan_final(one.cell, trial.values, self.seeds)
        )
        return {one.name for one in (*self.trials, *(self.finals if self.tuned is None else runs))}

    @property
    def first(self) -> Planned:
        """First run."""
        return [*self.trials, *self.finals][0]


def describe_grid(plan: GridPlan) -> str:
    """All runs and how much each processes, as lines for people; trials first."""
    if plan.tuned is None:
        return describe_plan(plan.finals)
    samples = sum(one.samples for one in [*plan.trials, *plan.finals])
    return "\n".join(
        [
            f"{counted(len(plan.trials), 'trial')}, evaluated on the {plan.first.config.data.validation:g} of the "
            "training set that they hold back:",
            describe_plan(plan.trials),
            f"then {counted(len(plan.finals), 'run')} with the values chosen, on the whole training set:",
            describe_plan(plan.finals),
            f"{samples:,} samples in all",
        ]
    )


def time_left(folder: Path, plan: GridPlan) -> str | None:
    """Estimate of the time left, by those of the plan's runs that are complete.

    None where there is no such run. The folder may hold others, of values that are no longer tried.
    """
    below, names = [*runs_below(folder), *runs_below(folder / TUNING_FOLDER)], plan.names
    there = [path for path in below if path.name in names]
    known = [summary for path in there if (summary := complete_summary(path)) is not None and summary["seconds"]]
    done, seconds = sum(one["samples_total"] for one in known), sum(one["seconds"] for one in known)
    if not done:
        return None
    left = max(0, sum(one.samples for one in [*plan.trials, *plan.finals]) - done)
    return f"about {seconds_text(left * seconds / done)} left, by the {counted(len(known), 'run')} in {folder}"


@dataclass(frozen=True)
class GridResult:
    """Folders of the runs that are compared, and names of runs that diverged."""

    made: list[Path]
    diverged: list[str]


def run_grid(
    folder: Path,
    plan: GridPlan,
    say: Callable[[str], None],
    progress: data.Progress = lambda *_: None,
    *,
    again: str,
) -> GridResult:
    """Run all trials, choose the values of each cell, and run these with all seeds.

    Without tuning, only the runs. A trial or run that diverges is lost, and the others continue; a cell of which all
    trials do is left out. Trials and runs that are complete are kept, and values are chosen from the trials each time.
    An incomplete one is resumed. `again` is the command that resumes the comparison.

    Raises ConfigError where a folder holds another run, or the data set's content is not that of the runs so far;
    Interrupted and P2PFLError as `run` does, and P2PFLError where nothing is left to compare.
    """
    runner = _Runner([*plan.trials, *plan.finals], say, progress, again)
    diverged: list[str] = []
    with runner.at_work([*runs_below(folder / TUNING_FOLDER), *runs_below(folder)]):
        if plan.tuned is None:
            with contextlib.suppress(OSError):  # of an earlier comparison in this folder; its trials stay
                (folder / TUNING_FOLDER / TUNING_FILE).unlink()
            finals = plan.finals
        else:
            finals = _tuned_runs(folder, plan, runner)
        for final in finals:
            if runner.run(folder / final.name, final):
                diverged.append(final.name)
    made = [folder / final.name for final in finals if (folder / final.name / CONFIG_FILE).is_file()]
    if finals and len(diverged) == len(finals):
        raise P2PFLError("all runs diverged", remedy="lower --lr, or add smaller values to --tune")
    return GridResult(made, diverged)


def _tuned_runs(folder: Path, plan: GridPlan, runner: _Runner) -> list[Planned]:
    """Run the trials, and plan the runs with the values chosen."""
    assert plan.tuned is not None
    tuner, finals = Tuner(folder, plan.tuned, plan.first.config.data.validation), []
    for one in plan.tuned:
        for trial in one.trials:
            if lost := tuner.why_lost(trial):
                runner.skip(tuner.folder / trial.planned.name, trial.planned, f"lost: {lost}")
            else:
                lost = runner.run(tuner.folder / trial.planned.name, trial.planned)
            tuner.finish(one.cell, trial, lost)
    for one in plan.tuned:
        found = tuner.of_cell(one.cell)
        if found.chosen is None:
            runner.leave_out(
                [one.cell.with_seed(seed) for seed in plan.seeds], f"{found.cell}: {loss_text(found.trials)}"
            )
        else:
            runner.say(f"{found.cell}: chosen {values_text(found.chosen.values)}")
            finals += plan_final(one.cell, found.chosen.values, plan.seeds)
    if not finals:
        trials = [trial for found in tuner.result().cells for trial in found.trials]
        raise P2PFLError(f"no cell has a value to run with: {loss_text(trials)}", remedy=loss_remedy(trials))
    return finals


def runs_below(folder: Path) -> list[Path]:
    """Run directories directly below a comparison's folder."""
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))


class _Runner:
    """Runs of a comparison, one after the other."""

    def __init__(
        self, planned: Sequence[Planned], say: Callable[[str], None], progress: data.Progress, again: str
    ) -> None:
        self._planned = planned
        self.say = say
        self._progress = progress
        self._again = again
        self._number = 0
        self._overall = OverallProgress([one.samples for one in planned])
        self._recorded: dict[Path, DataRecord] = {}

    @contextlib.contextmanager
    def at_work(self, folders: Sequence[Path]) -> Iterator[Self]:
        """Check data set and partitions, then provide what all runs share.

        `folders`: those that may hold runs already. Between two runs, too, a signal leaves nothing behind.
        """
        there = [path for path in folders if (path / CONFIG_FILE).is_file()]
        self._recorded = {path: record for path in there if (record := read_data_record(path)) is not None}
        check_data(self._recorded, self._planned[0].config, self._progress)
        launcher, most = self._planned[0].config.launch, max(one.topology.n for one in self._planned)
        with interruptible(), session(launcher, most + 1):
            check_splits(self._planned, self._progress)
            yield self

    def run(self, run_dir: Path, one: Planned) -> str:
        """Run one, resume it, or keep it if it is complete.

        Returns why it diverged; empty if it did not.
        """
        state = state_of(run_dir, one)
        self._begin(one, state)
        if state == COMPLETE:
            if not (run_dir / REPORT_FILE).exists():  # an interrupt came before it
                write_report(run_dir)
            self._overall.end(one.samples)
            return ""
        check_data(self._recorded, one.config, self._progress)  # again: it may have taken hours until here
        self._overall.begin(one.samples, one.config.training.batch_size, bool(state))
        config = one.config if state else replace_options(one.config, run_dir=str(run_dir))
        before = run_dir if state else None
        try:
            run(config, one.topology, resume=before, again=self._again, overall=self._overall)
        except DivergenceError as error:
            self._overall.end(one.samples, is_complete=False)
            self.say(f"lost: {error}")
            return str(error)
        self._overall.end(one.samples)
        self.say(f"done: {self._overall.text()}")
        if (record := read_data_record(run_dir)) is not None:
            self._recorded[run_dir] = record
        return ""

    def skip(self, run_dir: Path, one: Planned, why: str) -> None:
        """Pass over one that need not be run again.

        Raises ConfigError where its folder holds another run.
        """
        state_of(run_dir, one)
        self._begin(one, why)
        self._overall.end(one.samples)

    def leave_out(self, runs: Sequence[Planned], why: str) -> None:
        """Pass over the runs of a cell of which no trial has an accuracy."""
        self._number += len(runs)
        for one in runs:
            self._overall.end(one.samples)
        self.say(f"{why}; it is left out")

    def _begin(self, one: Planned, state: str) -> None:
        self._number += 1
        said = f" ({state})" if state else ""
        self.say(f"\nrun {self._number} of {len(self._planned)}: {one.name}{said}")
