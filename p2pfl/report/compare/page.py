"""Comparison as files: CSV, JSON, plots and one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from p2pfl.errors import ConfigError
from p2pfl.report.compare.dimensions import grid_of
from p2pfl.report.compare.export import as_json, runs_csv, table_csv
from p2pfl.report.compare.grid_view import grid_view
from p2pfl.report.compare.group import Entry, load_entries
from p2pfl.report.compare.matching import Comparison, find_mismatches, notes
from p2pfl.report.compare.plots import plots_of
from p2pfl.report.compare.table import BETTER, MEANINGS, best_of, cell, statistic
from p2pfl.report.compare.tuning import tuning_of
from p2pfl.report.compare.tuning_view import TUNING_PLOTS, Tuned, tuning_view
from p2pfl.report.fields import FIELDS
from p2pfl.report.load import repeat_command
from p2pfl.report.output import Plot, draw_plots, page_text, remove_plots, write_text
from p2pfl.run.paths import (
    COMPARISON_CSV_FILE,
    COMPARISON_JSON_FILE,
    COMPARISON_RUNS_FILE,
    CONFIG_FILE,
    PEERS_FOLDER,
    REPORT_FILE,
)
from p2pfl.util.files import read_text
from p2pfl.util.text import some

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
_NO_BREAK = "\N{NO-BREAK SPACE}"
_MAX_LABELS = 8  # in the title of the page


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
    tuning = tuning_of(folder, run_dirs)
    comparison = Comparison(folder, tuple(entries), tuple(found), tuple(notes(entries, tuning)), command, tuning)
    draw_plots(plots_of(entries), entries, folder)
    if tuning is None:
        remove_plots(TUNING_PLOTS, folder)  # of an earlier comparison in this folder
    else:
        draw_plots(TUNING_PLOTS, Tuned(tuning, folder), folder)
    write_text(folder / COMPARISON_CSV_FILE, table_csv(comparison))
    write_text(folder / COMPARISON_RUNS_FILE, runs_csv(comparison))
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


def page(comparison: Comparison) -> str:
    """HTML of the page; the plots must exist in the comparison's folder.

    The page's policy allows no script but the one that filters, which it names by its digest.
    """
    entries = comparison.entries
    script = (Path(__file__).parents[1] / "filters.js").read_text(encoding="utf-8")
    plots: list[Plot[Any]] = [*plots_of(entries), *(TUNING_PLOTS if comparison.tuning else ())]
    return page_text(
        "comparison.html",
        plots,
        comparison.folder,
        title=_title(entries),
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
        **grid_view(comparison),
        **tuning_view(comparison.folder, comparison.tuning),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _title(entries: Sequence[Entry]) -> str:
    """The entries' labels, or the dimensions of a grid."""
    labels, grid = [entry.label for entry in entries], grid_of(entries)
    if grid.varies:
        places = list(dict.fromkeys(row.place for row in grid.rows))
        algorithms = list(dict.fromkeys(row.algorithm for row in grid.rows if row.algorithm))
        dimensions = [places, *([algorithms] if len(algorithms) > 1 else []), list(grid.columns)]
        return f"Comparison: {' × '.join(some(values, _MAX_LABELS) for values in dimensions)}"
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
    """Cells of the short table, which may wrap before a deviation only."""
    cells = [(cell(entry, field), entry.label in best_of(comparison, field)) for field in HEADLINE]
    return [(text.replace(" ", _NO_BREAK).replace(f"{_NO_BREAK}±", " ±"), top) for text, top in cells]


def _cells(comparison: Comparison, field: str) -> list[dict[str, Any]]:
    """Row of the table of all numbers.

    `values` of a cell has one item per seed, as in that run's summary.json.
    """
    top = best_of(comparison, field)
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
