"""Line styles of entries, the same in every plot, and labels at the ends of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style
from p2pfl.util.text import shortened, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, "#cc79a7", style.INK, style.SKY)
_LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.6)),
    (0, (5, 1.4, 1.2, 1.4)),
    (0, (1.3, 1.3)),
    (0, (8, 2.2, 1.2, 2.2, 1.2, 2.2)),
)
_MARKERS = "osD^vPXph<>"
_MAX_CHARACTERS = 30
_FONT = 8.0
_GAP = 1.55  # between labels, in font sizes


@dataclass(frozen=True)
class LineStyle:
    """Color, dashes and marker of an entry, and the class of its SVG elements.

    Each look alone distinguishes at least five entries, all three together all of them. Faint ones look all alike.
    """

    color: str
    line: Any
    marker: str
    gid: str = ""
    is_faint: bool = False

    def line_options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a line."""
        thin = {"linewidth": 0.7, "alpha": 0.7, "zorder": 1} if self.is_faint else {}
        return {"color": self.color, "linestyle": self.line, "gid": self.gid, **thin}

    def marker_options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for markers without a line."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": "none",
            "markeredgecolor": style.INK,
            "markeredgewidth": 0.6,
            "gid": self.gid,
        }

    def legend_options(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib for a sample in a legend of several entries."""
        return {**self.marker_options(), **self.line_options(), "gid": None}


def line_style(index: int) -> LineStyle:
    """Style of the entry at an index of the comparison."""
    # The lengths of the lists have no common factor.
    color, line, marker = (looks[index % len(looks)] for looks in (_COLORS, _LINES, _MARKERS))
    return LineStyle(color, line, marker, style.group_id(index))


def faint_style() -> LineStyle:
    """Style of entries that are only a background for others."""
    return LineStyle(style.GRAY, "-", "", is_faint=True)


@dataclass(frozen=True)
class LineEnd:
    """End of a line in data coordinates, with its style and label."""

    x: float
    y: float
    style: LineStyle
    text: str


def short_label(label: str) -> str:
    """Label for matplotlib, shortened in its middle if too long.

    Labels of a grid begin with the same words, and end with the partition.
    """
    return style.plot_text(shortened(visible(label), _MAX_CHARACTERS))


def label_ends(axes: Axes, ends: Sequence[LineEnd], height: float) -> None:
    """Label lines at the right edge of axes of `height` inches, without overlaps.

    Each label has a sample of the line and a thin leader to its end. The limits of the axes must be final.
    """
    low, high = axes.get_ylim()
    gap = _FONT * _GAP / (72 * height)
    order = sorted(ends, key=lambda end: end.y)
    wanted = [(end.y - low) / (high - low) for end in order]
    for end, at in zip(order, spread_positions(wanted, gap), strict=True):
        common: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([1.045, 1.115], [at, at], **end.style.line_options(), **common)
        axes.plot([1.08], [at], **end.style.marker_options(), **common)
        axes.text(1.135, at, end.text, fontsize=_FONT, va="center", transform=axes.transAxes, gid=end.style.gid)
        leader = {"arrowstyle": "-", "color": style.GRAY, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4}
        drawn = axes.annotate(
            "", (end.x, end.y), xytext=(1.04, at), textcoords="axes fraction", arrowprops=leader, annotation_clip=False
        )
        if drawn.arrow_patch is not None:
            drawn.arrow_patch.set_gid(end.style.gid)


def height_for(entries: int, height: float, share: float) -> float:
    """Height in inches of a plot with room for all labels, at least `height`.

    `share`: of the height, for the axes.
    """
    return max(height, entries * _FONT * _GAP / 72 / share + 0.4)


def spread_positions(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions at least `gap` apart, closest (least squares) to the wanted ones.

    `wanted` rises. Pool adjacent violators: positions that overlap are merged to a block around the mean of the wanted
    ones.
    """
    blocks: list[list[float]] = []  # wanted positions, each less its offset in the final order
    for index, value in enumerate(wanted):
        blocks.append([value - index * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            above = blocks.pop()
            blocks[-1].extend(above)
    levels = [float(np.mean(block)) for block in blocks for _ in block]
    return [level + index * gap for index, level in enumerate(levels)]
