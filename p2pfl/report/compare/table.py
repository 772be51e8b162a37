"""Table of a comparison: statistics over seeds, best values, and terminal output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from p2pfl.report.compare.dimensions import matching_groups
from p2pfl.report.compare.group import Entry
from p2pfl.report.compare.matching import Comparison
from p2pfl.report.fields import FIELDS, NO_VALUE, TEXT_FIELDS, number_formats, value_text
from p2pfl.report.load import RecordedRun, sent_by_process
from p2pfl.run.paths import COMPARISON_CSV_FILE, REPORT_FILE
from p2pfl.util.text import shortened, visible
from p2pfl.util.units import bytes_text

if TYPE_CHECKING:
    from rich.console import Group

# Fields that a comparison adds to those of a summary: name -> meaning, and computation from a run.
DERIVED: dict[str, tuple[str, Callable[[RecordedRun], float]]] = {
    "bytes_sent_whole_run": (
        "bytes sent by all processes over the whole run, including the consensus phase",
        lambda run: sum(sent_by_process(run)),
    ),
    "bytes_sent_busiest_node": (
        "bytes sent by the busiest process over the whole run",
        lambda run: max(sent_by_process(run)),
    ),
}
MEANINGS: dict[str, str] = {**FIELDS, **{name: meaning for name, (meaning, _) in DERIVED.items()}}
NUMBER_FIELDS = tuple(name for name in MEANINGS if name not in TEXT_FIELDS)

# Field -> choice of the best value; other fields have no best.
BETTER: dict[str, Callable[[Sequence[float]], float]] = {
    **dict.fromkeys(("consensus_accuracy", "mean_peer_accuracy", "worst_peer_accuracy", "samples_per_second"), max),
    **dict.fromkeys(("mean_own_accuracy", "worst_own_accuracy"), max),
    **dict.fromkeys(("test_loss", "seconds", "consensus_seconds"), min),
    **dict.fromkeys((name for name in MEANINGS if "bytes" in name), min),
}


@dataclass(frozen=True)
class Statistic:
    """A field over the seeds of an entry.

    `mean` is None where a run has no value; `std` (n − 1) also for a single run.
    """

    values: tuple[Any, ...]
    mean: float | None
    std: float | None


def statistic(entry: Entry, field: str) -> Statistic:
    """Values of a field by seed, with their mean and sample standard deviation."""
    if field in DERIVED:
        values = tuple(DERIVED[field][1](run) for run in entry.runs)
    else:
        values = tuple(summary[field] for summary in entry.summaries)
    if field in TEXT_FIELDS or any(value is None for value in values):
        return Statistic(values, None, None)
    return Statistic(values, fmean(values), stdev(values) if len(values) > 1 else None)


def best(entries: Sequence[Entry], field: str, mismatched: frozenset[str] = frozenset()) -> frozenset[str]:
    """Labels of the entries with the best mean of a field.

    Empty for a field without an order, or with fewer than two candidates. Means of the same text are equally good.
    Mismatched entries are never best, nor is an entry that sends nothing best in bytes.
    """
    if field not in BETTER:
        return frozenset()
    means = {entry.label: statistic(entry, field).mean for entry in entries if entry.label not in mismatched}
    known = {label: mean for label, mean in means.items() if mean is not None and (mean > 0 or "bytes" not in field)}
    if len(known) < 2:
        return frozenset()
    one, _ = number_formats(field)
    top = one(BETTER[field](list(known.values())))
    found = frozenset(label for label, mean in known.items() if one(mean) == top)
    return found if len(found) < len(known) else frozenset()


def best_of(comparison: Comparison, field: str) -> frozenset[str]:
    """Labels of the best entries of a field.

    In a grid of several partitions those of each, without pooled data.
    """
    groups = matching_groups(comparison.entries)
    if len(groups) > 1:
        groups = [[entry for entry in group if not entry.mode.pools_data] for group in groups]
    return frozenset[str]().union(*(best(group, field, comparison.mismatched) for group in groups))


def cell(entry: Entry, field: str) -> str:
    """Text of a field: its mean, ± the standard deviation where seeds differ."""
    found = statistic(entry, field)
    if field in TEXT_FIELDS:
        return "; ".join(dict.fromkeys(value_text(field, value) for value in found.values))
    if found.mean is None:
        return NO_VALUE
    one, spread = number_formats(field)
    if found.std:
        return spread(found.mean, found.std)
    return one(found.values[0] if len(set(found.values)) == 1 else found.mean)


_MIN_LABEL = 24  # characters of a label that narrow terminals keep, by omitting columns
_SPACE = 2  # between columns


def _percent(found: Statistic) -> str:
    """Percentage with two decimals, or with one and a standard deviation."""
    if found.mean is None:
        return NO_VALUE
    return f"{100 * found.mean:.2f}" if found.std is None else f"{100 * found.mean:.1f} ±{100 * found.std:.1f}"


def _count(found: Statistic) -> str:
    return NO_VALUE if found.mean is None else f"{found.mean:,.0f}"


def _bytes(found: Statistic) -> str:
    return NO_VALUE if found.mean is None else bytes_text(found.mean)


def _seconds(found: Statistic) -> str:
    if found.mean is None:
        return NO_VALUE
    return f"{found.mean:,.1f}" if found.mean < 1000 else f"{found.mean:,.0f}"


@dataclass(frozen=True)
class Column:
    """Column of a field; on a narrow terminal the highest `rank` is omitted first."""

    field: str
    heading: str
    text: Callable[[Statistic], str]
    rank: int


COLUMNS: tuple[Column, ...] = (
    Column("consensus_accuracy", "model %", _percent, 0),
    Column("mean_peer_accuracy", "mean peer", _percent, 3),
    Column("worst_peer_accuracy", "worst peer", _percent, 2),
    Column("mean_own_accuracy", "mean own", _percent, 9),
    Column("worst_own_accuracy", "worst own", _percent, 8),
    Column("samples_total", "samples", _count, 5),
    Column("optimizer_steps_per_peer", "steps", _count, 7),
    Column("bytes_sent_whole_run", "sent", _bytes, 1),
    Column("bytes_sent_busiest_node", "busiest", _bytes, 4),
    Column("seconds", "seconds", _seconds, 6),
)


def terminal_table(comparison: Comparison, width: int) -> Group:
    """Main numbers of each entry, at most `width` columns wide, with footnotes.

    Printed with rich; the best of a column is bold and has a star, so that it stands out without colors too. With
    several seeds accuracies are mean ± standard deviation and other numbers are means. Mismatched entries have the
    numbers of their footnotes, and are never the best.
    """
    from rich.console import Group
    from rich.text import Text

    labels = [_label(comparison, entry) for entry in comparison.entries]
    cells = {column: _cells(comparison, column) for column in COLUMNS}
    shown = _that_fit(cells, max(map(len, labels)), width)
    available = width - sum(_wide(column, cells[column]) + _SPACE for column in shown)
    name_width = max(min(max(map(len, labels)), available), len("run"))
    lines = [Text.assemble((_row("run", [c.heading for c in shown], cells, shown, name_width), "dim"), no_wrap=True)]
    for row, label in enumerate(labels):
        line = Text(shortened(label, name_width).ljust(name_width), no_wrap=True, overflow="ellipsis")
        for column in shown:
            text, top = cells[column][row]
            line.append(" " * _SPACE + text.rjust(_wide(column, cells[column]) - 1), style="bold" if top else "")
            line.append("*" if top else " ", style="bold")
        line.rstrip()
        lines.append(line)
    return Group(*lines, Text(""), *(Text(visible(text)) for text in _footnotes(comparison, len(shown) < len(COLUMNS))))


def _label(comparison: Comparison, entry: Entry) -> str:
    numbers = comparison.mismatch_numbers(entry.label)
    label = visible(entry.label, controls=True)
    return f"{label} [{numbers.replace(' ', ',')}]" if numbers else label


def _cells(comparison: Comparison, column: Column) -> list[tuple[str, bool]]:
    top = best_of(comparison, column.field)
    return [(column.text(statistic(entry, column.field)), entry.label in top) for entry in comparison.entries]


def _wide(column: Column, cells: list[tuple[str, bool]]) -> int:
    """Width of a column, including its star."""
    return max(len(column.heading), *(len(text) for text, _ in cells)) + 1


def _that_fit(cells: dict[Column, list[tuple[str, bool]]], label: int, width: int) -> list[Column]:
    shown = list(cells)
    while len(shown) > 1 and sum(_wide(c, cells[c]) + _SPACE for c in shown) + min(label, _MIN_LABEL) > width:
        shown.remove(max(shown, key=lambda column: column.rank))
    return shown


def _row(
    first: str, texts: list[str], cells: dict[Column, list[tuple[str, bool]]], shown: list[Column], name_width: int
) -> str:
    pairs = zip(texts, shown, strict=True)
    return first.ljust(name_width) + "".join(
        " " * _SPACE + text.rjust(_wide(c, cells[c]) - 1) + " " for text, c in pairs
    )


def _footnotes(comparison: Comparison, omits_columns: bool) -> list[str]:
    found = [f"[{number}] {mismatch.sentence}" for number, mismatch in enumerate(comparison.mismatches, 1)]
    found += [f"Note: {note}" for note in comparison.notes]
    seeds = max(len(entry.seeds) for entry in comparison.entries)
    spread = f"±: standard deviation over {seeds} seeds; other numbers are means. " if seeds > 1 else ""
    column = "column" if len(matching_groups(comparison.entries)) == 1 else "column for its partition"
    found.append(f"{spread}*: best of the {column} (for bytes, among runs that send any). Bytes: whole run.")
    more = "All columns and numbers" if omits_columns else "All numbers"
    return [*found, f"{more}: {comparison.folder / REPORT_FILE}, {comparison.folder / COMPARISON_CSV_FILE}"]
