"""Plots of the accuracies of several runs: against what they cost, and how far their peers stand apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.comparison.curves import AXES, Curve, Point, curve, final, final_point, points
from p2pfl.report.comparison.entries import Entry
from p2pfl.report.comparison.looks import End, Look, label_ends, look, short
from p2pfl.report.run import Run
from p2pfl.report.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 6.6, 4.1  # inches
_INNER = 0.8  # share of its height that is left to the axes
_LOG_FROM = 12  # largest end of a line over the smallest from which a logarithmic axis shows more
_STAR: dict[str, Any] = {
    "marker": "*",
    "markersize": 11,
    "markeredgecolor": style.INK,
    "markeredgewidth": 0.6,
    "zorder": 4,
}

_LABELS = {
    "rounds": "round (of training, then of the consensus phase)",
    "samples": "training samples processed by the whole system",
    "seconds": "seconds since the first round began",
    "bytes": "sent by all processes",
}


def accuracy_against(axis: str) -> Callable[[Sequence[Entry]], Figure]:
    """A function that draws the test accuracy of all entries against one of `AXES`."""
    return partial(_accuracy, axis=axis)


def _accuracy(entries: Sequence[Entry], axis: str) -> Figure:
    figure = style.new_figure(_WIDTH, _HEIGHT)
    axes = figure.add_subplot(ylabel="test accuracy (%)")
    drawn = [(entry, look(i), curve(entry), final(entry)) for i, entry in enumerate(entries)]
    drawn = [(entry, own, line, end) for entry, own, line, end in drawn if line.mean.size]
    if not drawn:
        return style.nothing(figure, axes, "No finished round was evaluated.")
    moves = [_length(line, end, axis) for _, _, line, end in drawn]
    unit, label = _unit(axis, max(moves))
    axes.set_xlabel(label)
    if axis in ("seconds", "bytes") and max(moves) > _LOG_FROM * min((m for m in moves if m), default=1.0):
        axes.set_xscale("log")
    ends = []
    for (entry, own, line, end), far in zip(drawn, moves, strict=True):
        if far > 0:
            ends.append(_draw_line(axes, entry, own, line, end, axis, unit))
    _limit(axes)
    ends += [
        _draw_still(axes, entry, own, line, end)
        for (entry, own, line, end), far in zip(drawn, moves, strict=True)
        if not far
    ]
    label_ends(axes, ends, _HEIGHT * _INNER)
    return figure


def _length(line: Curve, end: Point | None, axis: str) -> float:
    """How far an entry comes on an axis; 0 where it sends nothing."""
    return end.place[AXES.index(axis)] if end else float(line.place[axis][-1])


def _unit(axis: str, longest: float) -> tuple[float, str]:
    if axis == "bytes":
        size, name = byte_unit(longest)
        return float(size), f"{_LABELS[axis]} ({name})"
    if axis == "samples" and longest >= 1e4:
        return (1e6, f"{_LABELS[axis]} (millions)") if longest >= 1e6 else (1e3, f"{_LABELS[axis]} (thousands)")
    return 1.0, _LABELS[axis]


def _draw_line(axes: Axes, entry: Entry, own: Look, line: Curve, end: Point | None, axis: str, unit: float) -> End:
    x = line.place[axis] / unit
    axes.fill_between(x, 100 * line.low, 100 * line.high, color=own.color, alpha=0.13, linewidth=0)
    every = -(-len(x) // 10)
    axes.plot(x, 100 * line.mean, **own.of_line())
    axes.plot(x, 100 * line.mean, markevery=every, **own.of_marker())
    last_x, last_y = float(x[-1]), 100 * float(line.mean[-1])
    if end is not None:
        last_x, last_y = end.place[AXES.index(axis)] / unit, 100 * end.mean
        axes.plot([last_x], [last_y], color=own.color, linestyle="none", **_STAR)
    return End(last_x, last_y, own, f"{short(entry.label)}, {last_y:.1f} %")


def _limit(axes: Axes) -> None:
    axes.margins(y=0.06)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 102.0))
    if axes.get_xscale() == "linear":
        axes.set_xlim(0, axes.get_xlim()[1])


def _draw_still(axes: Axes, entry: Entry, own: Look, line: Curve, end: Point | None) -> End:
    """A level line for an entry that does not move on this axis."""
    y = 100 * (end.mean if end else float(line.mean[-1]))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, y - 2), max(high, y + 2))
    axes.axhline(y, alpha=0.75, linewidth=1.1, **own.of_line())
    return End(axes.get_xlim()[1], y, own, f"{short(entry.label)}, {y:.1f} %, sends nothing")


def draw_spread(entries: Sequence[Entry]) -> Figure:
    """At the end: each peer, their mean, and the final model; seeds one below the other."""
    figure = style.new_figure(_WIDTH, max(0.55 * len(entries) + 1.2, 2.6))
    axes = figure.add_subplot(xlabel="test accuracy (%)")
    for i, entry in enumerate(entries):
        for k, run in enumerate(entry.runs):
            seeds = len(entry.runs)
            _draw_peers(axes, run, look(i), i + (k - (seeds - 1) / 2) * 0.62 / seeds, 5.0 if seeds > 1 else 9.0)
    axes.set_yticks(range(len(entries)), [short(entry.label) for entry in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    gray: dict[str, Any] = {"color": style.GRAY, "linestyle": "none"}
    axes.plot([], [], marker="|", markersize=8, **gray, label="a peer")
    axes.plot([], [], marker="o", markeredgecolor=style.INK, **gray, label="mean of the peers")
    axes.plot([], [], color=style.GRAY, linestyle="none", **_STAR, label="final model")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _draw_peers(axes: Axes, run: Run, own: Look, y: float, size: float) -> None:
    last = run.rounds.get(run.config.training.rounds, ()) if run.own_models else ()
    peers = [100 * record.test_accuracy for record in last if record.test_accuracy is not None]
    if peers:
        axes.plot(
            [min(peers), max(peers)], [y, y], color=own.color, linewidth=size * 0.7, alpha=0.3, solid_capstyle="butt"
        )
        axes.plot(peers, np.full(len(peers), y), color=own.color, linestyle="none", marker="|", markersize=size + 1)
        axes.plot([fmean(peers)], [y], markersize=size * 0.75, **own.of_marker())
    end = final_point(run)
    if end is not None:
        axes.plot([100 * end.mean], [y], color=own.color, linestyle="none", **_STAR)
    elif not peers and points(run):
        axes.plot([100 * points(run)[-1].mean], [y], markersize=size * 0.75, **own.of_marker())
