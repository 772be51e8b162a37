"""Grid of a comparison for people: on the page, with filters, and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from p2pfl.config import TUNABLE
from p2pfl.modes import has_final_model
from p2pfl.report.compare.dimensions import Grid, algorithm_of, column_of, grid_of, place_of
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.matching import Comparison
from p2pfl.report.compare.table import best_of, cell, statistic
from p2pfl.report.compare.tuning import values_text
from p2pfl.report.fields import NO_VALUE
from p2pfl.util.text import visible
from p2pfl.util.units import bytes_text

if TYPE_CHECKING:
    from rich.console import RenderableType

# Field -> its heading on the page.
METRICS: dict[str, str] = {
    "consensus_accuracy": "final model",
    "mean_peer_accuracy": "mean peer",
    "worst_peer_accuracy": "worst peer",
    "mean_own_accuracy": "mean, own classes",
    "worst_own_accuracy": "worst, own classes",
}
_LEAST_ENTRIES = 3  # for which filters help


def grid_view(comparison: Comparison) -> dict[str, Any]:
    """Grid, filters and metrics for the page's template.

    The grid is None where the comparison is a plain list.
    """
    grid = grid_of(comparison.entries)
    top = {field: best_of(comparison, field) for field in METRICS}
    return {
        "grid": None if not grid.varies else _table(comparison, grid, top),
        "choices": _choices(comparison.entries),
        "metrics": list(METRICS.items()),
        "places": [dimensions_of(entry) for entry in comparison.entries],
    }


def dimensions_of(entry: Entry) -> dict[str, str]:
    """Dimensions by which the page filters an entry; empty where it has none."""
    return {
        "place": place_of(entry),
        "algorithm": algorithm_of(entry) or "",
        "partition": column_of(entry) or "",
    }


def _choices(entries: Sequence[Entry]) -> list[tuple[str, str, list[str]]]:
    """Dimensions with several values: name, title, values."""
    titles = {"place": "topology or mode", "algorithm": "algorithm", "partition": "partition"}
    found = []
    for name, title in titles.items() if len(entries) >= _LEAST_ENTRIES else ():
        values = list(dict.fromkeys(dimensions_of(entry)[name] for entry in entries))
        known = [value for value in values if value]
        if len(known) > 1:
            found.append((name, title, known))
    return found


def _table(comparison: Comparison, grid: Grid, top: dict[str, frozenset[str]]) -> dict[str, Any]:
    has_pooled = _has_pooled(comparison, grid)
    return {"columns": grid.columns, "rows": _rows(comparison, grid, top), "has_pooled": has_pooled}


def _has_pooled(comparison: Comparison, grid: Grid) -> bool:
    """Return whether pooled data, of which nothing is marked, are in several columns."""
    return len(grid.columns) > 1 and any(entry.mode.pools_data for entry in comparison.entries)


def _rows(comparison: Comparison, grid: Grid, top: dict[str, frozenset[str]]) -> list[dict[str, Any]]:
    tuned = _tuned(comparison.entries)
    return [
        {
            "place": row.place,
            "algorithm": row.algorithm or "",
            "cells": [
                {"column": column, "missing": True}
                if entry is None
                else {
                    "column": column,
                    "missing": False,
                    "lines": _lines(entry, top),
                    "notes": _notes(entry, tuned),
                }
                for column, entry in zip(grid.columns, row.cells, strict=True)
            ],
        }
        for row in grid.rows
    ]


def _lines(entry: Entry, top: dict[str, frozenset[str]]) -> list[dict[str, Any]]:
    return [
        {"field": field, "title": title, "text": _text(entry, field), "best": entry.label in top[field]}
        for field, title in METRICS.items()
    ]


def _text(entry: Entry, field: str) -> str:
    """Accuracy; in brackets the mean peer's, where there is no final model."""
    if field == "consensus_accuracy" and not has_final_model(entry.config):
        return f"({cell(entry, 'mean_peer_accuracy')})"
    return cell(entry, field)


def _tuned(entries: Sequence[Entry]) -> list[str]:
    """Options that may be tuned and that differ among the entries."""
    return [name for name in TUNABLE if len({getattr(entry.config.training, name) for entry in entries}) > 1]


def _values(entry: Entry, names: Sequence[str]) -> str:
    return values_text({name: getattr(entry.config.training, name) for name in names})


def _notes(entry: Entry, tuned: Sequence[str]) -> str:
    sent = statistic(entry, "bytes_sent_whole_run").mean
    parts = [f"{bytes_text(sent)} sent"] if sent else []
    return ", ".join([*parts, *([_values(entry, tuned)] if tuned else [])])


def terminal_grid(comparison: Comparison) -> RenderableType | None:
    """Grid of the final models' accuracies; None where it would be a plain list."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = grid_of(comparison.entries)
    if not grid.varies:
        return None
    top = best_of(comparison, "consensus_accuracy")
    tuned = _tuned(comparison.entries)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("final model %", header_style="dim")
    for column in grid.columns:
        table.add_column(Text(visible(column, controls=True)), justify="right", header_style="dim")
    for row in grid.rows:
        label = f"{row.place}, {row.algorithm}" if row.algorithm else row.place
        texts = [Text(visible(label, controls=True))]
        for entry in row.cells:
            text = NO_VALUE if entry is None else _short(entry, tuned)
            best = entry is not None and entry.label in top
            texts.append(Text(f"{text}{'*' if best else ' '}", "bold" if best else ""))
        table.add_row(*texts)
    return Group(table, Text(""), Text(_CAPTION + (_POOLED if _has_pooled(comparison, grid) else "")))


_CAPTION = "Columns: partitions. (…): mean peer, without a common model. *: best of its partition."
_POOLED = " Plain SGD, on pooled data, is not marked."


def _short(entry: Entry, tuned: Sequence[str]) -> str:
    has_model = has_final_model(entry.config)
    found = statistic(entry, "consensus_accuracy" if has_model else "mean_peer_accuracy")
    if found.mean is None:
        return NO_VALUE
    text = f"{100 * found.mean:.2f}" if found.std is None else f"{100 * found.mean:.1f} ±{100 * found.std:.1f}"
    text = text if has_model else f"({text})"
    return f"{text} {_values(entry, tuned)}" if tuned else text
