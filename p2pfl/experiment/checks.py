"""Checks of a comparison's runs: settings, data, partitions, folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from p2pfl import config as settings
from p2pfl import data, report
from p2pfl.config import NOT_IN_FINGERPRINT, RunConfig
from p2pfl.errors import ConfigError
from p2pfl.experiment.plan import Planned
from p2pfl.launch import describe_cluster
from p2pfl.modes import assign_roles, mode_of
from p2pfl.preflight.estimate import data_record, estimate
from p2pfl.run.data_record import DataRecord, different_data
from p2pfl.run.directory import open_run_dir, remove_incomplete
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.partition_file import check_partition, given_path
from p2pfl.run.settings import resolve
from p2pfl.training import split_of_run

COMPLETE = "complete already"


def check_plan(folder: Path, first: Planned, progress: data.Progress) -> tuple[str, ...]:
    """Check the first run and try out the model; returns notes, a line each.

    `folder` is where the runs will be, or are already. An image folder is decoded, with `progress`.
    Raises ConfigError for what that run would refuse.
    """
    report.check_drawing()
    resolve(first.config, first.topology, 1)
    begins = not (folder / first.name).exists()
    notes = estimate(assign_roles(first.config, first.topology), first.config, progress, begins=begins).notes
    cluster = describe_cluster(first.config.launch, first.topology.n)
    return notes if cluster is None else (*notes, f"cluster: {cluster}")


def check_splits(planned: Sequence[Planned], progress: data.Progress) -> None:
    """Check that the data set can be split with each partition and each seed.

    Raises ConfigError, which names the run.
    """
    distinct = {
        (one.config.data.partition, one.config.data.validation, one.config.record.seed): one
        for one in planned
        if not mode_of(one.config).pools_data
    }
    if len(distinct) < 2:
        return  # the first run checks it
    for one in distinct.values():
        chosen = one.config.data
        path = data.prepare(chosen.dataset, chosen.data_dir, progress, chosen.pictures)
        try:
            split_of_run(one.config, assign_roles(one.config, one.topology), data.load(path))
        except ConfigError as error:
            raise ConfigError(f"{one.name}: {error}") from None


def check_data(recorded: Mapping[Path, DataRecord], config: RunConfig, progress: data.Progress) -> None:
    """Check that the data set is that of the runs so far. Raises ConfigError."""
    if not recorded:
        return
    path = data.prepare(config.data.dataset, config.data.data_dir, progress, config.data.pictures)
    now = data_record(config, path)
    for run_dir, before in recorded.items():
        if before.content != now.content:
            raise ConfigError(different_data(run_dir, before, now))


def state_of(run_dir: Path, planned: Planned) -> str:
    """State of a run's folder: "", `COMPLETE`, or "to be resumed".

    Raises ConfigError where it holds another run.
    """
    if not run_dir.exists() or remove_incomplete(run_dir):
        return ""
    topology, saved = open_run_dir(run_dir)
    config = resolve(planned.config, planned.topology, 1)
    now, before = settings.options(config), settings.options(saved)
    if saved.data.partition_file is not None:
        before = {**before, "partition": f"file:{given_path(saved.data.partition_file)}"}
    for name, value in now.items():
        both = value is not None and before.get(name) is not None
        if name == "partition" and None not in (config.data.partition_file, saved.data.partition_file):
            check_partition(config, run_dir, saved)
            continue
        if name in ("faults", "init") and both:
            continue  # a copy of the file has another path; what it says is compared below, as the graph is
        if name == "dataset" and config.data.kind == saved.data.kind:
            continue  # its content counts, which `_check_data` compares
        if name not in NOT_IN_FINGERPRINT and before.get(name) != value:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{run_dir}: was made with {option} {before.get(name)}, not {value}; choose another --run-dir"
            )
    if run_fingerprint(assign_roles(saved, topology), saved) != run_fingerprint(
        assign_roles(config, planned.topology), config
    ):
        raise ConfigError(
            f"{run_dir}: was made with another topology, weights, faults or --init; choose another --run-dir"
        )
    return "to be resumed" if report.complete_summary(run_dir) is None else COMPLETE
