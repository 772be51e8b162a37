"""Panels of line plots: many entries, divided by one dimension of their grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from p2pfl.report import style
from p2pfl.report.compare.curves import accuracy_at_end
from p2pfl.report.compare.dimensions import algorithm_of, column_of, place_of
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.line_styles import LineStyle, faint_style, line_style, short_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 8  # of one plot, which have a label at their end each; of a panel, which have colors
_MOST_PANELS = 12
_BEST = 6  # lines with a color where a panel has too many, besides the worst
_COLUMNS = 3  # of panels
_WIDTH, _HEIGHT, _ALONE = 2 * style.WIDTH, 2.8, 4.6  # inches: of all, of a panel, of a single one
_LEGEND_COLUMNS = 5
# What may differ between panels -> its value of an entry; None: the entry is a baseline in all panels.
_DIMENSIONS: Mapping[str, Callable[[Entry], str | None]] = {
    "partition": column_of,
    "topology": lambda entry: place_of(entry) if entry.mode.mixes else None,
    "algorithm": algorithm_of,
}


@dataclass(frozen=True)
class Line:
    """Entry in a panel: its style, and its name, which is without the panel's title."""

    entry: Entry
    style: LineStyle
    name: str


@dataclass(frozen=True)
class Panel:
    """One panel; its title is the value of the dimension that differs."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Panels:
    """Entries in panels, in which lines of the same name look alike.

    `dimension`: what differs between the panels; empty where there is only one.
    """

    dimension: str
    panels: tuple[Panel, ...]

    def of(self, labels: Collection[str]) -> Panels:
        """Panels with only the entries of these labels."""
        kept = (replace(p, lines=tuple(line for line in p.lines if line.entry.label in labels)) for p in self.panels)
        return replace(self, panels=tuple(kept))


def needs_panels(entries: Sequence[Entry]) -> bool:
    """Whether entries are too many for one plot with a label at each line."""
    return len(entries) > MOST_LINES


def arrange(entries: Sequence[Entry]) -> Panels:
    """Divide entries into panels by the first dimension that leaves few lines.

    Where a panel still has too many, only the most accurate and the worst have a color, the same in all panels.
    """
    divided = {name: _groups(entries, key) for name, key in _DIMENSIONS.items()}
    fitting = [name for name, groups in divided.items() if 2 <= len(groups) <= _MOST_PANELS]
    dimension = min(fitting, key=lambda name: max(MOST_LINES, *map(len, divided[name].values())), default="")
    groups = divided[dimension] if dimension else {"": list(enumerate(entries))}
    names = {title: [_name(entry, dimension) for _, entry in group] for title, group in groups.items()}
    looks = _looks([(name, e) for title, own in names.items() for name, (_, e) in zip(own, groups[title], strict=True)])
    panels = [
        Panel(
            title,
            tuple(
                Line(entry, replace(looks[name], gid=style.group_id(index)), name)
                for name, (index, entry) in zip(names[title], group, strict=True)
            ),
        )
        for title, group in groups.items()
    ]
    return Panels(dimension, tuple(panels))


def _groups(entries: Sequence[Entry], key: Callable[[Entry], str | None]) -> dict[str, list[tuple[int, Entry]]]:
    """Entries with their numbers by a dimension's value, baselines with every value."""
    values = [value for value in dict.fromkeys(map(key, entries)) if value is not None]
    return {value: [(i, entry) for i, entry in enumerate(entries) if key(entry) in (value, None)] for value in values}


def _name(entry: Entry, dimension: str) -> str:
    """Label of an entry without its value of a dimension."""
    value = _DIMENSIONS[dimension](entry) if dimension else None
    return f", {entry.label}, ".replace(f", {value}, ", ", ", 1).strip(", ") or entry.label


def _looks(named: Sequence[tuple[str, Entry]]) -> dict[str, LineStyle]:
    """Styles by name; of too many only the best and the worst have colors.

    Their rank is that of the mean accuracy over the panels.
    """
    names = dict.fromkeys(name for name, _ in named)
    if len(names) <= MOST_LINES:
        return {name: line_style(place) for place, name in enumerate(names)}
    accuracies: dict[str, list[float]] = {}
    for name, entry in named:
        accuracies.setdefault(name, []).append(accuracy_at_end(entry))
    ranked = sorted(accuracies, key=lambda name: -fmean(accuracies[name]))
    colored = [*ranked[:_BEST], ranked[-1]]
    return {name: line_style(colored.index(name)) if name in colored else faint_style() for name in ranked}


def styles_of(entries: Sequence[Entry]) -> list[LineStyle]:
    """Styles of entries in plots that show each of them in a row."""
    if not needs_panels(entries):
        return [line_style(place) for place in range(len(entries))]
    looks = {line.entry.label: line.style for panel in arrange(entries).panels for line in panel.lines}
    return [replace(looks[entry.label], is_faint=False, marker=looks[entry.label].marker or "o") for entry in entries]


def draw_panels(found: Panels, x_label: str, y_label: str) -> tuple[Figure, list[Axes]]:
    """Empty panels with shared axes, titles and one legend below."""
    from matplotlib.lines import Line2D

    looks = {line.name: line.style for panel in found.panels for line in panel.lines}
    shown = [name for name, look in looks.items() if not look.is_faint]
    columns = min(len(found.panels), _COLUMNS)
    rows, legend_rows = -(-len(found.panels) // columns), -(-(len(shown) + 1) // _LEGEND_COLUMNS)
    figure = style.new_figure(_WIDTH, (_HEIGHT * rows if found.dimension else _ALONE) + 0.2 * legend_rows + 0.4)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    panels, unused = list(grid[: len(found.panels)]), grid[len(found.panels) :]
    for place, (axes, panel) in enumerate(zip(panels, found.panels, strict=True)):
        axes.set_title(short_label(panel.title), fontweight="bold")
        if place + columns >= len(panels):  # no panel below
            axes.set_xlabel(x_label)
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel(y_label)
    for axes in unused:
        axes.set_axis_off()
    handles = [Line2D([], [], label=short_label(name), **looks[name].legend_options()) for name in shown]
    if len(shown) < len(looks):
        handles.append(Line2D([], [], label=f"{len(looks) - len(shown)} others", **faint_style().legend_options()))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), _LEGEND_COLUMNS))
    return figure, panels
