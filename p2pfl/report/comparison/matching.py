"""Whether runs may be compared at all: what they must share, and what a reader must know where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from p2pfl.config import options
from p2pfl.report.comparison.entries import Entry, augment_of, content_of, dataset_of, initial_of, shards_of
from p2pfl.report.run import Run
from p2pfl.report.units import number_text

# Option -> what it is called. Matched runs agree on all of these.
MATCHED: dict[str, str] = {
    "model": "model",
    "width": "width of the model",
    "batch_norm": "batch normalization",
    "init": "initial weights",
    "dataset": "data set",
    "image_range": "range of pictures' values",
    "background": "background of pictures",
    "augment": "augmentation",
    "partition": "partition",
    "batch_size": "batch size",
    "schedule": "schedule",
}
# Options whose values are paths, by what the files hold, and one that may be left to the data set.
_VALUES: dict[str, Callable[[Run], Hashable]] = {"dataset": dataset_of, "augment": augment_of, "init": initial_of}
# Each mode may be tuned in these for itself; where they differ, the comparison says so.
NOTED: dict[str, str] = {
    "lr": "learning rate",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "reset_momentum": "resetting the momentum",
    "precision": "precision",
    "device": "device",
}


@dataclass(frozen=True)
class Mismatch:
    """A plain sentence, and the labels of the entries that it sets apart from the others."""

    sentence: str
    labels: frozenset[str]


def find_mismatches(entries: Sequence[Entry]) -> list[Mismatch]:
    """What sets entries apart that a matched comparison must share.

    These are the model, its width, batch normalization and initial weights, the data set, its content and how its
    images are decoded and augmented, the partition and its number of shards (pooled SGD has none), batch size,
    schedule, seeds, and the samples processed in all. FedAvg's rounds are whole, so samples may differ from those of
    most entries by half of one round of the coarser of the two. Each value is held against that of most entries, the
    first of them where there is no majority. Runs that are incomplete count as mismatches too.
    """
    found = [*_incomplete(entries)]
    for name, what in MATCHED.items():
        values = [_VALUES[name](e.runs[0]) if name in _VALUES else options(e.config)[name] for e in entries]
        found += _differences(entries, values, f"{what} (--{name.replace('_', '-')})", _text)
    found += _differences(entries, [content_of(entry.runs[0]) for entry in entries], "content of the data set", _text)
    dealt = [entry for entry in entries if shards_of(entry)]
    found += _differences(dealt, [shards_of(entry) for entry in dealt], "number of shards", _text)
    found += _differences(entries, [entry.seeds for entry in entries], "seeds (--seed)", _seeds_text)
    return [*found, *_samples(entries)]


def notes(entries: Sequence[Entry]) -> list[str]:
    """Where entries differ in what each mode may choose for itself: plain sentences, no reason to refuse."""
    found = []
    for name, what in NOTED.items():
        values = [options(entry.config)[name] for entry in entries]
        found += _differences(entries, values, f"{what} (--{name.replace('_', '-')})", _text)
    versions = [tuple(sorted((entry.summaries[0]["versions"] or {}).items())) for entry in entries]
    found += _differences(entries, versions, "versions", lambda pairs: " ".join(f"{a} {b}" for a, b in pairs) or "none")
    unknown = all(run.data is None for entry in entries for run in entry.runs)
    unsure = ["no run here records the content of its data: whether it was the same is not known"] if unknown else []
    return [mismatch.sentence for mismatch in found] + unsure


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "unset"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds_text(seeds: Any) -> str:
    return " ".join(map(str, seeds))


def _listed(labels: Sequence[str]) -> str:
    names = [_quoted(label) for label in labels]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _quoted(label: str) -> str:
    return f"'{label}'" if "," in label else label


def _differences(
    entries: Sequence[Entry], values: Sequence[Hashable], what: str, text: Callable[[Any], str]
) -> list[Mismatch]:
    """One mismatch that names every value and who has it, or none."""
    labels: dict[Hashable, list[str]] = {}
    for entry, value in zip(entries, values, strict=True):
        labels.setdefault(value, []).append(entry.label)
    if len(labels) < 2:
        return []
    usual = Counter(values).most_common(1)[0][0]  # of equally frequent values, the first
    sentence = "; ".join(f"{text(value)} in {_listed(names)}" for value, names in labels.items())
    others = frozenset(name for value, names in labels.items() if value != usual for name in names)
    return [Mismatch(f"different {what}: {sentence}", others)]


def _incomplete(entries: Sequence[Entry]) -> list[Mismatch]:
    found = []
    for entry in entries:
        for run, summary in zip(entry.runs, entry.summaries, strict=True):
            if summary["status"] != "complete":
                done = f"{summary['rounds_completed']} of {summary['rounds']} rounds"
                remedy = f"finish it with p2pfl {entry.mode} --resume {run.path}"
                found.append(Mismatch(f"{run.path} is incomplete ({done}): {remedy}", frozenset({entry.label})))
    return found


def _samples(entries: Sequence[Entry]) -> list[Mismatch]:
    """Incomplete entries are left out: what they lack is said already."""
    whole = [entry for entry in entries if all(s["status"] == "complete" for s in entry.summaries)]
    samples = [fmean(s["samples_total"] for s in entry.summaries) for entry in whole]
    if not whole:
        return []
    usual = Counter(samples).most_common(1)[0][0]
    reference = samples.index(usual)
    a_round = [
        count / max(entry.summaries[0]["rounds_completed"], 1) for count, entry in zip(samples, whole, strict=True)
    ]
    found = []
    for place, (entry, count) in enumerate(zip(whole, samples, strict=True)):
        allowed = max(a_round[place], a_round[reference]) / 2
        if abs(count - usual) > allowed:
            here = f"{number_text(count)} in {_quoted(entry.label)}"
            there = f"{number_text(usual)} in {_quoted(whole[reference].label)}"
            remedy = f"half of one round, {number_text(allowed)} samples, would be allowed"
            sentence = f"different numbers of samples processed: {here}; {there} ({remedy})"
            found.append(Mismatch(sentence, frozenset({entry.label})))
    return found
