"""A comparison written to its folder: table as CSV and JSON, plots and the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2pfl.errors import ConfigError
from p2pfl.report.comparison.compared import Comparison
from p2pfl.report.comparison.entries import Entry, load_entries
from p2pfl.report.comparison.matching import find_mismatches, notes
from p2pfl.report.comparison.numbers import DERIVED, MEANINGS, NUMBER_FIELDS, statistic
from p2pfl.report.comparison.page import page
from p2pfl.report.comparison.plots import PLOTS
from p2pfl.report.output import draw_plots, write_text
from p2pfl.report.run import repeat_command
from p2pfl.report.summary import TEXT_FIELDS
from p2pfl.run.paths import COMPARISON_CSV_FILE, COMPARISON_JSON_FILE, CONFIG_FILE, PEERS_FOLDER, REPORT_FILE
from p2pfl.util.files import read_text

_ROW_HEADS = ("mode", "seed")  # fields that head a row of the CSV instead


def write_comparison(
    folder: Path, run_dirs: Sequence[Path], *, allow_mismatch: bool = False, command: str = ""
) -> Comparison:
    """Compare finished runs: writes `comparison.csv`, `comparison.json`, `report.html` and `plots/` to `folder`.

    `command` is what repeats the whole comparison. Raises ConfigError where a run cannot be read, the folder cannot
    be written or is a run directory itself, and, unless `allow_mismatch`, where the runs are not matched.
    """
    entries = load_entries(run_dirs)
    found = find_mismatches(entries)
    if found and not allow_mismatch:
        reasons = "; and ".join(mismatch.sentence for mismatch in found)
        raise ConfigError(f"these runs are not matched: {reasons} (--allow-mismatch compares them all the same)")
    if (folder / CONFIG_FILE).exists() or (folder / PEERS_FOLDER).exists():
        raise ConfigError(f"{folder}: is the directory of one run; choose another folder for the comparison")
    comparison = Comparison(folder, tuple(entries), tuple(found), tuple(notes(entries)), command)
    draw_plots(PLOTS, entries, folder)
    write_text(folder / COMPARISON_CSV_FILE, table_csv(comparison))
    write_text(folder / COMPARISON_JSON_FILE, json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n")
    write_text(folder / REPORT_FILE, page(comparison))
    return comparison


def compared_runs(folder: Path) -> tuple[list[Path], str]:
    """The run directories and the command of a comparison that was written before, from its JSON file.

    Runs that lay in the folder are looked for there, in case it was moved. Raises ConfigError where the file cannot
    be read.
    """
    path = folder / COMPARISON_JSON_FILE
    try:
        said = json.loads(read_text(path))
        named = [Path(run) for entry in said["entries"] for run in entry["runs"]]
        command = str(said["command"] or "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a comparison that can be read ({type(error).__name__}: {error})") from None
    return [folder / run.name if (folder / run.name).is_dir() else run for run in named], command


def table_csv(comparison: Comparison) -> str:
    """One row an entry: label, mode, seeds, mismatches, then each field's mean and, for numbers, FIELD_std.

    Full precision; empty where there is no value, or no standard deviation because there is one seed. Lists and
    objects are JSON.
    """
    columns = [name for name in MEANINGS if name not in _ROW_HEADS]
    heads = [[name] if name in TEXT_FIELDS else [name, f"{name}_std"] for name in columns]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "mode", "seeds", "mismatches", *(head for pair in heads for head in pair)])
    for entry in comparison.entries:
        sentences = " | ".join(m.sentence for m in comparison.mismatches if entry.label in m.labels)
        cells = [cell for name in columns for cell in _csv_cells(entry, name)]
        writer.writerow([entry.label, entry.mode, " ".join(map(str, entry.seeds)), sentences, *cells])
    return text.getvalue()


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
    """The comparison as one JSON object: entries with values by seed, mean and standard deviation; and the rest."""
    return {
        "command": comparison.command or None,
        "mismatches": [{"sentence": m.sentence, "labels": sorted(m.labels)} for m in comparison.mismatches],
        "notes": list(comparison.notes),
        "meanings": MEANINGS,
        "entries": [_entry_json(entry) for entry in comparison.entries],
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    found = {field: statistic(entry, field) for field in MEANINGS}
    return {
        "label": entry.label,
        "mode": entry.mode,
        "seeds": list(entry.seeds),
        "runs": [str(run.path) for run in entry.runs],
        "commands": [repeat_command(run) for run in entry.runs],
        "summaries": list(entry.summaries),
        "derived": {field: list(found[field].values) for field in DERIVED},
        "mean": {field: found[field].mean for field in NUMBER_FIELDS},
        "std": {field: found[field].std for field in NUMBER_FIELDS},
    }
