"""Plan of a matched comparison: the cells of its grid and their runs.

Matched means: the same initial weights, shards, batch size, schedule and seeds, and the same number of samples
processed by the whole system. With n peers that take R rounds of S steps, plain SGD takes R rounds of n·S steps, and
FedAvg with m of n clients takes R·n/m rounds (to the nearest whole one) of S steps. With --round-length epochs S is the
mean of the peers, and FedAvg matches in the mean over the clients that may be drawn. Partitions are matched one by one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from p2pfl import config as settings
from p2pfl import registry
from p2pfl.algorithms import build_algorithm
from p2pfl.config import CentralizedConfig, DataConfig, Mode, RunConfig, replace_options
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.experiment.names import distinct_names, part_of_name
from p2pfl.experiment.steps import steps_by_peer
from p2pfl.modes import MODES, assign_roles, mode_of, topology_of
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.run.settings import EVAL_SAMPLES, EVALUATIONS, check_profile
from p2pfl.topology import Topology
from p2pfl.transport import keyring

_TOPOLOGY_NAME = 150  # characters of a topology in a folder's name, which has at most 255


@dataclass(frozen=True)
class CompareOptions:
    """Grid of runs to be compared.

    `num_selected`: clients per round, one FedAvg cell each. `algorithms` of the gossip cells and `partitions` of all
    that have shards: empty for those of the settings. `skip_incompatible`: gossip cells whose algorithm does not fit
    their topology are left out.
    """

    topologies: tuple[Topology, ...]
    num_selected: tuple[int, ...] = ()
    sgd: bool = False
    local: bool = False
    seeds: tuple[int, ...] = (0,)
    algorithms: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    skip_incompatible: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: what its runs, one for each seed, have in common.

    `name`: the beginning of their folders' names. `steps`: of a process in a round; the mean where they differ.
    """

    name: str
    config: RunConfig
    topology: Topology
    steps: float

    def with_seed(self, seed: int) -> Planned:
        """Plan its run with a seed."""
        return Planned(f"{self.name}-seed-{seed}", replace_options(self.config, seed=seed), self.topology, self.steps)


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


def plan_cells(base: RunConfig, wanted: CompareOptions, say: Callable[[str], None] = print) -> list[Cell]:
    """Plan the cells of the grid in the order of running: mode by mode.

    `base` holds the settings of the gossip runs; those of other modes follow from them. `say` gets a line for each cell
    that is skipped. Raises ConfigError where
    topologies have different numbers of peers, the settings do not fit the data set, or an algorithm does not fit a
    cell, which it names.
    """
    keyring.refuse_peer_options(base.exchange)
    if not wanted.topologies:
        raise ConfigError("compare: name at least one topology file, for example topologies/ring-8.graphml")
    n = _common_size(wanted.topologies)
    for selected in wanted.num_selected:
        if not 1 <= selected <= n:
            raise ConfigError(f"--num-selected {selected}: choose 1 to {n}, the number of peers")
    bases = [_with_steps(one, wanted.topologies[0]) for one in _by_partition(base, wanted.partitions)]
    gossip = _compatible(list(_gossip(bases, wanted)), say) if wanted.skip_incompatible else _gossip(bases, wanted)
    planned = [*gossip, *_centralized(bases, wanted, n), *_alone(bases, wanted)]
    names = distinct_names([cell.name for cell in planned])
    cells = _profiled([dataclasses.replace(cell, name=name) for cell, name in zip(planned, names, strict=True)])
    _check_cells(cells, wanted)
    if base.robust.byzantine is not None and not any(settings.is_robust(cell.config) for cell in cells):
        raise ConfigError(f"--byzantine {base.robust.byzantine}: no run here has a robust --algorithm or --averaging")
    return cells


@dataclass(frozen=True)
class _Base:
    """Settings with one partition.

    `steps`: of all peers in a round. `suffix`: of folders' names.
    """

    config: RunConfig
    steps: int
    suffix: str


def _by_partition(base: RunConfig, partitions: Sequence[str]) -> list[tuple[str, RunConfig]]:
    """Settings with each partition, by the suffix of their folders' names."""
    if len(partitions) < 2:
        chosen = replace_options(base, partition=partitions[0]) if partitions else base
        return [("", chosen)]
    found, problems = [], []
    for partition in partitions:
        config = replace_options(base, partition=partition)
        entry = registry.entry_of("partition", config.data.partition)
        if entry is registry.PARTITIONS["own"]:
            raise ConfigError(f"--partition {','.join(partitions)}: own cannot be one of several; its data are others")
        try:
            settings.check_data(config)  # not the algorithm, which may be one of several, too
        except ConfigError as error:  # such as --min-samples, where a partition draws no sizes
            problems.append(error)
            config = replace_options(config, min_samples=DataConfig.min_samples)
        found.append((config.data.partition, config))
    if len(problems) == len(found):
        raise problems[0]
    names = distinct_names([part_of_name(partition) for partition, _ in found])
    return [(f"-{name}", config) for name, (_, config) in zip(names, found, strict=True)]


def _with_steps(named: tuple[str, RunConfig], topology: Topology) -> _Base:
    suffix, config = named
    steps = steps_by_peer(config, topology)
    if config.training.round_length == "steps":
        config = replace_options(config, local_epochs=None, local_steps=steps[0])
    return _Base(config, sum(steps), suffix)


def _profiled(cells: list[Cell]) -> list[Cell]:
    """Keep --profile where its node and round exist; ConfigError if none has them."""
    fitting, problem = 0, None
    for place, cell in enumerate(cells):
        try:
            check_profile(cell.config, topology_of(cell.config) or cell.topology)
            fitting += 1
        except ConfigError as error:
            problem = error
            cells[place] = dataclasses.replace(cell, config=replace_options(cell.config, profile=None))
    if problem is not None and not fitting:
        raise problem
    return cells


def _compatible(cells: Sequence[Cell], say: Callable[[str], None]) -> list[Cell]:
    """Cells whose algorithm can run on their topology.

    Raises ConfigError of the first one where none can.
    """
    fitting, problems = [], []
    for cell in cells:
        try:
            assign_roles(cell.config, cell.topology)
        except TopologyError as error:
            problems.append(error)
            say(f"skipped: {cell.name}: {error}")
        else:
            fitting.append(cell)
    if not fitting and problems:
        raise problems[0]
    return fitting


def _check_cells(cells: Sequence[Cell], wanted: CompareOptions) -> None:
    """Check settings, and that no two cells are the same.

    Raises ConfigError, which names the cell of a grid.
    """
    seen: dict[str, Topology] = {}
    several = len(wanted.algorithms) > 1 or len(wanted.partitions) > 1
    for cell in cells:
        try:
            settings.check_together(cell.config)
            fingerprint = run_fingerprint(assign_roles(cell.config, cell.topology), cell.config)
            if several and mode_of(cell.config).mixes:
                build_algorithm(cell.config)  # the user's own
        except ConfigError as error:
            if not several:
                raise
            raise ConfigError(f"{cell.name}: {error}") from None
        if fingerprint in seen:
            raise ConfigError(f"{seen[fingerprint].source} and {cell.topology.source}: the same graph; leave one out")
        seen[fingerprint] = cell.topology


def _common_size(topologies: Sequence[Topology]) -> int:
    first = topologies[0]
    for other in topologies[1:]:
        if other.n != first.n:
            raise ConfigError(
                f"{first.source} has {first.n} peers and {other.source} has {other.n}: their shards would differ; "
                "compare topologies of the same size"
            )
    return first.n


def _gossip(bases: Sequence[_Base], wanted: CompareOptions) -> Iterator[Cell]:
    names = distinct_names(
        [f"gossip-{quote(topology.name, safe='')[:_TOPOLOGY_NAME]}" for topology in wanted.topologies]
    )
    algorithms: Sequence[str | None] = wanted.algorithms or (None,)
    parts = distinct_names(["" if value is None else part_of_name(value) for value in algorithms])
    for name, topology in zip(names, wanted.topologies, strict=True):
        for algorithm, part in zip(algorithms, parts, strict=True):
            for base in bases:
                chosen = base.config if algorithm is None else replace_options(base.config, algorithm=algorithm)
                chosen = settings.among_algorithms(chosen, wanted.algorithms)
                config = _of_mode(chosen, "gossip", base.config.training.rounds)
                middle = f"-{part}" if len(algorithms) > 1 else ""
                yield Cell(f"{name}{middle}{base.suffix}", config, topology, base.steps / topology.n)


def _centralized(bases: Sequence[_Base], wanted: CompareOptions, n: int) -> Iterator[Cell]:
    for selected in wanted.num_selected:
        for base in bases:
            rounds = max(1, round(base.config.training.rounds * n / selected))
            clients = CentralizedConfig(num_clients=n, num_selected=selected)
            config = _of_mode(dataclasses.replace(base.config, centralized=clients), "centralized", rounds)
            topology = topology_of(config)
            assert topology is not None
            yield Cell(f"centralized-{selected}-of-{n}{base.suffix}", config, topology, base.steps / n)


def _alone(bases: Sequence[_Base], wanted: CompareOptions) -> Iterator[Cell]:
    """Cells of local training, and of plain SGD, for as many partitions as matter."""
    rounds = bases[0].config.training.rounds
    if wanted.local:
        for base in bases:
            topology = wanted.topologies[0]
            yield Cell(f"local{base.suffix}", _of_mode(base.config, "local", rounds), topology, base.steps / topology.n)
    if wanted.sgd:
        pooling = list({_pool(base): base for base in reversed(bases)}.values())[::-1]
        for base in pooling:
            pooled = replace_options(base.config, round_length="steps", local_epochs=None, local_steps=base.steps)
            config = _of_mode(pooled, "sgd", rounds)
            alone = topology_of(config)
            assert alone is not None
            yield Cell(f"sgd{base.suffix if len(pooling) > 1 else ''}", config, alone, base.steps)


def _pool(base: _Base) -> tuple[int, str]:
    """Identity of a pooled run: its steps, and a partition that leaves samples out."""
    entry = registry.entry_of("partition", base.config.data.partition)
    return base.steps, "" if entry is None or entry.covers else base.config.data.partition


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
