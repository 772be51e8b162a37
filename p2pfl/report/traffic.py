"""Plots of what exchange costs: bytes by edge and where each peer's time went."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.run import Run, of_phase
from p2pfl.report.units import byte_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_CELLS = 12  # peers up to which the bytes of an edge are also written as a number
_MAX_NAMES = 64  # peers that an axis names; of more, every second, third, … one


def edge_bytes(run: Run) -> list[tuple[int, int, int]]:
    """(sender, receiver, bytes) of every edge over the whole run, in peer order."""
    index = {name: peer for peer, name in enumerate(run.topology.names)}
    totals: dict[tuple[int, int], int] = {}
    for sender, own in enumerate(run.records):
        for record in own:
            for name, count in record.sent_to.items():
                if name in index:
                    edge = (sender, index[name])
                    totals[edge] = totals.get(edge, 0) + count
    return [(sender, receiver, count) for (sender, receiver), count in sorted(totals.items())]


def draw_edges(run: Run) -> Figure:
    n = run.topology.n
    side = min(max(0.36 * n + 1.6, 4.2), 7.5)
    figure = style.new_figure(side + 1.0, side)
    axes = figure.add_subplot(xlabel="receiver", ylabel="sender")
    edges = edge_bytes(run)
    if not edges:
        return style.nothing(figure, axes, "Nothing was sent.")
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


def _name_peers(axes: Axes, run: Run, n: int) -> None:
    every = -(-n // (_MAX_NAMES // 2))
    places = range(0, n, every)
    names = [style.plain(run.topology.names[peer], 14) for peer in places]
    small = 8 if n <= 24 else 5
    long = max(len(name) for name in names) > 3
    axes.set_xticks(places, names, fontsize=small, rotation=90 if long else 0)
    axes.set_yticks(places, names, fontsize=small)


# Field of RoundRecord -> label, color, hatch.
PARTS: dict[str, tuple[str, str, str]] = {
    "train_seconds": ("train", style.BLUE, ""),
    "exchange_seconds": ("exchange and mix", style.ORANGE, "////"),
    "wait_seconds": ("wait for neighbors", style.SURFACE, "...."),
    "evaluate_seconds": ("evaluate", style.GREEN, "xxxx"),
}


def draw_time(run: Run) -> Figure:
    n = run.topology.n
    figure = style.new_figure(2 * style.WIDTH, min(0.26 * n + 1.5, 7.5))
    axes = figure.add_subplot(xlabel="seconds of the training rounds", ylabel="peer")
    trained = [of_phase(own, "train") for own in run.records]
    if not any(trained):
        return style.nothing(figure, axes, "No round was finished.")
    start = np.zeros(n)
    for field, (label, color, hatch) in PARTS.items():
        seconds = np.array([math.fsum(getattr(record, field) for record in own) for own in trained])
        look: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": style.INK, "linewidth": 0.5}
        axes.barh(range(n), seconds, left=start, height=0.72, label=label, **look)
        start += seconds
    every = -(-n // _MAX_NAMES)
    names = [style.plain(name, 20) for name in run.topology.names[::every]]
    axes.set_yticks(range(0, n, every), names, fontsize=9 if n <= 24 else 6)
    axes.set_ylim(n - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=len(PARTS))
    return figure
