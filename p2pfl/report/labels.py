"""Plots and cautions about classes: shards by class, accuracy by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.evaluated import accuracy_label, sets_of
from p2pfl.report.load import RecordedRun, model_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from p2pfl.run.shard_record import ShardRecord

_MAX_NAMES = 64  # peers or classes that an axis names; of more, every second, third, … one
_MAX_NUMBERS = 160  # cells up to which their numbers are written too


def known_shards(run: RecordedRun) -> list[ShardRecord]:
    """Records of all shards; empty unless all are known and have the same classes."""
    found = [shard for shard in run.shards if shard is not None]
    agree = len(found) == len(run.trainers) and all(shard.classes == found[0].classes for shard in found)
    return found if agree else []


def draw_shards(run: RecordedRun) -> Figure:
    """Samples by peer (row) and class (column), and the sizes of the shards."""
    shards = known_shards(run)
    height = min(max(0.26 * len(shards) + 1.5, 2.4), 7.5)
    figure = style.new_figure(2 * style.WIDTH, height)
    if not shards:
        return style.empty_plot(figure, figure.add_subplot(), "The classes of the shards are not recorded.")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    counts = np.array([shard.counts for shard in shards], dtype=float)
    image = left.imshow(counts, cmap=style.MAP, vmin=0, aspect="auto")
    figure.colorbar(image, ax=left, pad=0.01, aspect=30, label="samples").outline.set_visible(False)
    if counts.size <= _MAX_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            color = "black" if count > counts.max() / 2 else "white"
            left.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=7, color=color)
    _name(left, shards[0].classes, "x")
    _name(left, [run.topology.names[process] for process in run.trainers], "y")
    left.set(xlabel="class", ylabel="peer" if run.coordinator is None else "client")
    look: dict[str, Any] = {"color": style.BLUE, "edgecolor": style.INK, "linewidth": 0.5}
    right.barh(range(len(shards)), counts.sum(axis=1), height=0.72, **look)
    right.set(xlabel="samples in all")
    right.locator_params(axis="x", nbins=4)
    for axes in (left, right):
        axes.grid(visible=False)
    return figure


def draw_class_accuracy(run: RecordedRun) -> Figure:
    """Accuracy of the final model on each class; empty without a test sample."""
    figure = style.new_figure(style.WIDTH, style.HEIGHT)
    record, shards = model_record(run), known_shards(run)
    label = accuracy_label(() if record is None else sets_of([record]))
    axes = figure.add_subplot(xlabel="class", ylabel=label, ylim=(0, 100))
    values = None if record is None else record.class_accuracy
    if not values or not shards or len(values) != len(shards[0].classes):
        return style.empty_plot(figure, axes, "The accuracy of each class is not recorded.")
    look: dict[str, Any] = {"color": style.BLUE, "edgecolor": style.INK, "linewidth": 0.5}
    axes.bar(range(len(values)), [np.nan if value is None else 100 * value for value in values], width=0.72, **look)
    _name(axes, shards[0].classes, "x", room=45)
    axes.grid(visible=False, axis="x")
    return figure


def _name(axes: Axes, names: list[str], axis: str, room: int = 90) -> None:
    """Name peers or classes; `room`: characters that fit beside each other."""
    every = -(-len(names) // _MAX_NAMES)
    places = range(0, len(names), every)
    shown = [style.plot_text(names[place], 14) for place in places]
    if axis == "y":
        axes.set_yticks(places, shown, fontsize=8 if len(names) <= 24 else 6)
        return
    crowded = sum(len(name) for name in shown) > room
    axes.set_xticks(places, shown, fontsize=8 if len(names) <= 24 else 6, rotation=90 if crowded else 0)


def class_cautions(run: RecordedRun) -> tuple[list[str], list[tuple[str, str]]]:
    """Classes of which nobody has a sample, and those of a single peer, with it."""
    shards = known_shards(run)
    if not shards or run.mode.pools_data or len(shards) < 2:
        return [], []
    held = np.array([shard.counts for shard in shards]) > 0
    classes, names = shards[0].classes, run.topology.names
    nobody = [classes[label] for label in np.flatnonzero(held.sum(axis=0) == 0)]
    single = np.flatnonzero(held.sum(axis=0) == 1)
    return nobody, [(classes[label], names[int(held[:, label].argmax())]) for label in single]
