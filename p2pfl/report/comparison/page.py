"""The page of a comparison: one HTML file that needs nothing but a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from p2pfl.report.comparison.compared import Comparison
from p2pfl.report.comparison.entries import Entry
from p2pfl.report.comparison.numbers import BETTER, MEANINGS, best, cell, statistic
from p2pfl.report.comparison.plots import PLOTS
from p2pfl.report.output import page_text
from p2pfl.report.run import repeat_command
from p2pfl.report.summary import FIELDS
from p2pfl.run.paths import REPORT_FILE

# Field -> heading of the short table at the top.
HEADLINE: dict[str, str] = {
    "consensus_accuracy": "final model",
    "mean_peer_accuracy": "mean peer",
    "worst_peer_accuracy": "worst peer",
    "samples_total": "samples",
    "optimizer_steps_per_peer": "steps each",
    "bytes_sent_whole_run": "sent in all",
    "bytes_sent_busiest_node": "busiest node",
    "seconds": "time",
}
_TITLE = 8  # labels in the page's title


def page(comparison: Comparison) -> str:
    """The page's HTML. The plots must have been drawn to the comparison's folder before."""
    entries = comparison.entries
    return page_text(
        "comparison.html",
        PLOTS,
        comparison.folder,
        title=_title([entry.label for entry in entries]),
        subtitle=_subtitle(comparison),
        mismatches=[mismatch.sentence for mismatch in comparison.mismatches],
        notes=comparison.notes,
        columns=[(entry.label, comparison.signs(entry.label)) for entry in entries],
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
    more = f" and {len(labels) - _TITLE} more" if len(labels) > _TITLE else ""
    return f"Comparison of {', '.join(labels[:_TITLE])}{more}"


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
    return best(comparison.entries, field, comparison.apart)


def _cells(comparison: Comparison, field: str) -> list[dict[str, Any]]:
    """A row of the table of every number. A cell's `values` has one element a seed, as in the run's summary.json."""
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
    """Relative, so that the folder can be moved; None where the report does not lie in it."""
    try:
        inside = report.resolve().relative_to(folder.resolve())
    except ValueError:
        return None
    return quote(inside.as_posix()) if report.is_file() else None
