"""Plots of consensus distances with their bounds, and of topologies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2pfl.modes import has_final_model
from p2pfl.report import style, topology_plot
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.line_styles import LineEnd, LineStyle, height_for, label_ends, line_style, short_label
from p2pfl.report.compare.panels import arrange, draw_panels, needs_panels
from p2pfl.report.curves import draw_bounds
from p2pfl.report.evaluated import accuracy_label, latest_accuracies, latest_set
from p2pfl.report.load import mixing_distances, training_distances
from p2pfl.report.topology_layout import node_positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 6.6, 4.1  # inches
_COLUMNS = 3  # of panels
_TOPOLOGIES = 4  # in a row
_MIN_TEXT_SIZE = 17  # diameter in points of a node that shows its accuracy
_ROUNDING = 1e-8  # share of the largest distance below which distances are rounding errors


def draw_distances(entries: Sequence[Entry]) -> Figure:
    """Consensus distance after each training round, of entries with peer models."""
    measured = {entry.label: found for entry in entries if (found := _distances(entry)) is not None}
    if not measured:
        figure = style.new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_subplot(xlabel="round", ylabel="consensus distance")
        return style.empty_plot(figure, axes, "No run has separate peer models.")
    shown = [entry for entry in entries if entry.label in measured]
    if needs_panels(shown):
        return _distances_in_panels(entries, measured)
    height = height_for(len(entries), _HEIGHT, 0.8)
    figure = style.new_figure(_WIDTH, height)
    axes = figure.add_subplot(xlabel="round", ylabel="consensus distance", yscale="log")
    ends = []
    for i, entry in enumerate(entries):
        if entry.label in measured:
            own, found = line_style(i), measured[entry.label]
            _draw_distances(axes, found, own)
            ends.append(LineEnd(found.rounds[-1], float(found.level[-1]), own, short_label(entry.label)))
    _scale(axes)
    label_ends(axes, ends, height * 0.8)
    return figure


@dataclass(frozen=True)
class _Distances:
    """Consensus distances by round: geometric mean, smallest and largest of the seeds."""

    rounds: list[int]
    level: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def _distances(entry: Entry) -> _Distances | None:
    seeds = [training_distances(run) for run in entry.runs]
    rounds = sorted(set.intersection(*(set(own) for own in seeds)))
    if not rounds or not entry.runs[0].has_peer_models:
        return None
    rows = np.array([[own[number] for number in rounds] for own in seeds])
    return _Distances(rounds, np.exp(np.log(rows).mean(axis=0)), rows.min(axis=0), rows.max(axis=0))


def _distances_in_panels(entries: Sequence[Entry], measured: dict[str, _Distances]) -> Figure:
    """Panels and styles are those of the accuracies."""
    found = arrange(entries).of(measured)
    figure, panels = draw_panels(found, "round", "consensus distance")
    panels[0].set_yscale("log")
    for axes, panel in zip(panels, found.panels, strict=True):
        for line in panel.lines:
            _draw_distances(axes, measured[line.entry.label], line.style)
    _scale(panels[0])
    return figure


def _draw_distances(axes: Axes, found: _Distances, own: LineStyle) -> None:
    if not own.is_faint:
        band: dict[str, Any] = {"color": own.color, "alpha": 0.15, "linewidth": 0, "gid": own.gid}
        axes.fill_between(found.rounds, found.low, found.high, **band)
    every = -(-len(found.rounds) // 10)
    axes.plot(found.rounds, found.level, marker=own.marker, markevery=every, **own.line_options())


def _scale(axes: Axes) -> None:
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    _plain_ticks(axes)


def _plain_ticks(axes: Axes) -> None:
    """Numbers instead of powers of ten on a short_label logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    if high / low < 1000:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def draw_phases(entries: Sequence[Entry]) -> Figure:
    """Consensus phase of each gossip entry, beside the bounds by its spectral gap."""
    mixing = [(i, entry) for i, entry in enumerate(entries) if entry.mode.mixes]
    columns = min(max(len(mixing), 1), _COLUMNS)
    rows = -(-max(len(mixing), 1) // columns)
    figure = style.new_figure(2 * style.WIDTH if columns > 1 else _WIDTH, 3.0 * rows + 0.5)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    if not mixing:
        return style.empty_plot(figure, panels[0], "None of these runs is a gossip run.")
    drawn = [_draw_phase(figure, axes, entry, i) for axes, (i, entry) in zip(panels, mixing, strict=False)]
    if any(drawn):
        panels[0].set(yscale="log", ylabel="consensus distance")
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(max(low, _ROUNDING * high), high)
        named = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
        handles = {label: handle for handle, label in reversed(named)}  # a gap of 1 has no bounds
        figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=3)
    for axes in panels[len(mixing) :]:
        axes.set_axis_off()
    return figure


def _draw_phase(figure: Figure, axes: Axes, entry: Entry, index: int) -> bool:
    """One panel, from the measured start; False where no run has a consensus phase."""
    axes.set_title(short_label(entry.label), fontweight="bold")
    axes.set_xlabel("round of the consensus phase")
    measured = [own for own in map(mixing_distances, entry.runs) if len(own) > 1]
    if not measured:
        mixed = any(run.finished("consensus") for run in entry.runs)
        why = "All peers had the same weights before it:\nthe distance is 0." if mixed else "It was not finished."
        if not has_final_model(entry.config):
            why = "There was none (--final-merge none)."
        style.empty_plot(figure, axes, why)
        return False
    start, rounds = fmean(own[0] for own in measured), max(map(max, measured))
    draw_bounds(axes, entry.runs[0], start, rounds)
    own_style = line_style(index)
    for number, own in enumerate(measured):
        faint = {"alpha": 0.6} if number else {"label": "measured"}
        axes.plot(
            list(own), list(own.values()), color=own_style.color, marker=own_style.marker, markersize=3.5, **faint
        )
    axes.locator_params(axis="x", integer=True)
    return True


def node_accuracies(entry: Entry) -> list[float | None]:
    """Latest accuracy of each node before the consensus phase, mean over the seeds.

    None where a seed has no measurement.
    """
    means: list[float | None] = []
    for values in zip(*(latest_accuracies(run) for run in entry.runs), strict=True):
        known = [value for value in values if value is not None]
        means.append(fmean(known) if len(known) == len(values) else None)
    return means


def draw_topologies(entries: Sequence[Entry]) -> Figure:
    """Topologies with nodes colored by accuracy, on one scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    columns = min(len(entries), _TOPOLOGIES)
    rows = -(-len(entries) // columns)
    figure = style.new_figure(3.1 * columns + 0.7, 3.25 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    values = [node_accuracies(entry) for entry in entries]
    known = [100 * value for own in values for value in own if value is not None] or [0.0]
    norm = Normalize(min(known) - 0.05, max(known) + 0.05)
    for axes, entry, own in zip(panels, entries, values, strict=False):
        _draw_nodes(axes, entry, [None if value is None else 100 * value for value in own], norm)
    for axes in panels[len(entries) :]:
        axes.set_axis_off()
    colors = ScalarMappable(norm, style.MAP)
    label = accuracy_label(latest_set(run) for entry in entries for run in entry.runs)
    bar = figure.colorbar(colors, ax=list(panels), shrink=0.8, aspect=30, pad=0.02, label=label)
    bar.outline.set_visible(False)
    return figure


def _draw_nodes(axes: Axes, entry: Entry, percent: Sequence[float | None], norm: Any) -> None:
    topology = entry.runs[0].topology
    positions = topology_plot.normalized(node_positions(topology.graph))
    size = topology_plot.node_points(positions, 2.8)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    axes.set_title(short_label(entry.label), fontweight="bold")
    if entry.mode.has_common_model and topology.graph.number_of_edges():
        topology_plot.draw_edges(axes, topology, positions, size)
    common: dict[str, Any] = {"edgecolors": style.INK, "linewidths": 0.8, "zorder": 2}
    hub = entry.runs[0].coordinator
    for node, value in enumerate(percent):
        shown: dict[str, Any] = {"c": [value], "cmap": style.MAP, "norm": norm}
        look = {"color": style.SURFACE} if value is None else shown
        x, y = positions[node]
        axes.scatter([x], [y], s=size**2, marker="s" if node == hub else "o", **look, **common)
        if value is not None and size >= _MIN_TEXT_SIZE:
            color = "black" if norm(value) > 0.5 else "white"
            axes.text(x, y, f"{value:.1f}", ha="center", va="center_baseline", fontsize=6.5, color=color, zorder=3)
