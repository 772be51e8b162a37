"""Grouping of runs into entries: runs that differ only in the seed are one entry."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p2pfl.config import NOT_IN_FINGERPRINT, TUNABLE, RunConfig, options
from p2pfl.errors import ConfigError
from p2pfl.model.weights_file import weights_digest
from p2pfl.modes import Mode, mode_of
from p2pfl.report.load import RecordedRun, load_run
from p2pfl.report.summary import known_facts, summarize
from p2pfl.run.partition_file import given_path, partition_digest

_MAY_DIFFER = NOT_IN_FINGERPRINT | {"seed"}  # options in which runs of one entry may differ
# Options that each method may tune separately, or that follow from the size of shards: labels name them if they must.
_TUNED_BY_METHOD = frozenset({*TUNABLE, "reset_momentum", "precision", "device"})
_FOLLOWS = frozenset({"local_steps", "local_epochs", "min_samples"})


@dataclass(frozen=True)
class Entry:
    """Runs with the same settings and different seeds; tuples have one item per run.

    `name`: of its topology or mode, with which the label begins. `partition`: for people, another one for each
    partition of the comparison.
    """

    label: str
    runs: tuple[RecordedRun, ...]
    summaries: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    partition: str = ""

    @property
    def name(self) -> str:
        """Name of the run, that of its topology if it has no other, or of the mode."""
        return _name(self.runs[0])

    @property
    def config(self) -> RunConfig:
        """Settings shared by its runs, apart from the seed and machine-specific options."""
        return self.runs[0].config

    @property
    def mode(self) -> Mode:
        """Training mode."""
        return mode_of(self.config)


def load_entries(run_dirs: Sequence[Path]) -> list[Entry]:
    """Read run directories and group them, ordered by the first run of each group.

    Labels are short and unique: the name of the run or of the algorithm, and where these collide also the options that
    differ. Incomplete runs are read too. Raises ConfigError where a directory cannot be read, is given twice, or
    two hold the same settings with the same seed.
    """
    if not run_dirs:
        raise ConfigError("no runs to compare; name the directories of finished runs")
    _refuse_twice(run_dirs)
    groups: dict[Hashable, list[tuple[RecordedRun, dict[str, Any]]]] = {}
    for path in run_dirs:
        summary = _summary(path)
        run = load_run(path, summary["lost_peers"])
        groups.setdefault(_settings(run), []).append((run, summary))
    entries = _with_partitions([_entry(found) for found in groups.values()])
    return [replace(entry, label=label) for entry, label in zip(entries, _labels(entries), strict=True)]


def dataset_of(run: RecordedRun) -> str:
    """Data set: its kind where its content is recorded, else also its absolute path."""
    kind, _, folder = run.config.data.dataset.partition(":")
    if run.data is not None:
        return run.config.data.kind
    return f"{kind}:{Path(folder).absolute()}" if kind == "imagefolder" else run.config.data.dataset


def content_of(run: RecordedRun) -> str:
    """First digits of the digest of the data set's content."""
    return "not recorded" if run.data is None else run.data.content


def augment_of(run: RecordedRun) -> str:
    """Whether training images were augmented (shifted and mirrored)."""
    return run.config.data.augment if run.data is None else "on" if run.data.augment else "off"


def initial_of(run: RecordedRun) -> str | None:
    """Initial weights by the content of their file; None where drawn from the seed."""
    init = run.config.training.init
    if init is None:
        return None
    try:
        return f"from a file ({weights_digest(init)})"
    except ConfigError:  # deleted or damaged since; its path distinguishes runs
        return init


def partition_of(run: RecordedRun) -> str:
    """Partition; that of a file by its content."""
    path = run.config.data.partition_file
    if path is None:
        return run.config.data.partition
    try:
        return f"file ({partition_digest(path)})"
    except ConfigError:  # deleted since; its path distinguishes runs
        return run.config.data.partition


def _with_partitions(entries: Sequence[Entry]) -> list[Entry]:
    """Entries with the names of their partitions.

    Of a file the last part of the path that its user gave; where files of other contents share it also the folder, or
    else the first digits of their digests.
    """
    firsts: dict[str, RecordedRun] = {}
    for entry in entries:
        firsts.setdefault(partition_of(entry.runs[0]), entry.runs[0])
    names = {key: _partition_name(run, 1) for key, run in firsts.items()}
    with_folders = {key: _partition_name(run, 2) for key, run in firsts.items()}
    with_digests = {key: f"{_partition_name(run, 1)} {key.removeprefix('file ')}" for key, run in firsts.items()}
    for longer in (with_folders, with_digests):
        known = list(names.values())
        names = {key: longer[key] if known.count(name) > 1 else name for key, name in names.items()}
    return [replace(entry, partition=names[partition_of(entry.runs[0])]) for entry in entries]


def _partition_name(run: RecordedRun, parts: int) -> str:
    path = run.config.data.partition_file
    return run.config.data.partition if path is None else f"file:{'/'.join(Path(given_path(path)).parts[-parts:])}"


def method_of(entry: Entry) -> Hashable:
    """Method of an entry: its settings but partition, seed and what may be tuned."""
    run = entry.runs[0]
    left_out = _MAY_DIFFER | _TUNED_BY_METHOD | _FOLLOWS | {"partition"}
    found = {name: value for name, value in options(run.config).items() if name not in left_out}
    return run.config.mode, _shape(run), entry.name, tuple(sorted((k, str(v)) for k, v in found.items()))


def shards_of(entry: Entry) -> int | None:
    """Number of shards of the training set; None for pooled data."""
    counts: dict[str, int] = {"centralized": entry.config.centralized.num_clients, "sgd": 0}
    return counts.get(entry.mode.name, entry.runs[0].topology.n) or None


def _refuse_twice(run_dirs: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in run_dirs:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise ConfigError(f"{path}: given twice; name each run directory once")


def _summary(run_dir: Path) -> dict[str, Any]:
    """Summary from a run's records, whatever its summary file says."""
    return summarize(run_dir, **known_facts(run_dir))


def _settings(run: RecordedRun) -> Hashable:
    """Everything that determines a run, except its seed."""
    found = {name: value for name, value in options(run.config).items() if name not in _MAY_DIFFER}
    found |= {"dataset": dataset_of(run), "init": initial_of(run), "augment": augment_of(run)}
    found["partition"] = partition_of(run)
    found["content"] = content_of(run)
    return run.config.mode, _shape(run), tuple(sorted(found.items()))


def _shape(run: RecordedRun) -> Hashable:
    graph = run.topology.graph
    if not run.mode.has_common_model:
        return run.topology.names  # the file gave the peers; its edges were not used
    edges = (tuple(sorted(one.graph.edges.data("weight", default=1.0))) for one in run.topology.by_round)
    return run.topology.names, graph.is_directed(), run.topology.is_schedule, tuple(edges)


def _entry(found: Sequence[tuple[RecordedRun, dict[str, Any]]]) -> Entry:
    by_seed: dict[int, tuple[RecordedRun, dict[str, Any]]] = {}
    for run, summary in found:
        first, _ = by_seed.setdefault(run.config.record.seed, (run, summary))
        if first is not run:
            same = f"{first.path} and {run.path}"
            raise ConfigError(
                f"{same}: the same settings and the same seed ({run.config.record.seed}); omit one of them"
            )
    seeds = tuple(sorted(by_seed))
    runs, summaries = zip(*(by_seed[seed] for seed in seeds), strict=True)
    return Entry(_name(runs[0]), runs, summaries, seeds)


def _federated_name(run: RecordedRun) -> str:
    found = options(run.config)
    kind = f"Fed{'Prox' if found['proximal_mu'] else 'Avg'}{'M' if found['server_momentum'] else ''}"
    return f"{kind} {found['num_selected']}/{found['num_clients']}"


_NAMES: dict[str, Callable[[RecordedRun], str]] = {
    "gossip": lambda run: run.name,
    "centralized": _federated_name,
    "sgd": lambda run: "SGD",
    "local": lambda run: "local",
}


def _name(run: RecordedRun) -> str:
    return _NAMES[run.mode.name](run)


def _labels(entries: Sequence[Entry]) -> list[str]:
    alike: dict[str, list[Entry]] = {}
    for entry in entries:
        alike.setdefault(entry.label, []).append(entry)
    labels = [_distinct_label(entry, alike[entry.label]) for entry in entries]
    for which in (lambda entry: entry.runs[0].path.name, lambda entry: str(entry.runs[0].path)):
        clash = {label for label in labels if labels.count(label) > 1}
        labels = [
            f"{entry.label}, {which(entry)}" if label in clash else label
            for entry, label in zip(entries, labels, strict=True)
        ]
    return labels


def _distinct_label(entry: Entry, alike: Sequence[Entry]) -> str:
    """Name of an entry, with its mode or differing options if others share it."""
    own, same_mode = _options(entry), [_options(other) for other in alike if other.mode is entry.mode]
    differ = [name for name, value in own.items() if any(found[name] != value for found in same_mode)]
    telling = [name for name in differ if name not in _TUNED_BY_METHOD | _FOLLOWS]
    if len({tuple(found[name] for name in telling) for found in same_mode}) == len(same_mode):
        differ = telling
    differ.sort(key=lambda name: name != "algorithm")
    mode = [entry.mode.name] if len(same_mode) < len(alike) else []
    return ", ".join([entry.label, *mode, *(_option_text(name, own[name]) for name in differ)])


def _options(entry: Entry) -> Mapping[str, Any]:
    found = {"peers": entry.runs[0].topology.n, **options(entry.config), "partition": entry.partition}
    return {name: value for name, value in found.items() if name not in _MAY_DIFFER}


def _option_text(name: str, value: Any) -> str:
    if name in ("algorithm", "partition"):
        return str(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} peers" if name == "peers" else f"{name.replace('_', '-')} {text}"
