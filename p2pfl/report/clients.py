"""Which clients of a centralized run took part in which rounds, as numbers and as a plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_ROUNDS, _MAX_CLIENTS = 250, 64  # in a grid of more, a cell would be narrower than the eye


@dataclass(frozen=True)
class Participation:
    """The finished rounds in which a client's update was averaged, and those in which it was drawn but missing."""

    averaged: tuple[int, ...]
    missed: tuple[int, ...]


def participation(run: Run) -> tuple[Participation, ...]:
    """What the coordinator recorded of each client, in client order."""
    drawn = [(number, set(row[0].selected or ()), set(row[0].missing or ())) for number, row in run.rounds.items()]
    return tuple(
        Participation(
            averaged=tuple(number for number, selected, missing in drawn if name in selected - missing),
            missed=tuple(number for number, selected, missing in drawn if name in selected & missing),
        )
        for name in (run.topology.names[client] for client in run.trainers)
    )


def shares(run: Run) -> list[float | None]:
    """The share of the finished rounds in which a client's update was averaged; None for a coordinator, at its place.

    All None where no round was finished.
    """
    rounds = len(run.rounds)
    found: list[float | None] = [len(part.averaged) / rounds if rounds else None for part in participation(run)]
    return [*found, None]


def draw_participation(run: Run) -> Figure:
    """Clients over rounds; a bar for each client where so many cells could not be told apart."""
    parts = participation(run)
    height = min(0.2 * len(parts) + 1.5, 7.5)
    figure = style.new_figure(2 * style.WIDTH, height)
    axes = figure.add_subplot(ylabel="client")
    if not any(part.averaged or part.missed for part in parts):
        return style.nothing(figure, axes, "No round was finished.")
    if len(parts) <= _MAX_CLIENTS and max(run.rounds) <= _MAX_ROUNDS:
        _draw_cells(axes, run, parts, (height - 1.0) * 72 / len(parts))
    else:
        _draw_bars(axes, parts)
    every = -(-len(parts) // _MAX_CLIENTS)
    names = [style.plain(_name(run, client), 20) for client in range(0, len(parts), every)]
    axes.set_yticks(range(0, len(parts), every), names, fontsize=9 if len(parts) <= 24 else 6)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _name(run: Run, client: int) -> str:
    return run.topology.names[client] + ("" if client in run.survivors else " (lost)")


def _draw_cells(axes: Axes, run: Run, parts: tuple[Participation, ...], row_points: float) -> None:
    """A full cell for an update, a hollow one with a cross for a missing one; nothing where it was not drawn."""
    last = max(max(run.rounds), run.config.training.rounds)
    column_points = 2 * style.WIDTH * 72 * 0.88 / last
    axes.set_xlabel("round")
    averaged = [(number, client) for client, part in enumerate(parts) for number in part.averaged]
    missed = [(number, client) for client, part in enumerate(parts) for number in part.missed]
    _boxes(axes, averaged, style.BLUE, "none", f"update averaged ({len(averaged):,})")
    if missed:
        _boxes(axes, missed, style.SURFACE, style.INK, "")
        size = float(np.clip(0.62 * min(row_points, column_points), 2.5, 8.0))
        label = f"drawn, but its update was missing ({len(missed):,})"
        look: dict[str, Any] = {"marker": "x", "linestyle": "none", "color": style.VERMILION, "markersize": size}
        axes.plot(*zip(*missed, strict=True), markeredgewidth=min(1.6, size / 3), label=label, **look)
    axes.set_xlim(0.4, last + 0.6)
    axes.locator_params(axis="x", integer=True)
    axes.grid(visible=False, axis="x")
    for edge in range(1, len(parts)):
        axes.axhline(edge - 0.5, color=style.LINE, linewidth=0.5, zorder=0)


def _boxes(axes: Axes, cells: list[tuple[int, int]], fill: str, edge: str, label: str) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((number - 0.42, client - 0.4), 0.84, 0.8) for number, client in cells]
    axes.add_collection(PatchCollection(boxes, facecolor=fill, edgecolor=edge, linewidths=0.6))
    if label:
        axes.plot([], [], marker="s", linestyle="none", color=fill, markersize=7, label=label)


def _draw_bars(axes: Axes, parts: tuple[Participation, ...]) -> None:
    axes.set_xlabel("rounds")
    averaged = [len(part.averaged) for part in parts]
    missed = [len(part.missed) for part in parts]
    edge: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 0.5, "height": 0.72}
    axes.barh(range(len(parts)), averaged, color=style.BLUE, label=f"update averaged ({sum(averaged):,})", **edge)
    if any(missed):
        label = f"drawn, but its update was missing ({sum(missed):,})"
        look: dict[str, Any] = {"color": style.SURFACE, "hatch": "xxxx", **edge}
        axes.barh(range(len(parts)), missed, left=averaged, label=label, **look)
    axes.locator_params(axis="x", integer=True)
