"""The table of a comparison for a terminal, or for what stands in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pfl.report.comparison.compared import Comparison
from p2pfl.report.comparison.entries import Entry
from p2pfl.report.comparison.numbers import Statistic, best, statistic
from p2pfl.report.units import MISSING, bytes_text
from p2pfl.run.paths import COMPARISON_CSV_FILE, REPORT_FILE
from p2pfl.util.text import visible

if TYPE_CHECKING:
    from rich.console import Group

_LEAST_LABEL = 24  # letters of a label for which columns are left out where the terminal is narrow
_SPACE = 2  # between columns


def _percent(found: Statistic) -> str:
    """In percent; two decimals, or one with a standard deviation."""
    if found.mean is None:
        return MISSING
    return f"{100 * found.mean:.2f}" if found.std is None else f"{100 * found.mean:.1f} ±{100 * found.std:.1f}"


def _count(found: Statistic) -> str:
    return MISSING if found.mean is None else f"{found.mean:,.0f}"


def _bytes(found: Statistic) -> str:
    return MISSING if found.mean is None else bytes_text(found.mean)


def _seconds(found: Statistic) -> str:
    if found.mean is None:
        return MISSING
    return f"{found.mean:,.1f}" if found.mean < 1000 else f"{found.mean:,.0f}"


@dataclass(frozen=True)
class Column:
    """A field as a column; of a terminal too narrow for all, those with the highest `rank` are left out first."""

    field: str
    heading: str
    text: Callable[[Statistic], str]
    rank: int


COLUMNS: tuple[Column, ...] = (
    Column("consensus_accuracy", "model %", _percent, 0),
    Column("mean_peer_accuracy", "mean peer", _percent, 3),
    Column("worst_peer_accuracy", "worst peer", _percent, 2),
    Column("samples_total", "samples", _count, 5),
    Column("optimizer_steps_per_peer", "steps", _count, 7),
    Column("bytes_sent_whole_run", "sent", _bytes, 1),
    Column("bytes_sent_busiest_node", "busiest", _bytes, 4),
    Column("seconds", "seconds", _seconds, 6),
)


def terminal_table(comparison: Comparison, width: int) -> Group:
    """The main numbers of each entry, at most `width` columns wide, and below what to know about them.

    Print it with rich; the best of a column is bold and has a star, so that it is seen without colors too. With
    several seeds accuracies are mean ± standard deviation and the rest are means. Mismatched entries carry the
    numbers of the sentences below, and are never the best.
    """
    from rich.console import Group
    from rich.text import Text

    labels = [_label(comparison, entry) for entry in comparison.entries]
    cells = {column: _cells(comparison, column) for column in COLUMNS}
    shown = _that_fit(cells, max(map(len, labels)), width)
    room = width - sum(_wide(column, cells[column]) + _SPACE for column in shown)
    name_width = max(min(max(map(len, labels)), room), len("run"))
    lines = [Text.assemble((_row("run", [c.heading for c in shown], cells, shown, name_width), "dim"), no_wrap=True)]
    for row, label in enumerate(labels):
        line = Text(_cut(label, name_width).ljust(name_width), no_wrap=True, overflow="ellipsis")
        for column in shown:
            text, top = cells[column][row]
            line.append(" " * _SPACE + text.rjust(_wide(column, cells[column]) - 1), style="bold" if top else "")
            line.append("*" if top else " ", style="bold")
        line.rstrip()
        lines.append(line)
    return Group(*lines, Text(""), *(Text(visible(text)) for text in _footnotes(comparison, len(shown) < len(COLUMNS))))


def _label(comparison: Comparison, entry: Entry) -> str:
    signs = comparison.signs(entry.label)
    label = visible(entry.label, controls=True)
    return f"{label} [{signs.replace(' ', ',')}]" if signs else label


def _cells(comparison: Comparison, column: Column) -> list[tuple[str, bool]]:
    top = best(comparison.entries, column.field, comparison.apart)
    return [(column.text(statistic(entry, column.field)), entry.label in top) for entry in comparison.entries]


def _wide(column: Column, cells: list[tuple[str, bool]]) -> int:
    """Of a column with the place for its star."""
    return max(len(column.heading), *(len(text) for text, _ in cells)) + 1


def _that_fit(cells: dict[Column, list[tuple[str, bool]]], label: int, width: int) -> list[Column]:
    shown = list(cells)
    while len(shown) > 1 and sum(_wide(c, cells[c]) + _SPACE for c in shown) + min(label, _LEAST_LABEL) > width:
        shown.remove(max(shown, key=lambda column: column.rank))
    return shown


def _row(
    first: str, texts: list[str], cells: dict[Column, list[tuple[str, bool]]], shown: list[Column], name_width: int
) -> str:
    pairs = zip(texts, shown, strict=True)
    return first.ljust(name_width) + "".join(
        " " * _SPACE + text.rjust(_wide(c, cells[c]) - 1) + " " for text, c in pairs
    )


def _cut(label: str, width: int) -> str:
    """Without its middle: labels that are alike begin with the same words."""
    tail = (width - 1) // 2
    return label if len(label) <= width else f"{label[: width - 1 - tail]}…{label[len(label) - tail :]}"


def _footnotes(comparison: Comparison, left_out: bool) -> list[str]:
    found = [f"[{number}] {mismatch.sentence}" for number, mismatch in enumerate(comparison.mismatches, 1)]
    found += [f"Note: {note}" for note in comparison.notes]
    seeds = max(len(entry.seeds) for entry in comparison.entries)
    spread = f"±: standard deviation over {seeds} seeds; other numbers are means. " if seeds > 1 else ""
    found.append(f"{spread}*: best of the column; of bytes, among those who send any. Bytes: whole run.")
    more = "All columns and numbers" if left_out else "All numbers"
    return [*found, f"{more}: {comparison.folder / REPORT_FILE}, {comparison.folder / COMPARISON_CSV_FILE}"]
