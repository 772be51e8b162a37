"""Comparison as files: CSV, JSON, plots and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from p2pfl.errors import ConfigError
from p2pfl.report.compare.group import Entry, load_entries
from p2pfl.report.compare.matching import Comparison, find_mismatches, notes
from p2pfl.report.compare.plots import PLOTS
from p2pfl.report.compare.table import BETTER, DERIVED, MEANINGS, NUMBER_FIELDS, best, cell, statistic
from p2pfl.report.fields import FIELDS, TEXT_FIELDS
from p2pfl.report.load import repeat_command
from p2pfl.report.output import draw_plots, page_text, write_text
from p2pfl.run.paths import COMPARISON_CSV_FILE, COMPARISON_JSON_FILE, CONFIG_FILE, PEERS_FOLDER, REPORT_FILE
from p2pfl.util.files import read_text

# Field -> heading of the short table at the top.
HEADLINE: dict[str, str] = {
    "consensus_accuracy": "final model",
    "mean_peer_accuracy": "mean peer",
    "worst_peer_accuracy": "worst peer",
    "mean_own_accuracy": "mean, own classes",
    "worst_own_accuracy": "worst, own classes",
    "samples_total": "samples",
    "optimizer_steps_per_peer": "steps each",
    "bytes_sent_whole_run": "sent in total",
    "bytes_sent_busiest_node": "busiest node",
    "seconds": "time",
}
_MAX_LABELS = 8  # in the title of the page
_ROW_HEADINGS = ("mode", "seed")  # fields among the headings of a CSV row


def write_comparison(
    folder: Path, run_dirs: Sequence[Path], *, allow_mismatch: bool = False, command: str = ""
) -> Comparison:
    """Compare runs, and write CSV, JSON, page and plots to `folder`.

    `command` repeats the whole comparison. Raises ConfigError where a run cannot be read, the folder cannot
    be written or is a run directory itself, and, unless `allow_mismatch`, where the runs are not matched.
    """
    entries = load_entries(run_dirs)
    found = find_mismatches(entries)
    if found and not allow_mismatch:
        reasons = "; and ".join(mismatch.sentence for mismatch in found)
        raise ConfigError(f"these runs are not matched: {reasons} (--allow-mismatch compares them anyway)")
    if (folder / CONFIG_FILE).exists() or (folder / PEERS_FOLDER).exists():
        raise ConfigError(f"{folder}: is the directory of one run; choose another folder for the comparison")
    comparison = Comparison(folder, tuple(entries), tuple(found), tuple(notes(entries)), command)
    draw_plots(PLOTS, entries, folder)
    write_text(folder / COMPARISON_CSV_FILE, table_csv(comparison))
    write_text(folder / COMPARISON_JSON_FILE, json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n")
    write_text(folder / REPORT_FILE, page(comparison))
    return comparison


def read_comparison(folder: Path) -> tuple[list[Path], str]:
    """Run directories and command of an existing comparison, from its JSON file.

    Runs inside the folder are looked for there, in case it was moved. Raises ConfigError where the file cannot
    be read.
    """
    path = folder / COMPARISON_JSON_FILE
    try:
        saved = json.loads(read_text(path))
        named = [Path(run) for entry in saved["entries"] for run in entry["runs"]]
        command = str(saved["command"] or "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable comparison ({type(error).__name__}: {error})") from None
    return [folder / run.name if (folder / run.name).is_dir() else run for run in named], command


def table_csv(comparison: Comparison) -> str:
    """Comparison as CSV, one row per entry.

    Columns: label, mode, seeds, mismatches, then the mean of each field and, for numbers, FIELD_std. Full precision;
    empty without a value, or without a standard deviation for a single seed. Lists and objects are JSON.
    """
    columns = [name for name in MEANINGS if name not in _ROW_HEADINGS]
    heads = [[name] if name in TEXT_FIELDS else [name, f"{name}_std"] for name in columns]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "mode", "seeds", "mismatches", *(head for pair in heads for head in pair)])
    for entry in comparison.entries:
        sentences = " | ".join(m.sentence for m in comparison.mismatches if entry.label in m.labels)
        cells = [cell for name in columns for cell in _csv_cells(entry, name)]
        writer.writerow([entry.label, entry.mode.name, " ".join(map(str, entry.seeds)), sentences, *cells])
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
    """Comparison as one JSON object, with values by seed, mean and deviation."""
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
        "mode": entry.mode.name,
        "seeds": list(entry.seeds),
        "runs": [str(run.path) for run in entry.runs],
        "commands": [repeat_command(run) for run in entry.runs],
        "summaries": list(entry.summaries),
        "derived": {field: list(found[field].values) for field in DERIVED},
        "mean": {field: found[field].mean for field in NUMBER_FIELDS},
        "std": {field: found[field].std for field in NUMBER_FIELDS},
    }


def page(comparison: Comparison) -> str:
    """HTML of the page; the plots must exist in the comparison's folder."""
    entries = comparison.entries
    return page_text(
        "comparison.html",
        PLOTS,
        comparison.folder,
        title=_title([entry.label for entry in entries]),
        subtitle=_subtitle(comparison),
        mismatches=[mismatch.sentence for mismatch in comparison.mismatches],
        notes=comparison.notes,
        columns=[(entry.label, comparison.mismatch_numbers(entry.label)) for entry in entries],
        headline=list(HEADLINE.values()),
        rows=[(entry, _headline(comparison, entry)) for entry in entries],
        fields=[(name, MEANINGS[name], _cells(comparison, name)) for name in MEANINGS],
        better={name: "highest" if BETTER[name] is max else "lowest" for name in BETTER},
        seeds=max(len(entry.seeds) for entry in entries),
        runs=[
            (entry.label, [_run_row(comparison.folder, entry, i) for i in range(len(entry.runs))]) for entry in entries
        ],
        command=comparison.command,
    )


def _title(labels: list[str]) -> str:
    more = f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else ""
    return f"Comparison of {', '.join(labels[:_MAX_LABELS])}{more}"


def _subtitle(comparison: Comparison) -> str:
    config = comparison.entries[0].config
    task = f"{config.model.model} at width {config.model.width:g} on {config.data.dataset}"
    seeds = sorted({seed for entry in comparison.entries for seed in entry.seeds})
    named = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    if comparison.mismatches:
        return f"{named}; these runs are not matched"
    shared = "the same initial weights, shards and number of samples"
    return f"{task}, batches of {config.training.batch_size}, {named}: {shared}"


def _headline(comparison: Comparison, entry: Entry) -> list[tuple[str, bool]]:
    return [(cell(entry, field), entry.label in _best(comparison, field)) for field in HEADLINE]


def _best(comparison: Comparison, field: str) -> frozenset[str]:
    return best(comparison.entries, field, comparison.mismatched)


def _cells(comparison: Comparison, field: str) -> list[dict[str, Any]]:
    """Row of the table of all numbers.

    `values` of a cell has one item per seed, as in that run's summary.json.
    """
    top = _best(comparison, field)
    return [
        {
            "label": entry.label,
            "values": list(statistic(entry, field).values),
            "text": cell(entry, field),
            "best": entry.label in top,
            "field": field if field in FIELDS else None,
        }
        for entry in comparison.entries
    ]


def _run_row(folder: Path, entry: Entry, which: int) -> dict[str, Any]:
    run = entry.runs[which]
    return {
        "seed": entry.seeds[which],
        "path": str(run.path),
        "link": _link(folder, run.path / REPORT_FILE),
        "command": repeat_command(run),
    }


def _link(folder: Path, report: Path) -> str | None:
    """Relative link, so that the folder can be moved; None for a report outside."""
    try:
        inside = report.resolve().relative_to(folder.resolve())
    except ValueError:
        return None
    return quote(inside.as_posix()) if report.is_file() else None
