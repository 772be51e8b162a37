"""Plots of the costs of several runs: bytes by node, and time by activity."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2pfl.report import style
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.line_styles import short_label
from p2pfl.report.compare.table import statistic
from p2pfl.report.load import sent_by_process
from p2pfl.report.traffic import ACTIVITIES
from p2pfl.util.units import byte_unit, bytes_text, seconds_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4  # panels in a row
_MAX_NAMES = 24  # nodes up to which each is named below its bar
_EQUAL = 0.99  # if all nodes send this share of the most, none is the busiest

# Meaning of a bar -> its style.
_BARS: dict[str, dict[str, Any]] = {
    "training rounds, the busiest node": {"facecolor": style.VERMILION, "hatch": "////"},
    "training rounds": {"facecolor": style.BLUE},
    "consensus phase": {"facecolor": style.SURFACE, "hatch": "...."},
}


def _sent(entry: Entry, phase: str) -> npt.NDArray[np.float64]:
    """Bytes sent by each node in a phase, mean over the seeds."""
    by_seed: npt.NDArray[np.float64] = np.array([sent_by_process(run, phase) for run in entry.runs], np.float64)
    return np.asarray(by_seed.mean(axis=0))


def draw_bytes(entries: Sequence[Entry]) -> Figure:
    """Bytes sent by each node, sorted, one panel per entry, on one scale."""
    from matplotlib.patches import Patch

    sending = [entry for entry in entries if statistic(entry, "bytes_sent_whole_run").mean]
    columns = min(max(len(sending), 1), _COLUMNS)
    rows = -(-max(len(sending), 1) // columns)
    figure = style.new_figure(2 * style.WIDTH, 3.2 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    if not sending:
        return style.empty_plot(figure, panels[0, 0], "None of these runs sends anything.")
    size, unit = byte_unit(max(float((_sent(e, "train") + _sent(e, "consensus")).max()) for e in sending))
    for axes, entry in zip(panels.ravel(), sending, strict=False):
        _draw_nodes(axes, entry, size)
    top = panels[0, 0].get_ylim()[1]
    panels[0, 0].set_ylim(0, 1.12 * top)
    for row in panels:
        row[0].set_ylabel(f"sent by a node ({unit})")
    for axes in panels.ravel()[len(sending) :]:
        axes.set_axis_off()
    common: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 0.5}
    handles = [Patch(label=label, **look, **common) for label, look in _BARS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw_nodes(axes: Axes, entry: Entry, size: float) -> None:
    train, mixed = _sent(entry, "train"), _sent(entry, "consensus")
    total = train + mixed
    order = np.argsort(-total, kind="stable")
    names = [entry.runs[0].topology.names[node] for node in order]
    axes.set_title(
        f"{short_label(entry.label)}\n{bytes_text(float(total.sum()))} in total", fontsize=9.5, fontweight="bold"
    )
    look: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 0.5, "width": 0.8}
    heights = train[order] / size
    most = float(total[order[0]])
    equal = float(total.min()) >= _EQUAL * most
    first = 0 if equal else 1
    busiest, others, phase = _BARS.values()
    axes.bar(range(first), heights[:first], **busiest, **look)
    axes.bar(range(first, len(order)), heights[first:], **others, **look)
    axes.bar(range(len(order)), mixed[order] / size, bottom=heights, **phase, **look)
    text = f"each {bytes_text(most)}" if equal else f"{names[0]}: {bytes_text(most)}"
    axes.annotate(
        style.plot_text(text, 32),
        (-0.4, most / size),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8.5,
        fontweight="bold",
    )
    shown = [style.plot_text(name, 11) for name in names] if len(names) <= _MAX_NAMES else []
    long = max(map(len, shown), default=0) > 2
    axes.set_xticks(range(len(shown)), shown, fontsize=7.5, rotation=90 if long else 0)
    axes.set_xlabel("" if shown else f"{len(names)} nodes, sorted")
    axes.grid(visible=False, axis="x")


def draw_time(entries: Sequence[Entry]) -> Figure:
    """Time by activity in the training rounds, mean over processes and seeds."""
    figure = style.new_figure(2 * style.WIDTH, 0.42 * len(entries) + 1.3)
    axes = figure.add_subplot(xlabel="seconds of the training rounds, mean of the processes that train")
    start = np.zeros(len(entries))
    for field, (label, color, hatch) in ACTIVITIES.items():
        seconds = np.array([_mean(entry, field) for entry in entries])
        look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": style.INK, "linewidth": 0.5}
        axes.barh(range(len(entries)), seconds, left=start, height=0.66, label=label, **look)
        start += seconds
    for row, end in enumerate(start):
        axes.annotate(
            seconds_text(float(end)), (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.set_yticks(range(len(entries)), [short_label(entry.label) for entry in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=len(ACTIVITIES))
    return figure


def _mean(entry: Entry, field: str) -> float:
    mean = fmean(float(value or 0.0) for value in statistic(entry, field).values)
    if field == "wait_seconds" and entry.mode.has_coordinator:
        # The coordinator evaluates while its clients wait, and this is the time of a client.
        return max(mean - _mean(entry, "evaluate_seconds"), 0.0)
    return mean
