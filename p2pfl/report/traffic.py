"""Plots of a run's costs: bytes by edge and by process, and time by activity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.load import RecordedRun, of_phase, sent_by_process
from p2pfl.util.units import byte_unit, bytes_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_CELLS = 12  # peers up to which the bytes of an edge are also written as a number
_MAX_NAMES = 64  # peers that an axis names; of more, every second, third, … one
_EQUAL = 0.99  # share of the most bytes from which a process counts as equally busy


def edge_bytes(run: RecordedRun) -> list[tuple[int, int, int]]:
    """Bytes of each edge over the whole run: (sender, receiver, bytes) in peer order."""
    index = {name: peer for peer, name in enumerate(run.topology.names)}
    totals: dict[tuple[int, int], int] = {}
    for sender, own in enumerate(run.records):
        for record in own:
            for name, count in record.sent_to.items():
                if name in index:
                    edge = (sender, index[name])
                    totals[edge] = totals.get(edge, 0) + count
    return [(sender, receiver, count) for (sender, receiver), count in sorted(totals.items())]


def draw_edges(run: RecordedRun) -> Figure:
    """Bytes from sender (row) to receiver (column) as colors, and as numbers if few."""
    n = run.topology.n
    side = min(max(0.36 * n + 1.6, 4.2), 7.5)
    figure = style.new_figure(side + 1.0, side)
    axes = figure.add_subplot(xlabel="receiver", ylabel="sender")
    edges = edge_bytes(run)
    if not edges:
        return style.empty_plot(figure, axes, "No bytes were sent.")
    unit, name = byte_unit(max(count for *_, count in edges))
    cells = np.full((n, n), np.nan)
    for sender, receiver, count in edges:
        cells[sender, receiver] = count / unit
    image = axes.imshow(cells, cmap=style.MAP, vmin=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=26, pad=0.02, label=f"bytes sent ({name})")
    bar.outline.set_visible(False)
    if n <= _MAX_CELLS:
        for sender, receiver, count in edges:
            color = "black" if count / unit > np.nanmax(cells) / 2 else "white"
            text = f"{count / unit:.3g}"
            axes.text(receiver, sender, text, ha="center", va="center", fontsize=7, color=color)
    _name_peers(axes, run, n)
    axes.grid(visible=False)
    return figure


def _name_peers(axes: Axes, run: RecordedRun, n: int) -> None:
    every = -(-n // (_MAX_NAMES // 2))
    places = range(0, n, every)
    names = [style.plot_text(run.topology.names[peer], 14) for peer in places]
    small = 8 if n <= 24 else 5
    long = max(len(name) for name in names) > 3
    axes.set_xticks(places, names, fontsize=small, rotation=90 if long else 0)
    axes.set_yticks(places, names, fontsize=small)


def draw_senders(run: RecordedRun) -> Figure:
    """Bytes sent by each process in the training rounds; the busiest is marked."""
    sent = sent_by_process(run, "train")
    n, most = len(sent), max(sent)
    figure = style.new_figure(2 * style.WIDTH, 0.78 * style.HEIGHT)
    axes = figure.add_subplot()
    if not most:
        return style.empty_plot(figure, axes, "No bytes were sent.")
    unit, name = byte_unit(most)
    busiest = [peer for peer in range(n) if sent[peer] >= _EQUAL * most]
    others = [peer for peer in range(n) if peer not in busiest]
    common: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 0.6, "width": 0.72}
    axes.bar(others, [sent[peer] / unit for peer in others], color=style.SKY, **common)
    look: dict[str, Any] = {"color": style.VERMILION, "hatch": "///"} if others else {"color": style.SKY}
    axes.bar(busiest, [sent[peer] / unit for peer in busiest], **look, **common)
    if others:
        mean = sum(sent[peer] for peer in others) / len(others)
        label = f"mean of the others, {bytes_text(mean)}"
        axes.axhline(mean / unit, color=style.INK, linestyle="--", linewidth=1.0, label=label)
        axes.legend(loc="best")
    axes.set_title(_busiest_text(run, sent, busiest), loc="left", fontsize=10, fontweight="bold")
    axes.set_ylabel(f"bytes sent ({name})")
    _name_processes(axes, run)
    return figure


def _busiest_text(run: RecordedRun, sent: list[int], busiest: list[int]) -> str:
    """Title that names the busiest processes."""
    others = len(sent) - len(busiest)
    if not others:
        return f"No hot spot: all {len(sent)} sent {bytes_text(max(sent))} within 1 %"
    mean = (sum(sent) - sum(sent[peer] for peer in busiest)) / others
    names = [style.plot_text(run.topology.names[peer], 20) for peer in busiest[:3]]
    kind = {"gossip": "peer", "centralized": "client"}.get(run.mode.name, "process")
    if busiest == [run.coordinator]:
        kind = "the"
    shown = f"{kind} {', '.join(names)}" + (f" and {len(busiest) - 3} more" if len(busiest) > 3 else "")
    times = f", {max(sent) / mean:.3g} times the mean of the others" if mean else ""
    return f"Busiest: {shown} with {bytes_text(max(sent))}{' each' if len(busiest) > 1 else ''}{times}"


def _name_processes(axes: Axes, run: RecordedRun) -> None:
    n = run.topology.n
    every = -(-n // _MAX_NAMES)
    places = range(0, n, every)
    names = [style.plot_text(run.topology.names[peer], 14) for peer in places]
    crowded = sum(len(name) for name in names) > 110 or (n > 40 and max(len(name) for name in names) > 3)
    axes.set_xticks(places, names, fontsize=8 if n <= 40 else 6, rotation=90 if crowded else 0)
    axes.set_xlim(-0.7, n - 0.3)
    axes.grid(visible=False, axis="x")


# Field of RoundRecord -> label, color, hatch.
ACTIVITIES: dict[str, tuple[str, str, str]] = {
    "train_seconds": ("train", style.BLUE, ""),
    "exchange_seconds": ("exchange and mix", style.ORANGE, "////"),
    "wait_seconds": ("wait for others", style.SURFACE, "...."),
    "evaluate_seconds": ("evaluate", style.GREEN, "xxxx"),
}


def draw_time(run: RecordedRun) -> Figure:
    """Seconds of each process in the training rounds by activity."""
    n = run.topology.n
    wide = 2 if n > 1 else 1  # one bar needs half a page
    figure = style.new_figure(wide * style.WIDTH, min(0.26 * n + 1.5, 7.5))
    axes = figure.add_subplot(xlabel="seconds of the training rounds")
    trained = [of_phase(own, "train") for own in run.records]
    if not any(trained):
        return style.empty_plot(figure, axes, "No round was finished.")
    start = np.zeros(n)
    for field, (label, color, hatch) in ACTIVITIES.items():
        if not any(getattr(record, field) for own in trained for record in own):
            continue
        seconds = np.array([math.fsum(getattr(record, field) for record in own) for own in trained])
        look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": style.INK, "linewidth": 0.5}
        axes.barh(range(n), seconds, left=start, height=0.72, label=label, **look)
        start += seconds
    every = -(-n // _MAX_NAMES)
    names = [style.plot_text(name, 20) for name in run.topology.names[::every]]
    axes.set_yticks(range(0, n, every), names, fontsize=9 if n <= 24 else 6)
    axes.set_ylim(n - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=len(ACTIVITIES))
    return figure
