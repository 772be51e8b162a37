"""Accuracies of several runs: curves over their seeds, and plots against costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2pfl.config import EvaluationSet
from p2pfl.report import style
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.line_styles import LineEnd, LineStyle, height_for, label_ends, line_style, short_label
from p2pfl.report.evaluated import accuracy_label, curve_set, sets_of
from p2pfl.report.load import RecordedRun, model_record
from p2pfl.util.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = ("rounds", "samples", "seconds", "bytes")  # horizontal axes of the plots
Array = npt.NDArray[np.float64]
_WIDTH, _HEIGHT = 6.6, 4.1  # inches
_INNER = 0.8  # share of the height for the axes
_LOG_FROM = 12  # ratio of the longest to the shortest line from which the axis is logarithmic
_STAR: dict[str, Any] = {
    "marker": "*",
    "markersize": 11,
    "markeredgecolor": style.INK,
    "markeredgewidth": 0.6,
    "zorder": 4,
}

_LABELS = {
    "rounds": "round (of training, then of the consensus phase)",
    "samples": "training samples processed by all",
    "seconds": "seconds since the first round began",
    "bytes": "sent by all processes",
}


@dataclass(frozen=True)
class Point:
    """Accuracies (0..1) after one round, and its position on each of `AXES`."""

    round: int
    position: tuple[float, ...]
    worst: float
    mean: float
    best: float


@dataclass(frozen=True)
class Curve:
    """Accuracies of an entry by round, over the rounds that all its seeds evaluated.

    `low` to `high` is one standard deviation around the mean of several seeds, or worst to best peer for one seed.
    """

    position: dict[str, Array]
    mean: Array
    low: Array
    high: Array


def points(run: RecordedRun) -> list[Point]:
    """Training rounds evaluated by every surviving peer, or by the coordinator.

    Only those on the set of the run's curve.
    """
    found, on = [], curve_set(run)
    for number in run.finished("train"):
        row = [r.test_accuracy for r in run.rounds[number] if r.test_accuracy is not None]
        if len(row) == len(run.rounds[number]) and sets_of(run.rounds[number]) == {on}:
            found.append(Point(number, _position(run, number), min(row), fmean(row), max(row)))
    return found


def final_point(run: RecordedRun) -> Point | None:
    """Final model, after a consensus phase if any; None without a common model."""
    record = model_record(run)
    if record is None or record.test_accuracy is None:
        return None
    accuracy = record.test_accuracy
    return Point(record.round, _position(run, record.round), accuracy, accuracy, accuracy)


def _position(run: RecordedRun, number: int) -> tuple[float, ...]:
    return number, run.samples(number), run.elapsed(number), run.bytes_sent(number)


def curve(entry: Entry) -> Curve:
    """Curve of an entry: mean accuracies and positions of its seeds."""
    measured = [{point.round: point for point in points(run)} for run in entry.runs]
    common = sorted(set.intersection(*(set(own) for own in measured)))
    rows = [[own[number] for own in measured] for number in common]
    positions = np.array([np.mean([p.position for p in row], axis=0) for row in rows]).reshape(len(rows), len(AXES))
    mean = np.array([fmean(p.mean for p in row) for row in rows])
    if len(entry.runs) > 1:
        spread = np.array([stdev(p.mean for p in row) for row in rows])
        low, high = mean - spread, mean + spread
    else:
        low, high = np.array([row[0].worst for row in rows]), np.array([row[0].best for row in rows])
    return Curve({axis: positions[:, column] for column, axis in enumerate(AXES)}, mean, low, high)


def mean_final_point(entry: Entry) -> Point | None:
    """Mean over seeds of the final model's point; None where a run has none."""
    found = [final_point(run) for run in entry.runs]
    known = [point for point in found if point is not None]
    if len(known) < len(found):
        return None
    position = tuple(float(value) for value in np.mean([point.position for point in known], axis=0))
    worst, mean, best = (f(point.mean for point in known) for f in (min, fmean, max))
    return Point(known[0].round, position, worst, mean, best)


def accuracy_against(axis: str) -> Callable[[Sequence[Entry]], Figure]:
    """Drawing function for the accuracies of entries against one of `AXES`."""
    return partial(_accuracy, axis=axis)


def _accuracy(entries: Sequence[Entry], axis: str) -> Figure:
    height = height_for(len(entries), _HEIGHT, _INNER)
    figure = style.new_figure(_WIDTH, height)
    axes = figure.add_subplot(ylabel=accuracy_label(_sets(entries)))
    drawn = [(entry, line_style(i), curve(entry), mean_final_point(entry)) for i, entry in enumerate(entries)]
    drawn = [(entry, own, line, end) for entry, own, line, end in drawn if line.mean.size]
    if not drawn:
        return style.empty_plot(figure, axes, "No finished round was evaluated.")
    lengths = [_length(line, end, axis) for _, _, line, end in drawn]
    unit, label = _unit(axis, max(lengths))
    axes.set_xlabel(label)
    if axis in ("seconds", "bytes") and max(lengths) > _LOG_FROM * min(
        (length for length in lengths if length), default=1.0
    ):
        axes.set_xscale("log")
    ends = []
    for (entry, own, line, end), length in zip(drawn, lengths, strict=True):
        if length > 0:
            ends.append(_draw_line(axes, entry, own, line, end, axis, unit))
    _limit(axes)
    ends += [
        _draw_level(axes, entry, own, line, end)
        for (entry, own, line, end), length in zip(drawn, lengths, strict=True)
        if not length
    ]
    label_ends(axes, ends, height * _INNER)
    return figure


def _sets(entries: Sequence[Entry]) -> set[EvaluationSet]:
    """Sets of the entries' curves and of their final models."""
    return {curve_set(run) for entry in entries for run in entry.runs} | _final_sets(entries)


def _final_sets(entries: Sequence[Entry]) -> set[EvaluationSet]:
    """Sets of the entries' final accuracies."""
    found = {summary["evaluated_on"] for entry in entries for summary in entry.summaries}
    return found - {None}


def _length(line: Curve, end: Point | None, axis: str) -> float:
    """Length of an entry's line on an axis; 0 in bytes where it sends nothing."""
    return end.position[AXES.index(axis)] if end else float(line.position[axis][-1])


def _unit(axis: str, longest: float) -> tuple[float, str]:
    if axis == "bytes":
        size, name = byte_unit(longest)
        return float(size), f"{_LABELS[axis]} ({name})"
    if axis == "samples" and longest >= 1e4:
        return (1e6, f"{_LABELS[axis]} (millions)") if longest >= 1e6 else (1e3, f"{_LABELS[axis]} (thousands)")
    return 1.0, _LABELS[axis]


# Seven parameters: an entry with all that is drawn of it, and the axis.
def _draw_line(
    axes: Axes, entry: Entry, own: LineStyle, line: Curve, end: Point | None, axis: str, unit: float
) -> LineEnd:
    x = line.position[axis] / unit
    axes.fill_between(x, 100 * line.low, 100 * line.high, color=own.color, alpha=0.13, linewidth=0, gid=own.gid)
    every = -(-len(x) // 10)
    axes.plot(x, 100 * line.mean, **own.line_options())
    axes.plot(x, 100 * line.mean, markevery=every, **own.marker_options())
    last_x, last_y = float(x[-1]), 100 * float(line.mean[-1])
    if end is not None:
        last_x, last_y = end.position[AXES.index(axis)] / unit, 100 * end.mean
        axes.plot([last_x], [last_y], color=own.color, linestyle="none", gid=own.gid, **_STAR)
    return LineEnd(last_x, last_y, own, f"{short_label(entry.label)}, {last_y:.1f} %")


def _limit(axes: Axes) -> None:
    axes.margins(y=0.06)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 102.0))
    if axes.get_xscale() == "linear":
        axes.set_xlim(0, axes.get_xlim()[1])


def _draw_level(axes: Axes, entry: Entry, own: LineStyle, line: Curve, end: Point | None) -> LineEnd:
    """Horizontal line for an entry whose position on this axis stays 0."""
    y = 100 * (end.mean if end else float(line.mean[-1]))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, y - 2), max(high, y + 2))
    axes.axhline(y, alpha=0.75, linewidth=1.1, **own.line_options())
    return LineEnd(axes.get_xlim()[1], y, own, f"{short_label(entry.label)}, {y:.1f} %, sends nothing")


def draw_spread(entries: Sequence[Entry]) -> Figure:
    """Final accuracies: each peer, their mean and the final model, by seed."""
    figure = style.new_figure(_WIDTH, max(0.55 * len(entries) + 1.2, 2.6))
    axes = figure.add_subplot(xlabel=accuracy_label(_final_sets(entries)))
    for i, entry in enumerate(entries):
        for k, run in enumerate(entry.runs):
            seeds = len(entry.runs)
            _draw_peers(axes, run, line_style(i), i + (k - (seeds - 1) / 2) * 0.62 / seeds, 5.0 if seeds > 1 else 9.0)
    axes.set_yticks(range(len(entries)), [short_label(entry.label) for entry in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    gray: dict[str, Any] = {"color": style.GRAY, "linestyle": "none"}
    axes.plot([], [], marker="|", markersize=8, **gray, label="a peer")
    axes.plot([], [], marker="o", markeredgecolor=style.INK, **gray, label="mean of the peers")
    axes.plot([], [], color=style.GRAY, linestyle="none", **_STAR, label="final model")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def _draw_peers(axes: Axes, run: RecordedRun, own: LineStyle, y: float, size: float) -> None:
    last = run.rounds.get(run.config.training.rounds, ()) if run.has_peer_models else ()
    peers = [100 * record.test_accuracy for record in last if record.test_accuracy is not None]
    if peers:
        axes.plot(
            [min(peers), max(peers)],
            [y, y],
            color=own.color,
            linewidth=size * 0.7,
            alpha=0.3,
            solid_capstyle="butt",
            gid=own.gid,
        )
        axes.plot(
            peers,
            np.full(len(peers), y),
            color=own.color,
            linestyle="none",
            marker="|",
            markersize=size + 1,
            gid=own.gid,
        )
        axes.plot([fmean(peers)], [y], markersize=size * 0.75, **own.marker_options())
    end = final_point(run)
    if end is not None:
        axes.plot([100 * end.mean], [y], color=own.color, linestyle="none", gid=own.gid, **_STAR)
    elif not peers and points(run):
        axes.plot([100 * points(run)[-1].mean], [y], markersize=size * 0.75, **own.marker_options())
