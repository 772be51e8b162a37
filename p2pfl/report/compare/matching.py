"""Matching of compared runs: the options they must share, mismatches and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from p2pfl.config import options
from p2pfl.report.compare.dimensions import matching_groups
from p2pfl.report.compare.group import Entry, augment_of, content_of, dataset_of, initial_of, shards_of
from p2pfl.report.compare.tuning import Tuning, cautions
from p2pfl.report.load import RecordedRun
from p2pfl.util.units import number_text

# Option -> its name in sentences. Matched runs agree on all of these.
MATCHED: dict[str, str] = {
    "model": "model",
    "width": "width of the model",
    "norm": "normalization",
    "init": "initial weights",
    "dataset": "data set",
    "image_range": "value range of pictures",
    "background": "background of pictures",
    "augment": "augmentation",
    "partition": "partition",
    "validation": "fraction held back for validation",
    "test": "evaluation on the test set",
    "batch_size": "batch size",
    "schedule": "schedule",
}
# Options compared by the contents of their files, or by the data set's default, rather than by their value.
_VALUES: dict[str, Callable[[RecordedRun], Hashable]] = {
    "dataset": dataset_of,
    "augment": augment_of,
    "init": initial_of,
}
# Options that each mode may tune separately; the comparison notes where they differ.
NOTED: dict[str, str] = {
    "optimizer": "optimizer",
    "lr": "learning rate",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "reset_momentum": "reset of the momentum",
    "precision": "precision",
    "device": "device",
}


@dataclass(frozen=True)
class Mismatch:
    """A difference in one sentence, and the labels of the entries that deviate."""

    sentence: str
    labels: frozenset[str]


@dataclass(frozen=True)
class Comparison:
    """Compared entries, their mismatches (none if matched), notes and output folder."""

    folder: Path
    entries: tuple[Entry, ...]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]
    command: str = ""
    tuning: Tuning | None = None

    @property
    def mismatched(self) -> frozenset[str]:
        """Labels of the entries that do not match the others."""
        return frozenset(label for mismatch in self.mismatches for label in mismatch.labels)

    def mismatch_numbers(self, label: str) -> str:
        """Numbers of the mismatches of an entry, such as 1 2; empty if there are none."""
        return " ".join(str(n) for n, mismatch in enumerate(self.mismatches, 1) if label in mismatch.labels)


def find_mismatches(entries: Sequence[Entry]) -> list[Mismatch]:
    """Mismatches: differences in what a matched comparison must share.

    Matched runs share the model, its width, normalization and initial weights, the data set, its content,
    decoding and augmentation, the partition and its number of shards (pooled SGD has none), batch size, schedule,
    seeds, and the total number of samples processed. Where every method was run with every partition, the partition is
    no mismatch, and samples are compared partition by partition. As FedAvg has whole rounds, samples may differ from
    those of most entries by half a round of the coarser of the two. Each value is compared with that of most entries,
    or with the first where there is no majority. Incomplete runs count as mismatches too.
    """
    found, groups = [*_incomplete(entries)], matching_groups(entries)
    for name, what in MATCHED.items():
        if name == "partition" and len(groups) > 1:
            continue
        values = [_value(entry, name) for entry in entries]
        found += _differences(entries, values, f"{what} (--{name.replace('_', '-')})", _text)
    found += _differences(entries, [content_of(entry.runs[0]) for entry in entries], "content of the data set", _text)
    dealt = [entry for entry in entries if shards_of(entry)]
    found += _differences(dealt, [shards_of(entry) for entry in dealt], "number of shards", _text)
    found += _differences(entries, [entry.seeds for entry in entries], "seeds (--seed)", _seeds_text)
    return [*found, *(mismatch for group in groups for mismatch in _samples(group))]


def notes(entries: Sequence[Entry], tuning: Tuning | None = None) -> list[str]:
    """Differences that do not prevent a comparison, one sentence each.

    Values that were chosen by tuning are no news; its cautions are.
    """
    found = []
    tuned = {name for one in (tuning.cells if tuning else ()) for trial in one.trials for name in trial.values}
    for name, what in NOTED.items():
        if name in tuned:
            continue
        values = [options(entry.config)[name] for entry in entries]
        found += _differences(entries, values, f"{what} (--{name.replace('_', '-')})", _text)
    mixing = [entry for entry in entries if entry.mode.mixes]
    merges = [entry.config.gossip.final_merge for entry in mixing]
    found += _differences(mixing, merges, "final merge (--final-merge)", str)
    versions = [tuple(sorted((entry.summaries[0]["versions"] or {}).items())) for entry in entries]
    found += _differences(entries, versions, "versions", lambda pairs: " ".join(f"{a} {b}" for a, b in pairs) or "none")
    unknown = all(run.data is None for entry in entries for run in entry.runs)
    unsure = (
        ["no run has a record of the content of its data, so whether it was the same is unknown"] if unknown else []
    )
    return [mismatch.sentence for mismatch in found] + unsure + (cautions(tuning) if tuning else [])


def _value(entry: Entry, name: str) -> Any:
    if name == "partition":
        return entry.partition
    return _VALUES[name](entry.runs[0]) if name in _VALUES else options(entry.config)[name]


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
    entries: Sequence[Entry], values: Sequence[Hashable], name: str, text: Callable[[Any], str]
) -> list[Mismatch]:
    """One mismatch that names every value and its entries, or none."""
    labels: dict[Hashable, list[str]] = {}
    for entry, value in zip(entries, values, strict=True):
        labels.setdefault(value, []).append(entry.label)
    if len(labels) < 2:
        return []
    usual = Counter(values).most_common(1)[0][0]  # of equally frequent values, the first
    sentence = "; ".join(f"{text(value)} in {_listed(names)}" for value, names in labels.items())
    others = frozenset(name for value, names in labels.items() if value != usual for name in names)
    return [Mismatch(f"different {name}: {sentence}", others)]


def _incomplete(entries: Sequence[Entry]) -> list[Mismatch]:
    found = []
    for entry in entries:
        for run, summary in zip(entry.runs, entry.summaries, strict=True):
            if summary["status"] != "complete":
                done = f"{summary['rounds_completed']} of {summary['rounds']} rounds"
                remedy = f"finish it with p2pfl {entry.mode.name} --resume {run.path}"
                found.append(Mismatch(f"{run.path} is incomplete ({done}): {remedy}", frozenset({entry.label})))
    return found


def _samples(entries: Sequence[Entry]) -> list[Mismatch]:
    """Mismatches in the number of samples; incomplete entries are reported elsewhere."""
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
