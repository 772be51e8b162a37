"""Tables of accuracies by recipe: means over the seeds, and targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import Bar

SGD_LEAST, MOST_GAP = 81.0, 0.3  # percent; points that the ring may be below pooled SGD
MEASURES = {"consensus": "consensus_accuracy", "mean peer": "mean_peer_accuracy", "worst peer": "worst_peer_accuracy"}


def row_of(name: str, rate: float | None, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Row of a recipe: accuracies in percent; bytes and seconds of a run.

    The consensus model of plain SGD is its only model.
    """
    row: dict[str, Any] = {"recipe": name, "lr": rate, "seeds": len(summaries)}
    for measure, field in MEASURES.items():
        values = [100 * value for one in summaries if (value := one[field]) is not None]
        row[measure] = round(statistics.fmean(values), 3) if values else None
        row[f"{measure} sd"] = round(statistics.stdev(values), 3) if len(values) > 1 else None
    row["GB sent"] = round(_mean(summaries, "bytes_sent_total", "consensus_bytes") / 1e9, 2)
    row["seconds"] = round(_mean(summaries, "seconds"), 1)
    row["samples"] = round(_mean(summaries, "samples_total"))
    row["consensus by seed"] = " ".join(f"{100 * one['consensus_accuracy']:.2f}" for one in summaries)
    return row


def _mean(summaries: Sequence[Mapping[str, Any]], *fields: str) -> float:
    return statistics.fmean(sum(one[field] or 0 for field in fields) for one in summaries)


def bars(rows: Sequence[Mapping[str, Any]], pooled: float) -> Iterator[Bar]:
    """Targets of pooled SGD and of the ring that averages exactly; in percent."""
    yield Bar("pooled SGD, %", pooled, at_least=SGD_LEAST)
    for row in rows:
        if row["recipe"] == "ring-finite-time":
            for name in ("consensus", "mean peer"):
                yield Bar(f"{row['recipe']}: {name} minus pooled SGD, points", row[name] - pooled, at_least=-MOST_GAP)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table of means and standard deviations over the seeds."""

    def accuracy(row: Mapping[str, Any], name: str) -> str:
        if row[name] is None:
            return "–"
        return f"{row[name]:.2f}" + (f" ± {row[f'{name} sd']:.2f}" if row[f"{name} sd"] is not None else "")

    heads = ["recipe", "lr", "seeds", *(f"{name}, %" for name in MEASURES), "to pooled SGD", "GB sent", "seconds"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        gap = "–" if row["to pooled SGD"] is None else f"{row['to pooled SGD']:+.2f}"
        cells = [row["recipe"], f"{row['lr']:g}", row["seeds"], *(accuracy(row, name) for name in MEASURES), gap]
        lines.append([*map(str, cells), f"{row['GB sent']:.2f}", f"{row['seconds']:.0f}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
