"""The numbers of a comparison: over the seeds of each entry, the best of a row, and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from p2pfl.report.comparison.entries import Entry
from p2pfl.report.run import Run, sent_by_process
from p2pfl.report.summary import FIELDS, TEXT_FIELDS
from p2pfl.report.units import MISSING, formats_of, words

# What the comparison adds to the fields of a summary: name -> meaning and how it is computed from a run.
DERIVED: dict[str, tuple[str, Callable[[Run], float]]] = {
    "bytes_sent_whole_run": (
        "sent by all processes over the whole run, consensus phase included",
        lambda run: sum(sent_by_process(run)),
    ),
    "bytes_sent_busiest_node": ("the same for the process that sent most", lambda run: max(sent_by_process(run))),
}
MEANINGS: dict[str, str] = {**FIELDS, **{name: meaning for name, (meaning, _) in DERIVED.items()}}
NUMBER_FIELDS = tuple(name for name in MEANINGS if name not in TEXT_FIELDS)

# Field -> which of two values is better; fields that are missing here have no best.
BETTER: dict[str, Callable[[Sequence[float]], float]] = {
    **dict.fromkeys(("consensus_accuracy", "mean_peer_accuracy", "worst_peer_accuracy", "samples_per_second"), max),
    **dict.fromkeys(("test_loss", "seconds", "consensus_seconds"), min),
    **dict.fromkeys((name for name in MEANINGS if "bytes" in name), min),
}


@dataclass(frozen=True)
class Statistic:
    """A field over the seeds of an entry. `mean` is None where a run has no value, `std` (n − 1) for one run too."""

    values: tuple[Any, ...]
    mean: float | None
    std: float | None


def statistic(entry: Entry, field: str) -> Statistic:
    """A number of an entry, one value a seed, with its mean and sample standard deviation."""
    if field in DERIVED:
        values = tuple(DERIVED[field][1](run) for run in entry.runs)
    else:
        values = tuple(summary[field] for summary in entry.summaries)
    if field in TEXT_FIELDS or any(value is None for value in values):
        return Statistic(values, None, None)
    return Statistic(values, fmean(values), stdev(values) if len(values) > 1 else None)


def best(entries: Sequence[Entry], field: str, apart: frozenset[str] = frozenset()) -> frozenset[str]:
    """Labels of the entries with the best mean of a field; none where there is no better, or nothing to compare.

    What reads the same is equally good. Entries in `apart` (mismatched ones) cannot be best, nor can who sends nothing
    be best at sending little.
    """
    if field not in BETTER:
        return frozenset()
    means = {entry.label: statistic(entry, field).mean for entry in entries if entry.label not in apart}
    known = {label: mean for label, mean in means.items() if mean is not None and (mean > 0 or "bytes" not in field)}
    if len(known) < 2:
        return frozenset()
    one, _ = formats_of(field)
    top = one(BETTER[field](list(known.values())))
    return frozenset(label for label, mean in known.items() if one(mean) == top)


def cell(entry: Entry, field: str) -> str:
    """A field of an entry as people read it: mean ± standard deviation where its seeds differ."""
    found = statistic(entry, field)
    if field in TEXT_FIELDS:
        return "; ".join(dict.fromkeys(words(value) for value in found.values))
    if found.mean is None:
        return MISSING
    one, spread = formats_of(field)
    if found.std:
        return spread(found.mean, found.std)
    return one(found.values[0] if len(set(found.values)) == 1 else found.mean)
