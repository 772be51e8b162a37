"""Comparison as CSV and JSON: entries, runs, and the grid."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from p2pfl.config import TUNABLE
from p2pfl.report.compare.dimensions import algorithm_of, column_of, grid_of, place_of
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.matching import Comparison
from p2pfl.report.compare.table import DERIVED, MEANINGS, NUMBER_FIELDS, statistic
from p2pfl.report.compare.tuning_view import tuning_json
from p2pfl.report.fields import TEXT_FIELDS
from p2pfl.report.load import repeat_command

_ROW_HEADINGS = ("mode", "seed")  # fields among the headings of a CSV row
ACCURACIES = tuple(name for name in NUMBER_FIELDS if name.endswith("accuracy"))
_GRID_FIELDS = (*ACCURACIES, "bytes_sent_whole_run", "bytes_sent_busiest_node", "seconds", "samples_total")


def table_csv(comparison: Comparison) -> str:
    """Comparison as CSV, one row per entry.

    Columns: label, mode, seeds, mismatches, dimensions and tuned settings, then the mean of each field and, for
    numbers, FIELD_std. Full precision; empty without a value, or without a standard deviation for a single seed. Lists
    and objects are JSON.
    """
    columns = [name for name in MEANINGS if name not in _ROW_HEADINGS]
    heads = [[name] if name in TEXT_FIELDS else [name, f"{name}_std"] for name in columns]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    dimensions = ["place", "algorithm", "partition", *TUNABLE]
    writer.writerow(["label", "mode", "seeds", "mismatches", *dimensions, *(head for pair in heads for head in pair)])
    for entry in comparison.entries:
        sentences = " | ".join(m.sentence for m in comparison.mismatches if entry.label in m.labels)
        cells = [cell for name in columns for cell in _csv_cells(entry, name)]
        writer.writerow(
            [
                entry.label,
                entry.mode.name,
                " ".join(map(str, entry.seeds)),
                sentences,
                *_dimensions(entry).values(),
                *cells,
            ]
        )
    return text.getvalue()


def _dimensions(entry: Entry) -> dict[str, Any]:
    """Place of an entry in the grid, and the settings that each method may tune."""
    training = entry.config.training
    found = {"place": place_of(entry), "algorithm": algorithm_of(entry), "partition": column_of(entry)}
    return found | {name: getattr(training, name) for name in TUNABLE}


def run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a run: dimensions, seed, settings that may be tuned, numbers, folder."""
    rows = []
    for entry in comparison.entries:
        for which, (run, seed) in enumerate(zip(entry.runs, entry.seeds, strict=True)):
            numbers = {name: statistic(entry, name).values[which] for name in NUMBER_FIELDS}
            where = {"label": entry.label, "mode": entry.mode.name, **_dimensions(entry), "seed": seed}
            rows.append({**where, **numbers, "run": str(run.path)})
    return rows


def runs_csv(comparison: Comparison) -> str:
    """Table of all runs; empty where a run has no such number."""
    rows = run_rows(comparison)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def grid_json(comparison: Comparison) -> dict[str, Any]:
    """Grid of methods and partitions; null is a combination that was not run."""
    grid = grid_of(comparison.entries)
    return {
        "columns": list(grid.columns),
        "rows": [
            {
                "place": row.place,
                "algorithm": row.algorithm,
                "label": row.label,
                "cells": [None if entry is None else _cell_json(entry) for entry in row.cells],
            }
            for row in grid.rows
        ],
    }


def _cell_json(entry: Entry) -> dict[str, Any]:
    found = {name: statistic(entry, name) for name in _GRID_FIELDS}
    return {
        "entry": entry.label,
        "seeds": list(entry.seeds),
        **{name: getattr(entry.config.training, name) for name in TUNABLE},
        "mean": {name: one.mean for name, one in found.items()},
        "std": {name: one.std for name, one in found.items()},
    }


def _csv_cells(entry: Entry, field: str) -> list[Any]:
    found = statistic(entry, field)
    if field not in TEXT_FIELDS:
        return [None if number is None else repr(_plain(number)) for number in (found.mean, found.std)]
    texts = (
        value if isinstance(value, str) else json.dumps(value) if value is not None else "" for value in found.values
    )
    return ["; ".join(dict.fromkeys(texts))]


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() and abs(number) < 2**53 else number


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Comparison as one JSON object, with values by seed, mean and deviation."""
    return {
        "command": comparison.command or None,
        "mismatches": [{"sentence": m.sentence, "labels": sorted(m.labels)} for m in comparison.mismatches],
        "notes": list(comparison.notes),
        "meanings": MEANINGS,
        "entries": [_entry_json(entry) for entry in comparison.entries],
        "grid": grid_json(comparison),
        "tuning": tuning_json(comparison.tuning),
        "runs": run_rows(comparison),
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    found = {field: statistic(entry, field) for field in MEANINGS}
    return {
        "label": entry.label,
        "mode": entry.mode.name,
        "seeds": list(entry.seeds),
        "runs": [str(run.path) for run in entry.runs],
        "commands": [repeat_command(run) for run in entry.runs],
        "summaries": list(entry.summaries),
        "derived": {field: list(found[field].values) for field in DERIVED},
        "mean": {field: found[field].mean for field in NUMBER_FIELDS},
        "std": {field: found[field].std for field in NUMBER_FIELDS},
    }
