"""Plots of accuracy, training loss and consensus distance of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.config import EvaluationSet
from p2pfl.modes import has_final_model
from p2pfl.report import style
from p2pfl.report.evaluated import accuracy_label, curve_set, evaluation_set, sets_of
from p2pfl.report.load import RecordedRun, mixing_distances, model_record, training_distances
from p2pfl.topology import mixing_bounds
from p2pfl.util.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Kind of `mixing_bounds` -> style of its line.
_BOUNDS: dict[str, dict[str, Any]] = {
    "plain": {"label": "bound for plain mixing, (1 − gap)$^k$", "linestyle": "--"},
    "chebyshev": {"label": "bound for Chebyshev, 1 / T$_k$(1 / (1 − gap))", "linestyle": ":", "linewidth": 2.4},
}
_CROWDED = 40  # points from which dots are smaller
# Mode -> label of the line of training loss.
_LOSS_OF: dict[str, str] = {"centralized": "mean of the clients' updates", "sgd": "model"}


@dataclass(frozen=True)
class Axis:
    """Horizontal axis of an accuracy plot: label and position of a finished round.

    `place` None stands for the number of the round.
    """

    label: str
    place: Callable[[RecordedRun, int], float] | None = None
    of_bytes: bool = False

    def at(self, run: RecordedRun, number: int) -> float:
        """Position of a round."""
        return number if self.place is None else self.place(run, number)


def draw_accuracy(run: RecordedRun, axis: Axis) -> Figure:
    """Accuracy of each evaluated round against `axis`.

    A line on one set, and marks for what was measured on another.
    """
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot()
    unit, label = 1, axis.label
    if axis.of_bytes:
        unit, name = byte_unit(axis.at(run, max(run.rounds, default=0)))
        label = f"{label} ({name})"
    measured = {number: row for number in run.finished("train") if (row := _accuracies(run, number))}
    seen = {number: row for number, row in measured.items() if _is_on(run, number, curve_set(run))}
    model = model_record(run)
    ends = [record for number in measured for record in run.rounds[number]] + ([] if model is None else [model])
    axes.set(xlabel=label, ylabel=accuracy_label(sets_of(ends)))
    if not seen:
        return style.empty_plot(figure, axes, "No finished round was evaluated.")
    x = [axis.at(run, number) / unit for number in seen]
    if run.has_peer_models:
        _draw_spread(axes, x, list(seen.values()))
    else:
        axes.plot(x, [fmean(row) for row in seen.values()], color=style.BLUE, label=run.mode.model_name)
    _mark_evaluations(axes, run, list(seen), x, [fmean(row) for row in seen.values()])
    others = {axis.at(run, number) / unit: row for number, row in measured.items() if number not in seen}
    if others:
        _mark_tested(axes, others)
    _mark_model(axes, run, lambda number: axis.at(run, number) / unit)
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 100.0 + (high - low) * 0.03))
    axes.set_xlim(left=0)
    if axis.place is None:
        axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best")
    return figure


def _accuracies(run: RecordedRun, number: int) -> list[float]:
    """Accuracies of a round in percent; empty unless all of its records have one."""
    row = [100 * r.test_accuracy for r in run.rounds[number] if r.test_accuracy is not None]
    return row if len(row) == len(run.rounds[number]) else []


def _is_on(run: RecordedRun, number: int, on: EvaluationSet) -> bool:
    return sets_of(run.rounds[number]) == {on}


def _mark_tested(axes: Axes, rows: Mapping[float, Sequence[float]]) -> None:
    """Accuracies on the test set beside a line of the validation set.

    Means, and bars from worst to best.
    """
    means = [fmean(row) for row in rows.values()]
    spread = np.array([(mean - min(row), max(row) - mean) for mean, row in zip(means, rows.values(), strict=True)])
    look: dict[str, Any] = {"color": style.VERMILION, "capsize": 3, "linestyle": "none", "marker": "s"}
    axes.errorbar(list(rows), means, yerr=spread.T, markersize=5, label="on the test set", **look)


def _draw_spread(axes: Axes, x: Sequence[float], rows: Sequence[Sequence[float]]) -> None:
    worst, mean, best = ([f(row) for row in rows] for f in (min, fmean, max))
    axes.fill_between(x, worst, best, color=style.BLUE, alpha=0.22, linewidth=0, label="worst to best peer")
    axes.plot(x, worst, color=style.BLUE, linewidth=0.8, linestyle=":")
    axes.plot(x, mean, color=style.BLUE, label="mean of the peers")


def _mark_evaluations(axes: Axes, run: RecordedRun, rounds: list[int], x: list[float], y: list[float]) -> None:
    """Full dots for the whole set, hollow ones for a part of it."""
    on, records = curve_set(run), [run.rounds[number][0] for number in rounds]
    sizes = np.array([record.test_samples or 0 for record in records])
    # A validation set may never have been used as a whole; the test set has been, in a round or another.
    whole = sizes == sizes.max()
    if on == "validation":
        whole = np.array([record.class_accuracy is not None for record in records])
    places, values = np.array(x), np.array(y)
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": style.BLUE}
    look["markersize"] = 4.5 if len(rounds) < _CROWDED else 2.5
    axes.plot(places[whole], values[whole], **look)
    if not whole.all():
        total = f" of {sizes.max():,}" if whole.any() else ""
        label = f"measured on {sizes.min():,}{total} {on} samples"
        axes.plot(places[~whole], values[~whole], markerfacecolor=style.SURFACE, label=label, **look)


def _mark_model(axes: Axes, run: RecordedRun, place: Callable[[int], float]) -> None:
    model = model_record(run)
    if model is None or model.test_accuracy is None:
        return
    value = 100 * model.test_accuracy
    name = run.mode.model_name if run.mode.mixes else f"final {run.mode.model_name}"
    name += f" on the {evaluation_set(model)} set" if evaluation_set(model) != curve_set(run) else ""
    look: dict[str, Any] = {"marker": "*", "markersize": 13, "color": style.VERMILION, "markeredgecolor": style.INK}
    axes.plot([place(model.round)], [value], linestyle="none", label=f"{name}, {value:.2f} %", clip_on=False, **look)


def draw_loss(run: RecordedRun) -> Figure:
    """Training loss by round."""
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot(xlabel="round", ylabel="training loss")
    rows = {n: [r.train_loss for r in run.rounds[n] if r.train_loss is not None] for n in run.finished("train")}
    seen = {number: row for number, row in rows.items() if row}
    if not seen:
        return style.empty_plot(figure, axes, "No finished round has a training loss.")
    low, mean, high = ([f(row) for row in seen.values()] for f in (min, fmean, max))
    if run.has_peer_models:
        band: dict[str, Any] = {"color": style.ORANGE, "alpha": 0.3, "linewidth": 0}
        axes.fill_between(list(seen), low, high, label="lowest to highest peer", **band)
    label = _LOSS_OF.get(run.mode.name, "mean of the peers")
    axes.plot(list(seen), mean, color=style.VERMILION, marker="o", markevery=_every(seen), label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="upper right")
    return figure


def draw_distance(run: RecordedRun) -> Figure:
    """Consensus distance of peers that mix: in training, and in the consensus phase.

    The bounds of mixing are drawn beside the latter.
    """
    figure = style.new_figure(2 * style.WIDTH, style.HEIGHT)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.set_title("during training")
    right.set(xlabel="round of the consensus phase", title="consensus phase")
    trained = training_distances(run)
    if not trained:
        style.empty_plot(figure, right, "")
        return style.empty_plot(figure, left, no_distance_reason(run))
    _draw_training_distances(left, trained)
    if has_final_model(run.config) and (mixed := mixing_distances(run)):
        _consensus_phase(run, right, mixed)
    else:
        style.empty_plot(figure, right, _no_phase_reason(run))
    left.legend(loc="best")
    return figure


def _no_phase_reason(run: RecordedRun) -> str:
    """Reason for an empty plot of the consensus phase."""
    if not has_final_model(run.config):
        return "The run had no final merge."
    there = run.config.training.rounds in run.distances
    return no_distance_reason(run) if there else "The run did not reach the consensus phase."


def no_distance_reason(run: RecordedRun) -> str:
    """Reason for an empty distance plot: no records, or exact agreement of all peers."""
    if run.distances:
        return "All peers had the same weights after every round: the distance is 0."
    return "No finished round has a consensus distance."


def draw_drift(run: RecordedRun) -> Figure:
    """Consensus distance of peers that never exchange."""
    figure = style.new_figure(2 * style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot()
    trained = training_distances(run)
    if not trained:
        return style.empty_plot(figure, axes, no_distance_reason(run))
    _draw_training_distances(axes, trained)
    axes.legend(loc="best")
    return figure


def _draw_training_distances(axes: Axes, trained: Mapping[int, float]) -> None:
    axes.set(xlabel="round", ylabel="consensus distance", yscale="log")
    axes.plot(*_xy(trained), color=style.BLUE, marker="o", markevery=_every(trained), label="measured")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)


def _consensus_phase(run: RecordedRun, axes: Axes, measured: Mapping[int, float]) -> None:
    draw_bounds(axes, run, measured[0], max(measured) or 10)
    axes.plot(*_xy(measured), color=style.BLUE, linestyle="-", marker="s", label="measured")
    axes.set_xlim(right=max(*measured, 1) + 0.2)  # round 1 is seen even where it reached the mean exactly
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best")


def draw_bounds(axes: Axes, run: RecordedRun, start: float, rounds: int) -> None:
    """Bounds by the spectral gap for `rounds` rounds of mixing from distance `start`.

    On a schedule by the contraction of its graphs in turn.
    """
    merge = run.merge
    if merge is None or run.mixing is None:
        return
    found = merge.mixing.convergence
    if found is not None:
        above = {k: start * bound for k in range(rounds + 1) if (bound := found.bound(k)) > 0}
        what = "the schedule" if run.topology.is_schedule else "finite-time averaging"
        axes.plot(*_xy(above), color=style.GRAY, label=f"bound for {what}", linestyle="--")
        return
    bounds = mixing_bounds(merge.mixing.w, rounds)
    if merge.rule == "plain":
        bounds = {"plain": bounds["plain"]}
    for kind, shares in bounds.items():
        above = {k: start * share for k, share in enumerate(shares) if share > 0}
        if len(above) > 1:
            axes.plot(*_xy(above), color=style.GRAY, **_BOUNDS[kind])
    if 0.0 in bounds["plain"]:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.96, 0.94, "gap 1: one round reaches the mean", fontsize=8, **place)


def _every(points: Sized) -> int:
    """Interval of markers, for about twenty on a line at most."""
    return -(-len(points) // 20)


def _xy(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())
