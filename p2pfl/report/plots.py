"""The plots of one run, each a function from what was recorded to a figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.picture import topology_figure
from p2pfl.report.run import Run, consensus_record, of_phase
from p2pfl.report.traffic import draw_edges, draw_time
from p2pfl.report.units import byte_unit
from p2pfl.topology import is_symmetric, mixing_matrix, spectral_gap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTS_FOLDER = "plots"


@dataclass(frozen=True)
class Plot:
    """One picture: the stem of its files, what it is called, how to read it, and how it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[Run], Figure]
    wide: bool = False


def draw_plots(run: Run) -> None:
    """Write every plot of `PLOTS` as PNG and SVG. Raises ConfigError where the folder cannot be written."""
    folder = run.path / PLOTS_FOLDER
    folder.mkdir(exist_ok=True)
    with style.styled():
        for plot in PLOTS:
            figure = plot.draw(run)
            for kind in ("png", "svg"):
                style.save(figure, folder / f"{plot.name}.{kind}")


def _rounds_axis(run: Run, number: int) -> float:
    return float(number)


def _accuracy(run: Run, label: str, place: Callable[[Run, int], float]) -> Figure:
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot()
    unit = 1
    if place is Run.bytes_sent:
        unit, name = byte_unit(run.bytes_sent(max(run.rounds, default=0)))
        label = f"{label} ({name})"
    axes.set(xlabel=label, ylabel="test accuracy (%)")
    rows = {number: _accuracies(run, number) for number in run.finished("train")}
    seen = {number: row for number, row in rows.items() if row}
    if not seen:
        return style.nothing(figure, axes, "No finished round was evaluated.")
    x = [place(run, number) / unit for number in seen]
    worst, mean, best = ([100 * f(row) for row in seen.values()] for f in (min, fmean, max))
    axes.fill_between(x, worst, best, color=style.BLUE, alpha=0.22, linewidth=0, label="worst to best peer")
    axes.plot(x, worst, color=style.BLUE, linewidth=0.8, linestyle=":")
    axes.plot(x, mean, color=style.BLUE, label="mean of the peers")
    _mark_evaluations(axes, run, list(seen), x, mean)
    model = consensus_record(run)
    if model is not None and model.test_accuracy is not None:
        at, value = place(run, model.round) / unit, 100 * model.test_accuracy
        point: dict[str, Any] = {
            "marker": "*",
            "markersize": 13,
            "color": style.VERMILION,
            "markeredgecolor": style.INK,
        }
        axes.plot([at], [value], linestyle="none", label=f"consensus model, {value:.2f} %", **point)
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 100.0 + (high - low) * 0.03))
    axes.set_xlim(left=0)
    axes.legend(loc="lower right")
    return figure


def _mark_evaluations(axes: Axes, run: Run, rounds: list[int], x: list[float], y: list[float]) -> None:
    """Full dots where the whole test set was used, hollow ones where only a part of it was."""
    sizes = np.array([run.rounds[number][0].test_samples or 0 for number in rounds])
    whole = sizes == sizes.max()
    places, values = np.array(x), np.array(y)
    look: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": style.BLUE}
    axes.plot(places[whole], values[whole], **look)
    if not whole.all():
        label = f"measured on {sizes.min():,} of {sizes.max():,} test samples"
        axes.plot(places[~whole], values[~whole], markerfacecolor=style.SURFACE, label=label, **look)


def _accuracies(run: Run, number: int) -> list[float]:
    row = [r.test_accuracy for r in run.rounds[number] if r.test_accuracy is not None]
    return row if len(row) == len(run.survivors) else []


def _loss(run: Run) -> Figure:
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    axes = figure.add_subplot(xlabel="round", ylabel="training loss")
    rows = {n: [r.train_loss for r in run.rounds[n] if r.train_loss is not None] for n in run.finished("train")}
    seen = {number: row for number, row in rows.items() if row}
    if not seen:
        return style.nothing(figure, axes, "No finished round has a training loss.")
    low, mean, high = ([f(row) for row in seen.values()] for f in (min, fmean, max))
    band: dict[str, Any] = {"color": style.ORANGE, "alpha": 0.3, "linewidth": 0}
    axes.fill_between(list(seen), low, high, label="lowest to highest peer", **band)
    axes.plot(list(seen), mean, color=style.VERMILION, marker="o", markevery=_every(seen), label="mean of the peers")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="upper right")
    return figure


def _consensus(run: Run) -> Figure:
    figure = style.new_figure(2 * style.WIDTH, style.HEIGHT)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.set(xlabel="round", ylabel="consensus distance", title="while training")
    right.set(xlabel="round of mixing alone", title="consensus phase")
    trained = {n: run.distances[n] for n in run.finished("train") if run.distances.get(n, 0) > 0}
    if not trained:
        style.nothing(figure, right, "")
        return style.nothing(figure, left, "No finished round has a consensus distance.")
    left.set_yscale("log")
    left.plot(*_xy(trained), color=style.BLUE, marker="o", markevery=_every(trained), label="measured")
    left.set_xlim(left=0)
    left.locator_params(axis="x", integer=True)
    last = run.config.training.rounds
    if last in trained:
        _consensus_phase(run, right, trained[last], last)
    else:
        style.nothing(figure, right, "The run did not get there.")
    left.legend(loc="best")
    return figure


def _consensus_phase(run: Run, axes: Axes, start: float, last: int) -> None:
    mixed = {n - last: run.distances[n] for n in run.finished("consensus") if run.distances.get(n, 0) > 0}
    w = mixing_matrix(run.topology, run.config.gossip.mixing)
    rate = max(1.0 - spectral_gap(w), 0.0)
    measured = {0: start, **mixed}
    k = np.arange(max(mixed, default=10) + 1)
    if rate > 1e-9:
        axes.plot(
            k,
            start * rate**k,
            color=style.GRAY,
            linestyle="--",
            label="bound for plain mixing, (1 − gap)$^k$",
        )
        if is_symmetric(w):
            bound = start / np.cosh(k * math.acosh(1 / rate))
            label = "bound for Chebyshev, 1 / T$_k$(1 / (1 − gap))"
            axes.plot(k, bound, color=style.GREEN, linestyle="-.", label=label)
    else:
        axes.plot([], [], " ", label="spectral gap 1: one round reaches the mean")
    axes.plot(*_xy(measured), color=style.BLUE, linestyle="-", marker="s", label="measured")
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best")


def _every(points: Sized) -> int:
    """So that a line carries about twenty markers at most."""
    return -(-len(points) // 20)


def _xy(points: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())


def final_accuracies(run: Run) -> list[float | None]:
    """Each peer's latest test accuracy before the consensus phase, in peer order; None if never measured."""
    latest: list[float | None] = []
    for own in run.records:
        measured = [r.test_accuracy for r in of_phase(own, "train") if r.test_accuracy is not None]
        latest.append(measured[-1] if measured else None)
    return latest


def _topology(run: Run) -> Figure:
    return topology_figure(run.topology, values=final_accuracies(run), title="")


def _accuracy_against(what: str, place: Callable[[Run, int], float]) -> Callable[[Run], Figure]:
    return partial(_accuracy, label=what, place=place)


_POINTS = "The line is the mean of the peers, the band reaches from the worst to the best, "

PLOTS: tuple[Plot, ...] = (
    Plot(
        "accuracy-rounds",
        "Test accuracy by round",
        _POINTS + "the star is the consensus model after the consensus phase.",
        _accuracy_against("round", _rounds_axis),
    ),
    Plot(
        "training-loss",
        "Training loss",
        "Mean over each round's local steps, before mixing.",
        _loss,
    ),
    Plot(
        "accuracy-seconds",
        "Test accuracy by time",
        _POINTS + "at the time when the last peer had finished the round.",
        _accuracy_against("seconds since the first round began", Run.elapsed),
    ),
    Plot(
        "accuracy-bytes",
        "Test accuracy by bytes sent",
        _POINTS + "against the bytes that all peers together had sent.",
        _accuracy_against("sent by all peers", Run.bytes_sent),
    ),
    Plot(
        "consensus-distance",
        "Consensus distance",
        "Left: how far the peers stood apart after each training round, estimated from sketches to about "
        "2 %. Its level depends on the gradients, so the spectral gap predicts none there. Right: in the "
        "consensus phase it does; from the measured start, mixing cannot do worse than its bound.",
        _consensus,
        wide=True,
    ),
    Plot(
        "topology",
        "The topology",
        "Color: each peer's latest test accuracy before the consensus phase; empty if it was never measured.",
        _topology,
    ),
    Plot(
        "edge-bytes",
        "Bytes by edge",
        "What each row's peer sent to each column's over the whole run, the consensus phase included.",
        draw_edges,
    ),
    Plot(
        "time",
        "Where the time went",
        "Each peer's seconds in the training rounds. Waiting means that a neighbor was slower.",
        draw_time,
        wide=True,
    ),
)
