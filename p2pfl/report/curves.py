"""Plots of how training went: accuracy, training loss and consensus distance over the rounds of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.run import Run, mixing_distances, model_record, training_distances
from p2pfl.report.units import byte_unit
from p2pfl.topology import mixing_bounds, mixing_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Mode -> what its one model is called; local peers have none in common.
MODEL_NAMES: dict[str, str] = {"gossip": "consensus model", "centralized": "global model", "sgd": "model"}
# Kind of `mixing_bounds` -> its line.
_BOUNDS: dict[str, dict[str, Any]] = {
    "plain": {"label": "bound for plain mixing, (1 − gap)$^k$", "linestyle": "--"},
    "chebyshev": {"label": "bound for Chebyshev, 1 / T$_k$(1 / (1 − gap))", "linestyle": ":", "linewidth": 2.4},
}
_CROWDED = 40  # points from which dots are smaller
# Mode -> whose training loss a line is.
_LOSS_OF: dict[str, str] = {"centralized": "mean of the clients' updates", "sgd": "model"}


@dataclass(frozen=True)
class Axis:
    """What accuracy is drawn against: where a finished round stands on it, or None for its own number."""

    label: str
    place: Callable[[Run, int], float] | None = None
    of_bytes: bool = False

    def at(self, run: Run, number: int) -> float:
        """The place of a round."""
        return number if self.place is None else self.place(run, number)


def draw_accuracy(run: Run, axis: Axis) -> Figure:
    """Test accuracy of each evaluated round against `axis`."""
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot()
    unit, label = 1, axis.label
    if axis.of_bytes:
        unit, name = byte_unit(axis.at(run, max(run.rounds, default=0)))
        label = f"{label} ({name})"
    axes.set(xlabel=label, ylabel="test accuracy (%)")
    rows = {number: _accuracies(run, number) for number in run.finished("train")}
    seen = {number: row for number, row in rows.items() if row}
    if not seen:
        return style.nothing(figure, axes, "No finished round was evaluated.")
    x = [axis.at(run, number) / unit for number in seen]
    if run.own_models:
        _draw_spread(axes, x, list(seen.values()))
    else:
        axes.plot(x, [fmean(row) for row in seen.values()], color=style.BLUE, label=MODEL_NAMES[run.mode])
    _mark_evaluations(axes, run, list(seen), x, [fmean(row) for row in seen.values()])
    _mark_model(axes, run, lambda number: axis.at(run, number) / unit)
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 100.0 + (high - low) * 0.03))
    axes.set_xlim(left=0)
    if axis.place is None:
        axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best")
    return figure


def _accuracies(run: Run, number: int) -> list[float]:
    """The accuracies of a round in percent; none unless all of its records have one."""
    row = [100 * r.test_accuracy for r in run.rounds[number] if r.test_accuracy is not None]
    return row if len(row) == len(run.rounds[number]) else []


def _draw_spread(axes: Axes, x: Sequence[float], rows: Sequence[Sequence[float]]) -> None:
    worst, mean, best = ([f(row) for row in rows] for f in (min, fmean, max))
    axes.fill_between(x, worst, best, color=style.BLUE, alpha=0.22, linewidth=0, label="worst to best peer")
    axes.plot(x, worst, color=style.BLUE, linewidth=0.8, linestyle=":")
    axes.plot(x, mean, color=style.BLUE, label="mean of the peers")


def _mark_evaluations(axes: Axes, run: Run, rounds: list[int], x: list[float], y: list[float]) -> None:
    """Full dots where the whole test set was used, hollow ones where only a part of it was."""
    sizes = np.array([run.rounds[number][0].test_samples or 0 for number in rounds])
    whole = sizes == sizes.max()
    places, values = np.array(x), np.array(y)
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": style.BLUE}
    look["markersize"] = 4.5 if len(rounds) < _CROWDED else 2.5
    axes.plot(places[whole], values[whole], **look)
    if not whole.all():
        label = f"measured on {sizes.min():,} of {sizes.max():,} test samples"
        axes.plot(places[~whole], values[~whole], markerfacecolor=style.SURFACE, label=label, **look)


def _mark_model(axes: Axes, run: Run, place: Callable[[int], float]) -> None:
    model = model_record(run)
    if model is None or model.test_accuracy is None:
        return
    value = 100 * model.test_accuracy
    name = MODEL_NAMES[run.mode] if run.mode == "gossip" else f"final {MODEL_NAMES[run.mode]}"
    look: dict[str, Any] = {"marker": "*", "markersize": 13, "color": style.VERMILION, "markeredgecolor": style.INK}
    axes.plot([place(model.round)], [value], linestyle="none", label=f"{name}, {value:.2f} %", clip_on=False, **look)


def draw_loss(run: Run) -> Figure:
    """Training loss by round."""
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot(xlabel="round", ylabel="training loss")
    rows = {n: [r.train_loss for r in run.rounds[n] if r.train_loss is not None] for n in run.finished("train")}
    seen = {number: row for number, row in rows.items() if row}
    if not seen:
        return style.nothing(figure, axes, "No finished round has a training loss.")
    low, mean, high = ([f(row) for row in seen.values()] for f in (min, fmean, max))
    if run.own_models:
        band: dict[str, Any] = {"color": style.ORANGE, "alpha": 0.3, "linewidth": 0}
        axes.fill_between(list(seen), low, high, label="lowest to highest peer", **band)
    label = _LOSS_OF.get(run.mode, "mean of the peers")
    axes.plot(list(seen), mean, color=style.VERMILION, marker="o", markevery=_every(seen), label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="upper right")
    return figure


def draw_distance(run: Run) -> Figure:
    """Consensus distance of peers that mix: while training, and beside its bounds in the consensus phase."""
    figure = style.new_figure(2 * style.WIDTH, style.HEIGHT)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.set_title("while training")
    right.set(xlabel="round of mixing alone", title="consensus phase")
    trained = training_distances(run)
    if not trained:
        style.nothing(figure, right, "")
        return style.nothing(figure, left, why_no_distance(run))
    _draw_training_distances(left, trained)
    if mixed := mixing_distances(run):
        _consensus_phase(run, right, mixed)
    else:
        there = run.config.training.rounds in run.distances
        style.nothing(figure, right, why_no_distance(run) if there else "The run did not get there.")
    left.legend(loc="best")
    return figure


def why_no_distance(run: Run) -> str:
    """Why there is nothing to draw on a log axis: nothing was recorded, or all peers agreed exactly."""
    if run.distances:
        return "All peers had the same weights after every round: the distance is 0."
    return "No finished round has a consensus distance."


def draw_drift(run: Run) -> Figure:
    """Consensus distance of peers that never exchange."""
    figure = style.new_figure(2 * style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot()
    trained = training_distances(run)
    if not trained:
        return style.nothing(figure, axes, why_no_distance(run))
    _draw_training_distances(axes, trained)
    axes.legend(loc="best")
    return figure


def _draw_training_distances(axes: Axes, trained: Mapping[int, float]) -> None:
    axes.set(xlabel="round", ylabel="consensus distance", yscale="log")
    axes.plot(*_xy(trained), color=style.BLUE, marker="o", markevery=_every(trained), label="measured")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)


def _consensus_phase(run: Run, axes: Axes, measured: Mapping[int, float]) -> None:
    draw_bounds(axes, run, measured[0], max(measured) or 10)
    axes.plot(*_xy(measured), color=style.BLUE, linestyle="-", marker="s", label="measured")
    axes.set_xlim(right=max(*measured, 1) + 0.2)  # round 1 is seen even where it reached the mean exactly
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best")


def draw_bounds(axes: Axes, run: Run, start: float, rounds: int) -> None:
    """What the spectral gap promises of `rounds` rounds of mixing alone that begin at a consensus distance."""
    bounds = mixing_bounds(mixing_matrix(run.topology, run.config.gossip.mixing), rounds)
    for kind, shares in bounds.items():
        above = {k: start * share for k, share in enumerate(shares) if share > 0}
        if len(above) > 1:
            axes.plot(*_xy(above), color=style.GRAY, **_BOUNDS[kind])
    if 0.0 in bounds["plain"]:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.96, 0.94, "gap 1: one round reaches the mean", fontsize=8, **place)


def _every(points: Sized) -> int:
    """So that a line carries about twenty markers at most."""
    return -(-len(points) // 20)


def _xy(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())
