"""Accuracies of several runs: plots against costs, and of the final models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.config import EvaluationSet
from p2pfl.report import style
from p2pfl.report.compare.curves import AXES, Curve, Point, curve, final_point, mean_final_point, points
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.line_styles import LineEnd, LineStyle, height_for, label_ends, line_style, short_label
from p2pfl.report.compare.panels import arrange, draw_panels, needs_panels, styles_of
from p2pfl.report.evaluated import accuracy_label, curve_set
from p2pfl.report.load import RecordedRun
from p2pfl.util.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 6.6, 4.1  # inches
_INNER = 0.8  # share of the height for the axes
_LOG_FROM = 12  # ratio of the longest to the shortest line from which the axis is logarithmic
_ROW, _LOW_ROW = 0.55, 0.34  # inches of an entry in the spread of final accuracies, and of one of many
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


def accuracy_against(axis: str) -> Callable[[Sequence[Entry]], Figure]:
    """Drawing function for the accuracies of entries against one of `AXES`."""
    return partial(_accuracy, axis=axis)


@dataclass(frozen=True)
class _Drawn:
    """Curve and final model of an entry, and the length of its line on the axis."""

    entry: Entry
    line: Curve
    end: Point | None
    length: float

    @property
    def last(self) -> float:
        """Accuracy at the end of the line, in percent."""
        return 100 * (self.end.mean if self.end else float(self.line.mean[-1]))


@dataclass(frozen=True)
class _Axis:
    """Horizontal axis: one of `AXES`, its unit, label and whether it is logarithmic."""

    name: str
    unit: float
    label: str
    is_log: bool


def _accuracy(entries: Sequence[Entry], axis: str) -> Figure:
    drawn = {entry.label: found for entry in entries if (found := _measured(entry, axis)) is not None}
    if not drawn:
        figure = style.new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_subplot(ylabel=accuracy_label(_sets(entries)))
        return style.empty_plot(figure, axes, "No finished round was evaluated.")
    scale = _axis_of(axis, [one.length for one in drawn.values()])
    return (_divided if needs_panels(entries) else _alone)(entries, drawn, scale)


def _alone(entries: Sequence[Entry], drawn: dict[str, _Drawn], scale: _Axis) -> Figure:
    """All entries in one plot, with a label at the end of each line."""
    height = height_for(len(entries), _HEIGHT, _INNER)
    figure = style.new_figure(_WIDTH, height)
    axes = figure.add_subplot(ylabel=accuracy_label(_sets(entries)), xlabel=scale.label)
    if scale.is_log:
        axes.set_xscale("log")
    known = [(drawn[entry.label], line_style(i)) for i, entry in enumerate(entries) if entry.label in drawn]
    ends = [_draw_line(axes, one, own, scale) for one, own in known if one.length > 0]
    _limit(axes)
    ends += [_draw_level(axes, one, own) for one, own in known if not one.length]
    label_ends(axes, ends, height * _INNER)
    return figure


def _divided(entries: Sequence[Entry], drawn: dict[str, _Drawn], scale: _Axis) -> Figure:
    """Entries in panels, by a dimension of their grid, with one legend."""
    found = arrange(entries).of(drawn)
    figure, panels = draw_panels(found, scale.label, accuracy_label(_sets(entries)))
    if scale.is_log:
        panels[0].set_xscale("log")
    places = [
        (axes, line.style, drawn[line.entry.label])
        for axes, panel in zip(panels, found.panels, strict=True)
        for line in panel.lines
    ]
    for axes, own, one in places:
        if one.length > 0:
            _draw_line(axes, one, own, scale)
    _limit(panels[0])
    for axes, own, one in places:
        if not one.length:
            _draw_level(axes, one, own)
    return figure


def _measured(entry: Entry, axis: str) -> _Drawn | None:
    """Curve of an entry; None where nothing was evaluated."""
    line, end = curve(entry), mean_final_point(entry)
    return _Drawn(entry, line, end, _length(line, end, axis)) if line.mean.size else None


def _axis_of(axis: str, lengths: Sequence[float]) -> _Axis:
    shortest = min((length for length in lengths if length), default=1.0)
    unit, label = _unit(axis, max(lengths))
    return _Axis(axis, unit, label, axis in ("seconds", "bytes") and max(lengths) > _LOG_FROM * shortest)


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


def _draw_line(axes: Axes, one: _Drawn, own: LineStyle, scale: _Axis) -> LineEnd:
    line, x = one.line, one.line.position[scale.name] / scale.unit
    if not own.is_faint:
        axes.fill_between(x, 100 * line.low, 100 * line.high, color=own.color, alpha=0.13, linewidth=0, gid=own.gid)
    axes.plot(x, 100 * line.mean, **own.line_options())
    axes.plot(x, 100 * line.mean, markevery=-(-len(x) // 10), **own.marker_options())
    last_x = float(x[-1])
    if one.end is not None:
        last_x = one.end.position[AXES.index(scale.name)] / scale.unit
        if not own.is_faint:
            axes.plot([last_x], [one.last], color=own.color, linestyle="none", gid=own.gid, **_STAR)
    return LineEnd(last_x, one.last, own, f"{short_label(one.entry.label)}, {one.last:.1f} %")


def _limit(axes: Axes) -> None:
    axes.margins(y=0.06)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 102.0))
    if axes.get_xscale() == "linear":
        axes.set_xlim(0, axes.get_xlim()[1])


def _draw_level(axes: Axes, one: _Drawn, own: LineStyle) -> LineEnd:
    """Horizontal line for an entry whose position on this axis stays 0."""
    y = one.last
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, y - 2), max(high, y + 2))
    axes.axhline(y, **{"alpha": 0.75, "linewidth": 1.1, **own.line_options()})
    return LineEnd(axes.get_xlim()[1], y, own, f"{short_label(one.entry.label)}, {y:.1f} %, sends nothing")


def draw_spread(entries: Sequence[Entry]) -> Figure:
    """Final accuracies: each peer, their mean and the final model, by seed."""
    many = needs_panels(entries)
    height = (_LOW_ROW if many else _ROW) * len(entries) + 1.2
    figure = style.new_figure(2 * style.WIDTH if many else _WIDTH, max(height, 2.6))
    axes = figure.add_subplot(xlabel=accuracy_label(_final_sets(entries)))
    looks = styles_of(entries)
    for i, entry in enumerate(entries):
        for k, run in enumerate(entry.runs):
            seeds = len(entry.runs)
            _draw_peers(axes, run, looks[i], i + (k - (seeds - 1) / 2) * 0.62 / seeds, 5.0 if seeds > 1 else 9.0)
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
