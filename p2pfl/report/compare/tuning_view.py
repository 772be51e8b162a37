"""Tuning on the page: table of trials, accuracy by value, curves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from p2pfl.errors import P2PFLError
from p2pfl.report import style
from p2pfl.report.compare.curves import points
from p2pfl.report.compare.line_styles import line_style
from p2pfl.report.compare.tuning import CellTuning, Trial, Tuning, cautions, values_text
from p2pfl.report.load import load_run
from p2pfl.report.output import Plot
from p2pfl.run.paths import REPORT_FILE, TUNING_FOLDER
from p2pfl.util.units import percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3  # of panels
_WIDTH, _HEIGHT = 4.2, 2.6  # inches of a panel
_TITLE = 44  # characters of its title


@dataclass(frozen=True)
class Tuned:
    """Tuning of a comparison, and the folder with its trials' run directories."""

    tuning: Tuning
    folder: Path

    @property
    def cells(self) -> list[CellTuning]:
        """Cells with their trials."""
        return self.tuning.cells


def tuning_view(folder: Path, tuning: Tuning | None) -> dict[str, Any]:
    """Values of the page's template; `tuning` is None where nothing was tuned."""
    if tuning is None:
        return {"tuning": None}
    columns = list(dict.fromkeys(values_text(trial.values) for one in tuning.cells for trial in one.trials))
    rows = [(one.cell, [_cell(folder, one, column) for column in columns]) for one in tuning.cells]
    return {
        "tuning": {
            "columns": columns,
            "rows": rows,
            "cautions": cautions(tuning),
            "held_back": f"{100 * tuning.validation:g} %",
            "seed": tuning.seed,
        }
    }


def _cell(folder: Path, one: CellTuning, column: str) -> dict[str, Any]:
    trial = next((trial for trial in one.trials if values_text(trial.values) == column), None)
    if trial is None:
        return {"text": "–", "chosen": False, "link": None, "why": ""}
    report = folder / TUNING_FOLDER / trial.run / REPORT_FILE
    link = quote(f"{TUNING_FOLDER}/{trial.run}/{REPORT_FILE}") if report.is_file() else None
    text = "–" if trial.accuracy is None else percent_text(trial.accuracy)
    text = "diverged" if trial.diverged else "no model" if trial.unmeasured else text
    return {"text": text, "chosen": trial == one.chosen, "link": link, "why": trial.lost}


def tuning_json(tuning: Tuning | None) -> dict[str, Any] | None:
    """Tuning as JSON: the trials of each cell, what was chosen, and the cautions."""
    if tuning is None:
        return None
    cells = [
        {
            "cell": one.cell,
            "chosen": None if one.chosen is None else one.chosen.values,
            "trials": [{name: getattr(trial, name) for name in Trial.__struct_fields__} for trial in one.trials],
        }
        for one in tuning.cells
    ]
    return {"seed": tuning.seed, "validation": tuning.validation, "cells": cells, "cautions": cautions(tuning)}


def draw_values(tuned: Tuned) -> Figure:
    """Validation accuracy by value of the first option tuned, a panel a cell."""
    figure, panels = _panels(tuned.cells)
    name = next(iter(tuned.cells[0].trials[0].values))
    for axes, one in zip(panels, tuned.cells, strict=False):
        best: dict[float, float] = {}  # over the values of other options
        for trial in one.trials:
            if trial.accuracy is not None:
                best[trial.values[name]] = max(trial.accuracy, best.get(trial.values[name], 0.0))
        tried = sorted({trial.values[name] for trial in one.trials})
        known = [(value, 100 * best[value]) for value in tried if value in best]
        if known:
            axes.plot(*zip(*known, strict=True), color=style.BLUE, marker="o")
        low = axes.get_ylim()[0]
        lost = [value for value in tried if value not in best]
        axes.plot(lost, [low] * len(lost), color=style.VERMILION, marker="x", linestyle="none")
        chosen = one.chosen
        if chosen is not None:
            axes.plot([chosen.values[name]], [100 * (chosen.accuracy or 0.0)], color=style.ORANGE, marker="*", ms=12)
        _name(axes, one, name.replace("_", "-"))
        if tried[0] > 0:
            _log_scale(axes, tried)
    return figure


def draw_trials(tuned: Tuned) -> Figure:
    """Validation accuracy by round of each trial, a panel for each cell."""
    figure, panels = _panels(tuned.cells)
    values = list(dict.fromkeys(values_text(trial.values) for one in tuned.cells for trial in one.trials))
    for axes, one in zip(panels, tuned.cells, strict=False):
        for trial in one.trials:
            own = line_style(values.index(values_text(trial.values)))
            look: dict[str, Any] = {"color": own.color, "linestyle": own.line, "marker": own.marker}
            with suppress(P2PFLError):  # deleted since, or lost before its first evaluation
                found = points(load_run(tuned.folder / TUNING_FOLDER / trial.run))
                rounds, means = [point.round for point in found], [100 * point.mean for point in found]
                axes.plot(rounds, means, label=values_text(trial.values), linewidth=1.2, **look)
        _name(axes, one, "round")
        axes.locator_params(axis="x", integer=True)
    named = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(named)}
    shown = [handles[value] for value in values if value in handles]
    if shown:
        figure.legend(handles=shown, loc="outside upper center", ncols=min(len(shown), 6))
    return figure


def _panels(cells: Sequence[CellTuning]) -> tuple[Figure, Sequence[Axes]]:
    columns = min(len(cells), _COLUMNS)
    rows = -(-len(cells) // columns)
    figure = style.new_figure(_WIDTH * columns, _HEIGHT * rows + 0.4)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).ravel())
    for axes in panels[len(cells) :]:
        axes.set_axis_off()
    return figure, panels


def _name(axes: Axes, one: CellTuning, label: str) -> None:
    axes.set_title(style.plot_text(one.cell, _TITLE), fontweight="bold")
    place = axes.get_subplotspec()
    axes.set(xlabel=label, ylabel="validation accuracy (%)" if place is not None and place.is_first_col() else "")


def _log_scale(axes: Axes, tried: Sequence[float]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xticks(tried, [f"{value:g}" for value in tried])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


TUNING_PLOTS: tuple[Plot[Tuned], ...] = (
    Plot(
        "tuning-values",
        "Validation accuracy by value",
        "Best over the other options tried, if there are any. Star: chosen. Cross: diverged, or without a model.",
        draw_values,
        wide=True,
    ),
    Plot(
        "tuning-curves",
        "Validation accuracy of the trials by round",
        "Mean of the peers, or the coordinator's or pooled model. Before a trial's last round a part of the validation "
        "set may have been used.",
        draw_trials,
        wide=True,
    ),
)
