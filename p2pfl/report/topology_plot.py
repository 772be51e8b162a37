"""Plot of a topology: peers, edges, and a value of each peer as its color."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2pfl.report import style
from p2pfl.report.topology_layout import Positions, node_positions
from p2pfl.topology import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_EDGES = 20_000  # more would be a black disk that takes minutes to draw
MAX_LABELS = 150
_LABEL_CHARACTERS = 14
_ACROSS = 1e-3  # share of the width; an edge that passes a third peer more closely is bent around it


def draw_topology(
    topology: Topology,
    path: Path,
    *,
    values: Sequence[float | None] | None = None,
    title: str | None = None,
) -> None:
    """Draw a topology as PNG or SVG, by the extension of `path`.

    `values` are accuracies in 0..1, one a peer in peer order, shown as colors; None where unknown. `title` replaces
    the topology's name. Raises ConfigError for another extension or an unwritable path.
    """
    with style.styled():
        figure = topology_figure(topology, values=values, title=topology.name if title is None else title)
        style.save(figure, path)


def topology_figure(
    topology: Topology,
    *,
    values: Sequence[float | None] | None,
    title: str,
    label: str = "test accuracy (%)",
    hub: int | None = None,
    edges: bool = True,
) -> Figure:
    """Figure of a topology, for use within `style.styled()`.

    `label` describes the `values` (0..1, shown in percent). `hub` is a node that is not a peer, such as a coordinator,
    drawn as a box with its name. `edges` False draws the peers only.
    """
    positions = normalized(node_positions(topology.graph))
    side = 5.2 if topology.n <= 24 else 7.2
    half_width, half_height = np.maximum(positions.max(axis=0), 0.1) + 0.14
    figure = style.new_figure(
        side * max(half_width / 1.14, 0.4) + (0.9 if values else 0.0), side * half_height / 1.14 + 0.3
    )
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(-half_width, half_width), ylim=(-half_height, half_height))
    if title:
        axes.set_title(style.plot_text(title, 60), fontweight="bold", pad=14)
    size = node_points(positions, side)
    if edges and topology.graph.number_of_edges():
        draw_edges(axes, topology, positions, size)
    if hub is not None:
        _draw_hub(axes, positions[hub], topology.names[hub])
    peers = [peer for peer in range(topology.n) if peer != hub]
    names, places = [topology.names[peer] for peer in peers], positions[peers]
    fills = _draw_peers(axes, places, size, None if values is None else [values[peer] for peer in peers], label)
    if topology.n <= MAX_LABELS:
        _draw_labels(axes, names, places, size, fills)
    return figure


def draw_peers(axes: Axes, positions: Positions, size: float, names: list[str] | None) -> None:
    """Draw peers of a diameter `size` in points, and their names if given."""
    fills = _draw_peers(axes, positions, size, None, "")
    if names is not None:
        _draw_labels(axes, names, positions, size, fills)


def normalized(positions: Positions) -> Positions:
    """Positions centered and scaled to −1..1 in both directions."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    scale = 2 / max(float((high - low).max()), 1e-9)
    return np.asarray((positions - (low + high) / 2) * scale)


def node_points(positions: Positions, side: float) -> float:
    """Diameter of a peer in points: at most half the distance to the nearest peer."""
    gap = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    np.fill_diagonal(gap, 2.0)  # width of the picture, for a single peer
    return float(np.clip(0.5 * np.quantile(gap.min(axis=1), 0.1) * side * 72 / 2.5, 3.0, 26.0))


def draw_edges(axes: Axes, topology: Topology, positions: Positions, size: float) -> None:
    """Draw edges as lines or arrows between peers of a diameter `size` in points."""
    from matplotlib.patches import FancyArrowPatch

    edges = np.array(list(topology.graph.edges))
    drawn = edges[:: -(-len(edges) // MAX_EDGES)]
    if len(drawn) < len(edges):
        axes.text(0, axes.get_ylim()[0], f"{len(drawn):,} of {len(edges):,} edges drawn", ha="center", fontsize=8)
    width = float(np.clip(120 / len(drawn), 0.3, 1.2))
    bent = _passes_a_peer(positions, drawn)
    straight = drawn[~bent]
    if not topology.directed:
        # One collection: thousands of edges would take minutes as patches.
        from matplotlib.collections import LineCollection

        lines = LineCollection(list(positions[straight]), colors=style.GRAY, linewidths=width, zorder=1)
        axes.add_collection(lines)
    for (i, j), around in zip(drawn, bent, strict=True):
        if not (topology.directed or around):
            continue
        both = topology.directed and topology.graph.has_edge(j, i)
        inwards = np.sign(np.linalg.det([positions[j] - positions[i], positions[i] + positions[j]])) or 1.0
        arrow = FancyArrowPatch(
            tuple(positions[i]),
            tuple(positions[j]),
            arrowstyle="-|>" if topology.directed else "-",
            connectionstyle=f"arc3,rad={0.25 * inwards if around else 0.12 if both else 0.0}",
            mutation_scale=max(4.0, min(9.0, size / 2)),
            shrinkA=size / 2,
            shrinkB=size / 2,
            color=style.GRAY,
            linewidth=width,
            zorder=1,
        )
        axes.add_patch(arrow)


def _passes_a_peer(positions: Positions, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Edges that run across a third peer, such as long ones of a torus: (edges,) bool."""
    bent = np.zeros(len(edges), bool)
    if len(edges) * len(positions) > 5_000_000:
        return bent
    for row, (i, j) in enumerate(edges):
        start, along = positions[i], positions[j] - positions[i]
        offset = positions - start
        share = offset @ along / float(along @ along)
        distance = np.linalg.norm(offset - share[:, None] * along, axis=1)
        between = (share > _ACROSS) & (share < 1 - _ACROSS)
        bent[row] = bool(np.any(between & (distance < 20 * _ACROSS)))
    return bent


def _draw_hub(axes: Axes, position: npt.NDArray[np.float64], name: str) -> None:
    box = {"boxstyle": "round,pad=0.45", "facecolor": style.ORANGE, "edgecolor": style.INK, "linewidth": 1.6}
    text = style.plot_text(name, _LABEL_CHARACTERS)
    x, y = position
    axes.text(x, y, text, ha="center", va="center", fontsize=9, fontweight="bold", color="black", bbox=box, zorder=4)


def _draw_peers(
    axes: Axes, positions: Positions, size: float, values: Sequence[float | None] | None, label: str
) -> list[str]:
    """Draw the peers; returns the text color for each of them."""
    common: dict[str, Any] = {"s": size**2, "edgecolors": style.INK, "linewidths": 0.8, "zorder": 2}
    if values is None:
        axes.scatter(positions[:, 0], positions[:, 1], color=style.SKY, **common)
        return ["black"] * len(positions)
    known = np.array([value is not None for value in values], bool)
    percent = np.array([100 * value for value in values if value is not None])
    axes.scatter(positions[~known, 0], positions[~known, 1], color=style.SURFACE, **common)
    on_top = np.full(len(positions), style.INK)
    if known.any():
        middle = float(percent.mean())
        spread = max(float(np.ptp(percent)) / 2, 0.05)  # equal peers still need a range of colors
        low, high = min(percent.min(), middle - spread), max(percent.max(), middle + spread)
        dots = axes.scatter(
            positions[known, 0], positions[known, 1], c=percent, cmap=style.MAP, vmin=low, vmax=high, **common
        )
        bar = axes.figure.colorbar(dots, ax=axes, shrink=0.75, aspect=26, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
        on_top[known] = np.where(percent > (low + high) / 2, "black", "white")
    return list(on_top)


def _draw_labels(axes: Axes, names: list[str], positions: Positions, size: float, colors: list[str]) -> None:
    from matplotlib.patheffects import withStroke

    longest = max(len(name) for name in names)
    font = float(np.clip((size - 3) / (0.72 * max(longest, 1.6)), 0.0, 9.0))  # fits on a peer
    if font >= 4.5:
        for name, (x, y), color in zip(names, positions, colors, strict=True):
            axes.text(
                x,
                y,
                style.plot_text(name),
                ha="center",
                va="center_baseline",
                fontsize=font,
                color=color,
                zorder=3,
            )
        return
    circle = float(np.ptp(np.linalg.norm(positions - positions.mean(axis=0), axis=1))) < 0.05
    for name, (x, y) in zip(names, positions, strict=True):
        # Beside the peer: outwards where peers stand in a circle, else below.
        away = np.array([x, y]) if circle else np.array([0.0, -1.0])
        text = axes.annotate(
            style.plot_text(name, _LABEL_CHARACTERS),
            (x, y),
            xytext=tuple(away * (size / 2 + 3)),
            textcoords="offset points",
            ha="center" if abs(away[0]) < 0.3 else "left" if away[0] > 0 else "right",
            va="center" if abs(away[1]) < 0.3 else "bottom" if away[1] > 0 else "top",
            fontsize=float(np.clip(size / 1.6, 5.0, 9.0)),
            zorder=3,
            annotation_clip=False,
        )
        text.set_path_effects([withStroke(linewidth=1.8, foreground=style.SURFACE)])
