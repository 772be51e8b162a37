"""`compare`: matched runs of several topologies and modes in one report."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from p2pfl.cli.arguments import parse, print_notes
from p2pfl.cli.describe import show_decoding
from p2pfl.cli.grid_options import (
    seed_numbers,
    selected_numbers,
    several,
    take_lists,
    tuning_options,
    without,
)
from p2pfl.cli.options import OptionalFile, Restart, base_config
from p2pfl.config import (
    CentralizedConfig,
    ComputeConfig,
    DataConfig,
    ExchangeConfig,
    GossipConfig,
    LaunchConfig,
    ModelConfig,
    RecordConfig,
    RobustConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    replace_options,
)
from p2pfl.errors import ConfigError, P2PFLError, explained, unwritable
from p2pfl.modes import mode_of
from p2pfl.run.directory import comparison_folder, locked, runs_in
from p2pfl.run.paths import CONFIG_FILE
from p2pfl.topology import Topology, load_topology
from p2pfl.util.program import program
from p2pfl.util.text import some

if TYPE_CHECKING:
    from p2pfl.experiment.grid import GridPlan

_SECTIONS = ("model", "data", "training", "gossip", "server", "robust", "exchange", "compute", "launch", "record")
_REPORT_OPTIONS = frozenset({"run_dir", "name"})  # options that apply to existing runs


@dataclass(frozen=True)
class Compare:
    """Run topologies, algorithms, partitions and modes under the same conditions.

    Runs are matched: the same initial weights, shards, batch size, schedule and seeds, and the same total number of
    samples processed. Plain SGD takes n times as many steps, FedAvg with 3 of 8 clients 8/3 as many rounds. Rounds and
    local epochs or steps are those of the gossip runs.

    --algorithm and --partition take several values, separated by commas: each topology is run with each algorithm, and
    all with each partition. A path in file:PATH that has a comma must be the only value.

    Given run directories instead of topology files, it compares these existing runs.
    """

    what: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TOPOLOGY_FILE|RUN_DIR...", help_behavior_hint="(optional where --config names one)"),
    ] = ()
    """Topology files to run, or directories of finished runs."""
    centralized: bool = False
    """Also run FedAvg with as many clients as the topologies have peers."""
    num_selected: Annotated[str | None, tyro.conf.arg(metavar="M[,M...]", help_behavior_hint="(default: all)")] = None
    """Number of clients that the coordinator draws for each round; 8,3 makes two runs."""
    sgd: bool = False
    """Also run plain SGD on all data, in one process."""
    local: bool = False
    """Also train the same peers without any exchange."""
    seeds: Annotated[str | None, tyro.conf.arg(metavar="S[,S...]", help_behavior_hint="(default: that of --seed)")] = (
        None
    )
    """Seeds: each run is repeated with each of them, and the report gives mean and standard deviation."""
    tune: Annotated[
        str | None, tyro.conf.arg(metavar="OPTION=V,V[,V...]", help_behavior_hint="(default: nothing is tuned)")
    ] = None
    """Values to try in each cell of the grid, such as lr=.0125,.025,.05,.1,.2; also of momentum and weight-decay. Of a
    cell the value is chosen that is most accurate on the validation set (--validation, 0.1 of the training set unless
    given), with the first seed. The runs that are compared then train on the whole training set, and read the test
    set once, after the last round."""
    tune_rounds: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: --rounds)")] = None
    """Rounds of the gossip runs' trials, to shorten them all."""
    restart: Restart = 0
    """Number of times that a dead process of the gossip and centralized runs is restarted."""
    skip_incompatible: bool = False
    """Leave out the runs whose algorithm cannot run on their topology, with a line for each; otherwise one such run
    refuses the comparison."""
    allow_mismatch: bool = False
    """Also compare runs that do not match, and mark them."""
    config: OptionalFile = None
    """TOML file with the settings of the gossip runs; options on the command line take precedence."""
    dry_run: bool = False
    """List the runs, report anomalies in the data, try the model, and stop. This decodes the pictures of an
    imagefolder, as the runs do."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    record: RecordConfig = field(default_factory=RecordConfig)


def compare(words: list[str]) -> int:
    """Run or read the runs, then write and print their comparison."""
    in_file: dict[str, tuple[str, ...]] = {}
    single, on_line = take_lists(words)
    base = base_config(single, None, in_file)
    lists = in_file | on_line
    given = Compare(**{name: getattr(base, name) for name in _SECTIONS}, restart=base.exchange.restart)
    arguments = parse(Compare, single, "compare", given)
    asked = RunConfig(**{name: getattr(arguments, name) for name in _SECTIONS})
    asked = replace_options(asked, restart=arguments.restart)
    what = arguments.what or ((Path(base.topology),) if base.topology else ())
    _refuse_foreign_base(base, arguments)
    runs, files = _runs_and_files(what)
    if files and runs:
        raise ConfigError(
            f"compare: {runs[0]} is a run and {files[0]} a topology file; run the topologies first, "
            "then compare the run directories"
        )
    if files:
        return _run_and_compare(arguments, asked, files, _Given(words, lists))
    _refuse_idle_options(arguments, asked, lists)
    folder = comparison_folder(asked.record.run_dir, asked.record.name or "runs")
    return _report(folder, runs, arguments.allow_mismatch, shlex.join([*program(), "compare", *words]))


def _runs_and_files(what: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run directories, including those inside comparisons; and topology files."""
    runs: list[Path] = []
    for path in what:
        if path.is_dir():
            runs += [path] if os.path.lexists(path / CONFIG_FILE) else runs_in(path)
    return runs, [path for path in what if not path.is_dir()]


@dataclass(frozen=True)
class _Given:
    """Words of the command line, and the values of options that have several."""

    words: list[str]
    lists: dict[str, tuple[str, ...]]


def _run_and_compare(arguments: Compare, asked: RunConfig, files: Sequence[Path], given: _Given) -> int:
    from p2pfl.experiment.checks import check_plan, check_splits
    from p2pfl.experiment.grid import describe_grid, run_grid, time_left

    topologies = tuple(load_topology(path) for path in files)
    for topology in topologies:
        print_notes(topology)
    plan = _plan(arguments, asked, topologies, given)
    folder = comparison_folder(asked.record.run_dir, asked.record.name or "-".join(t.name for t in topologies))
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(f"--run-dir {folder}: is the directory of a single run; choose another folder")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--run-dir {folder}: is no folder; choose another")
    if arguments.dry_run:
        check_splits([*plan.trials, *plan.finals], show_decoding)
        notes = check_plan(folder, plan.first, show_decoding)
        left = time_left(folder, plan)
        print("\n".join([describe_grid(plan), *([left] if left else []), *(f"note: {note}" for note in notes)]))
        return 0
    command = ["compare", *given.words, *(() if asked.record.run_dir else ("--run-dir", str(folder)))]
    print(describe_grid(plan))
    repeat = shlex.join([*program(), "compare", *without(given.words, "--run-dir", "--run_dir")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run-dir {unwritable(folder, error)}") from None
    with explained(folder), locked(folder):
        try:
            found = run_grid(folder, plan, _print_line, show_decoding, again=shlex.join(["p2pfl", *command]))
            # They were planned to match; the report shows where a lost client has changed that.
            _report(folder, found.made, True, repeat)
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty
    if found.diverged:
        raise P2PFLError(f"diverged: {some(found.diverged, 8)}", remedy="lower --lr, or let --tune choose it")
    return 0


def _plan(arguments: Compare, asked: RunConfig, topologies: tuple[Topology, ...], given: _Given) -> GridPlan:
    """Plan what the command line asks for. Raises ConfigError."""
    from p2pfl.experiment.grid import GridPlan
    from p2pfl.experiment.plan import CompareOptions, plan_cells
    from p2pfl.experiment.tune import plan_tuning

    wanted = CompareOptions(
        topologies=topologies,
        num_selected=selected_numbers(arguments.num_selected, topologies[0].n, centralized=arguments.centralized),
        sgd=arguments.sgd,
        local=arguments.local,
        seeds=seed_numbers(arguments.seeds, arguments.record.seed, given.words),
        algorithms=several(given.lists, "algorithm"),
        partitions=several(given.lists, "partition"),
        skip_incompatible=arguments.skip_incompatible,
    )
    _refuse_server_options(arguments, asked)
    tune = tuning_options(arguments.tune, arguments.tune_rounds, asked, given.words)
    # The runs that are compared train on the whole training set: rounds and steps follow from that, also in trials.
    cells = plan_cells(asked if tune is None else replace_options(asked, validation=0.0), wanted, _print_line)
    return GridPlan(cells, wanted.seeds, None if tune is None else plan_tuning(cells, tune, wanted.seeds[0]))


def _refuse_server_options(arguments: Compare, asked: RunConfig) -> None:
    defaults = vars(ServerConfig())
    changed = [name for name, value in vars(asked.server).items() if value != defaults[name]]
    if changed and not arguments.centralized:
        raise ConfigError(f"--{changed[0].replace('_', '-')}: has no effect without --centralized; add that option")


def _print_line(text: str) -> None:
    print(text, flush=True)


def _report(folder: Path, run_dirs: Sequence[Path], allow_mismatch: bool, command: str) -> int:
    from rich.console import Console

    from p2pfl.report.compare import terminal_grid, terminal_table, write_comparison

    comparison = write_comparison(folder, run_dirs, allow_mismatch=allow_mismatch, command=command)
    console = Console(highlight=False, markup=False)
    console.print()
    console.print(terminal_table(comparison, console.width))
    if (grid := terminal_grid(comparison)) is not None:
        console.print()
        console.print(grid)
    return 0


def _refuse_foreign_base(base: RunConfig, arguments: Compare) -> None:
    """Refuse settings of a file that a comparison would ignore."""
    if not mode_of(base).mixes:
        raise ConfigError(
            f"{arguments.config}: has settings of p2pfl {base.mode}; compare needs settings of p2pfl gossip"
        )
    if base.centralized != CentralizedConfig():
        raise ConfigError(
            f"{arguments.config}: num_clients, num_selected: not allowed here; the clients are the topology's "
            "peers, and --num-selected M,M on the command line gives the number of them that train in a round"
        )


def _refuse_idle_options(arguments: Compare, asked: RunConfig, lists: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse options of training where existing runs are compared."""
    if not arguments.what:
        raise ConfigError("compare: name topology files to run, or directories of finished runs")
    flags = [
        name for name in ("centralized", "sgd", "local", "dry_run", "skip_incompatible") if getattr(arguments, name)
    ]
    flags += [
        name
        for name in ("num_selected", "seeds", "config", "tune", "tune_rounds")
        if getattr(arguments, name) is not None
    ]
    flags += [name for name, values in lists.items() if len(values) > 1]
    plain = RunConfig()
    for section in _SECTIONS:
        now, default = vars(getattr(asked, section)), vars(getattr(plain, section))
        flags += [name for name in now if now[name] != default[name] and name not in _REPORT_OPTIONS]
    if flags:
        option = "--" + flags[0].replace("_", "-")
        raise ConfigError(f"{option}: has no effect where existing runs are compared; omit it")
