"""Participation of clients in the rounds of a centralized run, and its plot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.report.load import RecordedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_ROUNDS, _MAX_CLIENTS = 250, 64  # in a larger grid cells are too small to be seen


@dataclass(frozen=True)
class Participation:
    """Finished rounds with a client's update, and those for which it was missing.

    An update is missing where the client was drawn and its update did not arrive in time.
    """

    averaged: tuple[int, ...]
    missed: tuple[int, ...]


def participation(run: RecordedRun) -> tuple[Participation, ...]:
    """Participation of each client by the coordinator's records, in client order."""
    drawn = [(number, set(row[0].selected or ()), set(row[0].missing or ())) for number, row in run.rounds.items()]
    return tuple(
        Participation(
            averaged=tuple(number for number, selected, missing in drawn if name in selected - missing),
            missed=tuple(number for number, selected, missing in drawn if name in selected & missing),
        )
        for name in (run.topology.names[client] for client in run.trainers)
    )


def shares(run: RecordedRun) -> list[float | None]:
    """Share of the finished rounds with each client's update.

    The last item, None, is for the coordinator. All are None where no round was finished.
    """
    rounds = len(run.rounds)
    by_client = [len(client.averaged) / rounds if rounds else None for client in participation(run)]
    return [*by_client, None]


def draw_participation(run: RecordedRun) -> Figure:
    """Clients over rounds; one bar a client where cells would be too small."""
    clients = participation(run)
    height = min(0.2 * len(clients) + 1.5, 7.5)
    figure = style.new_figure(2 * style.WIDTH, height)
    axes = figure.add_subplot(ylabel="client")
    if not any(own.averaged or own.missed for own in clients):
        return style.empty_plot(figure, axes, "No round was finished.")
    if len(clients) <= _MAX_CLIENTS and max(run.rounds) <= _MAX_ROUNDS:
        _draw_cells(axes, run, clients, (height - 1.0) * 72 / len(clients))
    else:
        _draw_bars(axes, clients)
    every = -(-len(clients) // _MAX_CLIENTS)
    names = [style.plot_text(_name(run, client), 20) for client in range(0, len(clients), every)]
    axes.set_yticks(range(0, len(clients), every), names, fontsize=9 if len(clients) <= 24 else 6)
    axes.set_ylim(len(clients) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _name(run: RecordedRun, client: int) -> str:
    return run.topology.names[client] + ("" if client in run.survivors else " (lost)")


def _draw_cells(axes: Axes, run: RecordedRun, clients: tuple[Participation, ...], row_points: float) -> None:
    """Full cells for updates, hollow ones with a cross for missing ones."""
    last = max(max(run.rounds), run.config.training.rounds)
    column_points = 2 * style.WIDTH * 72 * 0.88 / last
    axes.set_xlabel("round")
    averaged = [(number, client) for client, own in enumerate(clients) for number in own.averaged]
    missed = [(number, client) for client, own in enumerate(clients) for number in own.missed]
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
    for edge in range(1, len(clients)):
        axes.axhline(edge - 0.5, color=style.LINE, linewidth=0.5, zorder=0)


def _boxes(axes: Axes, cells: list[tuple[int, int]], fill: str, edge: str, label: str) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((number - 0.42, client - 0.4), 0.84, 0.8) for number, client in cells]
    axes.add_collection(PatchCollection(boxes, facecolor=fill, edgecolor=edge, linewidths=0.6))
    if label:
        axes.plot([], [], marker="s", linestyle="none", color=fill, markersize=7, label=label)


def _draw_bars(axes: Axes, clients: tuple[Participation, ...]) -> None:
    axes.set_xlabel("rounds")
    averaged = [len(own.averaged) for own in clients]
    missed = [len(own.missed) for own in clients]
    edge: dict[str, Any] = {"edgecolor": style.INK, "linewidth": 0.5, "height": 0.72}
    axes.barh(range(len(clients)), averaged, color=style.BLUE, label=f"update averaged ({sum(averaged):,})", **edge)
    if any(missed):
        label = f"drawn, but its update was missing ({sum(missed):,})"
        look: dict[str, Any] = {"color": style.SURFACE, "hatch": "xxxx", **edge}
        axes.barh(range(len(clients)), missed, left=averaged, label=label, **look)
    axes.locator_params(axis="x", integer=True)
