"""Plot of a schedule: the graph of each round, with all peers at the same places."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.report import style
from p2pfl.report.topology_layout import circle
from p2pfl.report.topology_plot import draw_edges, draw_peers, node_points
from p2pfl.topology import Topology

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 24
_COLUMNS = 6
_SIDE = 2.4  # inches of a panel
_MAX_NAMED = 24  # peers from which there is no room for names


def draw_schedule(topology: Topology, path: Path) -> None:
    """Draw the graphs of a schedule as PNG or SVG, by the extension of `path`.

    Raises ConfigError for another extension or an unwritable path.
    """
    with style.styled():
        style.save(schedule_figure(topology, topology.name), path)


def schedule_figure(topology: Topology, title: str) -> Figure:
    """Figure of a schedule's graphs by round, for use within `style.styled()`.

    Of a long schedule the first rounds.
    """
    graphs = topology.by_round[:MAX_PANELS]
    rows = math.ceil(len(graphs) / _COLUMNS)
    columns = math.ceil(len(graphs) / rows)
    figure = style.new_figure(max(_SIDE * columns, 4.0), _SIDE * 1.12 * rows + 0.5)
    figure.suptitle(style.plot_text(title, 60), fontweight="bold")
    total = len(topology.rounds)
    if len(graphs) < total:
        figure.supxlabel(f"The first {len(graphs)} of {total} rounds, after which they repeat.", fontsize=8)
    places = circle(topology.n)
    size = min(node_points(places, _SIDE), 15.0)
    names = list(topology.names) if topology.n <= _MAX_NAMED else None
    for number, one in enumerate(graphs, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
        axes.set_title(f"round {number}", fontsize=9)
        if one.graph.number_of_edges():
            draw_edges(axes, one, places, size)
        draw_peers(axes, places, size, names)
    return figure
