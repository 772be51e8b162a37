"""Matched comparison: plans runs that process the same samples, and runs them.

Matched means: the same initial weights, shards, batch size, schedule and seeds, and the same number of samples
processed by the whole system. With n peers that take R rounds of S steps, plain SGD takes R rounds of n·S steps, and
FedAvg with m of n clients takes R·n/m rounds (to the nearest whole one) of S steps. With --round-length epochs S is the
mean of the peers, and FedAvg matches in the mean over the clients that may be drawn.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from p2pfl import config as settings
from p2pfl import data, report
from p2pfl.config import NOT_IN_FINGERPRINT, CentralizedConfig, Mode, RunConfig, replace_options
from p2pfl.errors import ConfigError
from p2pfl.experiment.run import run
from p2pfl.experiment.steps import steps_by_peer
from p2pfl.launch import fork_server
from p2pfl.modes import MODES, assign_roles, topology_of
from p2pfl.preflight.estimate import data_record, estimate
from p2pfl.run.data_record import DataRecord, different_data, read_data_record
from p2pfl.run.directory import open_run_dir, remove_incomplete
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.paths import CONFIG_FILE
from p2pfl.run.settings import EVAL_SAMPLES, EVALUATIONS, check_profile, resolve
from p2pfl.topology import Topology
from p2pfl.transport import keyring
from p2pfl.util.signals import interruptible


@dataclass(frozen=True)
class CompareOptions:
    """Runs to be compared; `num_selected`: clients per round, one FedAvg run each."""

    topologies: tuple[Topology, ...]
    num_selected: tuple[int, ...] = ()
    sgd: bool = False
    local: bool = False
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Planned:
    """One run of a comparison: the name of its folder, and what it is run with.

    `steps`: of a process in a round; the mean where they differ.
    """

    name: str
    config: RunConfig
    topology: Topology
    steps: float

    @property
    def samples(self) -> int:
        """Training samples that all processes together will have processed."""
        training = self.config.training
        at_once = {"sgd": 1, "centralized": self.config.centralized.num_selected}.get(self.config.mode, self.topology.n)
        return round(training.rounds * self.steps * training.batch_size * at_once)


def plan_runs(base: RunConfig, wanted: CompareOptions) -> list[Planned]:
    """Plan the matched runs in the order of running: mode by mode, seed by seed.

    `base` holds the settings of the gossip runs; those of other modes follow from them. Raises ConfigError where
    topologies have different numbers of peers, or the settings do not fit the data set.
    """
    keyring.refuse_token_file(base.exchange)
    if not wanted.topologies:
        raise ConfigError("compare: name at least one topology file, for example topologies/ring-8.graphml")
    n = _common_size(wanted.topologies)
    for selected in wanted.num_selected:
        if not 1 <= selected <= n:
            raise ConfigError(f"--num-selected {selected}: choose 1 to {n}, the number of peers")
    steps = steps_by_peer(base, wanted.topologies[0])
    if base.training.round_length == "steps":
        base = replace_options(base, local_epochs=None, local_steps=steps[0])
    kinds = _profiled([*_gossip(base, wanted), *_centralized(base, wanted, n), *_alone(base, wanted, sum(steps))])
    _check_kinds(kinds)
    if base.robust.byzantine is not None and not any(settings.is_robust(config) for _, config, _ in kinds):
        raise ConfigError(f"--byzantine {base.robust.byzantine}: no run here has a robust --algorithm or --averaging")
    return [
        Planned(
            f"{name}-seed-{seed}",
            replace_options(config, seed=seed),
            topology,
            sum(steps) if MODES[config.mode].pools_data else sum(steps) / n,
        )
        for name, config, topology in kinds
        for seed in wanted.seeds
    ]


_Kind = tuple[str, RunConfig, Topology]


def _profiled(kinds: list[_Kind]) -> list[_Kind]:
    """Keep --profile where its node and round exist; ConfigError if none has them."""
    fitting, problem = 0, None
    for place, (name, config, topology) in enumerate(kinds):
        try:
            check_profile(config, topology_of(config) or topology)
            fitting += 1
        except ConfigError as error:
            problem = error
            kinds[place] = (name, replace_options(config, profile=None), topology)
    if problem is not None and not fitting:
        raise problem
    return kinds


def _check_kinds(kinds: Sequence[_Kind]) -> None:
    """Check settings and that no two runs are the same. Raises ConfigError."""
    seen: dict[str, Topology] = {}
    for _, config, topology in kinds:
        settings.check_together(config)
        fingerprint = run_fingerprint(assign_roles(config, topology), config)
        if fingerprint in seen:
            raise ConfigError(f"{seen[fingerprint].source} and {topology.source}: the same graph; leave one out")
        seen[fingerprint] = topology


def _common_size(topologies: Sequence[Topology]) -> int:
    first = topologies[0]
    for other in topologies[1:]:
        if other.n != first.n:
            raise ConfigError(
                f"{first.source} has {first.n} peers and {other.source} has {other.n}: their shards would differ; "
                "compare topologies of the same size"
            )
    return first.n


def _gossip(base: RunConfig, wanted: CompareOptions) -> Iterator[_Kind]:
    taken: set[str] = set()
    for topology in wanted.topologies:
        plain = name = f"gossip-{quote(topology.name, safe='')[:150]}"
        number = 1
        while name in taken:  # two files of the same name
            number += 1
            name = f"{plain}-{number}"
        taken.add(name)
        yield name, _of_mode(base, "gossip", base.training.rounds), topology


def _centralized(base: RunConfig, wanted: CompareOptions, n: int) -> Iterator[_Kind]:
    for selected in wanted.num_selected:
        rounds = max(1, round(base.training.rounds * n / selected))
        clients = CentralizedConfig(num_clients=n, num_selected=selected)
        config = _of_mode(dataclasses.replace(base, centralized=clients), "centralized", rounds)
        topology = topology_of(config)
        assert topology is not None
        yield f"centralized-{selected}-of-{n}", config, topology


def _alone(base: RunConfig, wanted: CompareOptions, steps: int) -> Iterator[_Kind]:
    rounds = base.training.rounds
    if wanted.local:
        yield "local", _of_mode(base, "local", rounds), wanted.topologies[0]
    if wanted.sgd:
        pooled = replace_options(base, round_length="steps", local_epochs=None, local_steps=steps)
        config = _of_mode(pooled, "sgd", rounds)
        topology = topology_of(config)
        assert topology is not None
        yield "sgd", config, topology


def _of_mode(base: RunConfig, mode: Mode, rounds: int) -> RunConfig:
    """The settings in another mode, evaluated as often as `base` over the whole run."""
    kept = {name: getattr(base, name) for name in settings.MODE_SECTIONS[mode]}
    every = base.record.eval_every
    chosen = round(every * rounds / base.training.rounds) if every else math.ceil(rounds / EVALUATIONS)
    samples = EVAL_SAMPLES if base.record.eval_samples is None else base.record.eval_samples
    made = RunConfig(mode=mode, **kept)
    if not settings.is_robust(made):  # only the Byzantine-robust run has it
        made = replace_options(made, byzantine=None)
    if not MODES[mode].mixes:  # they have no file with public keys
        made = replace_options(made, keys=None)
    return replace_options(made, rounds=rounds, eval_every=max(1, chosen), eval_samples=samples, name=None)


def describe_plan(planned: Sequence[Planned]) -> str:
    """The runs and how much each processes, as lines for people."""
    wide = max(len(one.name) for one in planned)
    lines = [
        f"{one.name:<{wide}}  {one.config.training.rounds:>6,} rounds of {one.steps:,.10g} steps"
        f"  {one.samples:>11,} samples in all"
        for one in planned
    ]
    return "\n".join(lines)


def check_plan(folder: Path, planned: Sequence[Planned], progress: data.Progress) -> tuple[str, ...]:
    """Check the first run and try out the model; returns notes, a line each.

    `folder` is where the runs will be, or are already. An image folder is decoded, with `progress`.
    Raises ConfigError for what that run would refuse.
    """
    first = planned[0]
    report.check_drawing()
    resolve(first.config, first.topology, 1)
    begins = not (folder / first.name).exists()
    return estimate(assign_roles(first.config, first.topology), first.config, progress, begins=begins).notes


def run_all(
    folder: Path,
    planned: Sequence[Planned],
    say: Callable[[str], None],
    progress: data.Progress = lambda *_: None,
    *,
    again: str,
) -> list[Path]:
    """Run all that are not complete, each in a folder below `folder`; returns these.

    An incomplete one is resumed. `again` is the command that resumes the comparison.

    Raises ConfigError where a folder holds another run, or the data set's content is not that of the runs so far;
    Interrupted and P2PFLError as `run` does.
    """
    found = []
    there = [folder / one.name for one in planned if (folder / one.name / CONFIG_FILE).is_file()]
    recorded = {run_dir: record for run_dir in there if (record := read_data_record(run_dir)) is not None}
    _check_data(recorded, planned[0].config, progress)
    # One fork server for all runs; between two runs, too, a signal leaves nothing behind.
    with interruptible(), fork_server():
        for number, one in enumerate(planned, start=1):
            run_dir = folder / one.name
            state = _state(run_dir, one)
            say(f"\nrun {number} of {len(planned)}: {one.name}" + (f" ({state})" if state else ""))
            found.append(run_dir)
            if state == "complete already":
                continue
            _check_data(recorded, one.config, progress)  # again: the comparison may have taken hours until here
            if state:
                run(one.config, one.topology, resume=run_dir, again=again)
            else:
                run(replace_options(one.config, run_dir=str(run_dir)), one.topology, again=again)
            if (record := read_data_record(run_dir)) is not None:
                recorded[run_dir] = record
    return found


def _check_data(recorded: Mapping[Path, DataRecord], config: RunConfig, progress: data.Progress) -> None:
    """Check that the data set is that of the runs so far. Raises ConfigError."""
    if not recorded:
        return
    path = data.prepare(config.data.dataset, config.data.data_dir, progress, config.data.pictures)
    now = data_record(config, path)
    for run_dir, before in recorded.items():
        if before.content != now.content:
            raise ConfigError(different_data(run_dir, before, now))


def _state(run_dir: Path, planned: Planned) -> str:
    """State of a run's folder: "", "complete already", or "to be resumed".

    Raises ConfigError where it holds another run.
    """
    if not run_dir.exists() or remove_incomplete(run_dir):
        return ""
    topology, saved = open_run_dir(run_dir)
    config = resolve(planned.config, planned.topology, 1)
    now, before = settings.options(config), settings.options(saved)
    for name, value in now.items():
        both = value is not None and before.get(name) is not None
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
            f"{run_dir}: was made with another topology, other weights, faults or --init; choose another --run-dir"
        )
    return "to be resumed" if report.complete_summary(run_dir) is None else "complete already"
