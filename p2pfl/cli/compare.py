"""`compare`: matched runs of several topologies and modes in one report."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse, print_notes
from p2pfl.cli.describe import show_decoding
from p2pfl.cli.options import OptionalFile, Restart, base_config
from p2pfl.config import (
    CentralizedConfig,
    ComputeConfig,
    DataConfig,
    ExchangeConfig,
    GossipConfig,
    ModelConfig,
    RecordConfig,
    RobustConfig,
    RunConfig,
    ServerConfig,
    TrainingConfig,
    replace_options,
)
from p2pfl.errors import ConfigError, explained, unwritable
from p2pfl.modes import mode_of
from p2pfl.run.directory import comparison_folder, locked, runs_in
from p2pfl.run.paths import CONFIG_FILE
from p2pfl.topology import load_topology

_SECTIONS = ("model", "data", "training", "gossip", "server", "robust", "exchange", "compute", "record")
_REPORT_OPTIONS = frozenset({"run_dir", "name"})  # options that apply to existing runs


@dataclass(frozen=True)
class Compare:
    """Run several topologies and modes under the same conditions, and compare them.

    Runs are matched: the same initial weights, shards, batch size, schedule and seeds, and the same total number of
    samples processed. Plain SGD takes n times as many steps, FedAvg with 3 of 8 clients 8/3 as many rounds. Rounds and
    local epochs or steps are those of the gossip runs.

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
    restart: Restart = 0
    """Number of times that a dead process of the gossip and centralized runs is restarted."""
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
    record: RecordConfig = field(default_factory=RecordConfig)


def compare(words: list[str]) -> int:
    """Run or read the runs, then write and print their comparison."""
    base = base_config(words, None)
    given = Compare(**{name: getattr(base, name) for name in _SECTIONS}, restart=base.exchange.restart)
    arguments = parse(Compare, words, "compare", given)
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
        return _run_and_compare(arguments, asked, files, words)
    _refuse_idle_options(arguments, asked)
    folder = comparison_folder(asked.record.run_dir, asked.record.name or "runs")
    return _report(folder, runs, arguments.allow_mismatch, shlex.join(["python", "run_peers.py", "compare", *words]))


def _runs_and_files(what: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run directories, including those inside comparisons; and topology files."""
    runs: list[Path] = []
    for path in what:
        if path.is_dir():
            runs += [path] if os.path.lexists(path / CONFIG_FILE) else runs_in(path)
    return runs, [path for path in what if not path.is_dir()]


def _run_and_compare(arguments: Compare, asked: RunConfig, files: Sequence[Path], words: list[str]) -> int:
    from p2pfl.experiment.compare import CompareOptions, check_plan, describe_plan, plan_runs, run_all

    topologies = tuple(load_topology(path) for path in files)
    for topology in topologies:
        print_notes(topology)
    wanted = CompareOptions(
        topologies=topologies,
        num_selected=_selected(arguments, topologies[0].n),
        sgd=arguments.sgd,
        local=arguments.local,
        seeds=_seeds(arguments, words),
    )
    _refuse_server_options(arguments, asked)
    planned = plan_runs(asked, wanted)
    folder = comparison_folder(asked.record.run_dir, asked.record.name or "-".join(t.name for t in topologies))
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(f"--run-dir {folder}: is the directory of a single run; choose another folder")
    if arguments.dry_run:
        notes = check_plan(folder, planned, show_decoding)
        print("\n".join([describe_plan(planned), *(f"note: {note}" for note in notes)]))
        return 0
    command = ["compare", *words, *(() if asked.record.run_dir else ("--run-dir", str(folder)))]
    print(describe_plan(planned))
    repeat = shlex.join(["python", "run_peers.py", "compare", *_without(words, "--run-dir", "--run_dir")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run-dir {unwritable(folder, error)}") from None
    with explained(folder), locked(folder):
        try:
            made = run_all(folder, planned, _print_line, show_decoding, again=shlex.join(["p2pfl", *command]))
            # They were planned to match; the report shows where a lost client has changed that.
            return _report(folder, made, True, repeat)
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty


def _refuse_server_options(arguments: Compare, asked: RunConfig) -> None:
    defaults = vars(ServerConfig())
    changed = [name for name, value in vars(asked.server).items() if value != defaults[name]]
    if changed and not arguments.centralized:
        raise ConfigError(f"--{changed[0].replace('_', '-')}: has no effect without --centralized; add that option")


def _without(words: Sequence[str], *options: str) -> list[str]:
    """Command without an option and its value: a repeated one gets a new folder."""
    kept = [word for word in words if not word.startswith(tuple(f"{option}=" for option in options))]
    for option in options:
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return kept


def _print_line(text: str) -> None:
    print(text, flush=True)


def _report(folder: Path, run_dirs: Sequence[Path], allow_mismatch: bool, command: str) -> int:
    from rich.console import Console

    from p2pfl.report.compare import terminal_table, write_comparison

    comparison = write_comparison(folder, run_dirs, allow_mismatch=allow_mismatch, command=command)
    console = Console(highlight=False, markup=False)
    console.print()
    console.print(terminal_table(comparison, console.width))
    return 0


def _selected(arguments: Compare, peers: int) -> tuple[int, ...]:
    if arguments.num_selected is None:
        return (peers,) if arguments.centralized else ()
    if not arguments.centralized:
        raise ConfigError(
            f"--num-selected {arguments.num_selected}: has no effect without --centralized; add that option"
        )
    return _numbers("--num-selected", arguments.num_selected)


def _seeds(arguments: Compare, words: Sequence[str]) -> tuple[int, ...]:
    if arguments.seeds is None:
        return (arguments.record.seed,)
    if any(word.partition("=")[0] == "--seed" for word in words):
        raise ConfigError(f"--seeds {arguments.seeds}: --seed is given too; choose one")
    return _numbers("--seeds", arguments.seeds)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ConfigError(f"{option} {text}: must be whole numbers separated by commas, such as 0,1,2")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{option} {text}: names a number twice")
    return numbers


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


def _refuse_idle_options(arguments: Compare, asked: RunConfig) -> None:
    """Refuse options of training where existing runs are compared."""
    if not arguments.what:
        raise ConfigError("compare: name topology files to run, or directories of finished runs")
    flags = [name for name in ("centralized", "sgd", "local", "dry_run") if getattr(arguments, name)]
    flags += [name for name in ("num_selected", "seeds", "config") if getattr(arguments, name) is not None]
    plain = RunConfig()
    for section in _SECTIONS:
        now, default = vars(getattr(asked, section)), vars(getattr(plain, section))
        flags += [name for name in now if now[name] != default[name] and name not in _REPORT_OPTIONS]
    if flags:
        option = "--" + flags[0].replace("_", "-")
        raise ConfigError(f"{option}: has no effect where existing runs are compared; omit it")
