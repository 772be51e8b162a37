"""How an entry looks in every plot: a color, a line style and a marker of its own; and labels at the ends of lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pfl.report import style

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
_LETTERS = 30
_FONT = 8.0
_GAP = 1.55  # from one label to the next, in font sizes


@dataclass(frozen=True)
class Look:
    """Color, line style and marker of an entry: each alone tells at least five entries apart, together all."""

    color: str
    line: Any
    marker: str

    def of_line(self) -> dict[str, Any]:
        """As matplotlib's keywords for a line."""
        return {"color": self.color, "linestyle": self.line}

    def of_marker(self) -> dict[str, Any]:
        """As matplotlib's keywords for markers alone."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": "none",
            "markeredgecolor": style.INK,
            "markeredgewidth": 0.6,
        }


def look(place: int) -> Look:
    """The look of the entry at a place of the comparison; the lists' lengths share no factor."""
    return Look(_COLORS[place % len(_COLORS)], _LINES[place % len(_LINES)], _MARKERS[place % len(_MARKERS)])


@dataclass(frozen=True)
class End:
    """Where a line ends, in data coordinates, whose it is, and what its label says."""

    x: float
    y: float
    look: Look
    text: str


def short(label: str) -> str:
    """A label for matplotlib, not too long."""
    return style.plain(label, _LETTERS)


def label_ends(axes: Axes, ends: Sequence[End], height: float) -> None:
    """Name lines at the right edge of the axes, `height` inches high, moved apart where they would overlap.

    A sample of the line stands before each name, and a thin leader runs to where the line ends. The axes' limits
    must be final.
    """
    low, high = axes.get_ylim()
    gap = _FONT * _GAP / (72 * height)
    order = sorted(ends, key=lambda end: end.y)
    wanted = [(end.y - low) / (high - low) for end in order]
    for end, at in zip(order, spread(wanted, gap), strict=True):
        common: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([1.045, 1.115], [at, at], **end.look.of_line(), **common)
        axes.plot([1.08], [at], **end.look.of_marker(), **common)
        axes.text(1.135, at, end.text, fontsize=_FONT, va="center", transform=axes.transAxes)
        leader = {"arrowstyle": "-", "color": style.GRAY, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            "", (end.x, end.y), xytext=(1.04, at), textcoords="axes fraction", arrowprops=leader, annotation_clip=False
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the same (rising) order, and in the least-squares sense next to the wanted ones.

    Pool adjacent violators: neighbors that overlap are merged to one block about the mean of what they want.
    """
    blocks: list[list[float]] = []  # wanted places, each less its distance from the block's own start
    for place, value in enumerate(wanted):
        blocks.append([value - place * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            above = blocks.pop()
            blocks[-1].extend(above)
    levels = [float(np.mean(block)) for block in blocks for _ in block]
    return [level + place * gap for place, level in enumerate(levels)]
