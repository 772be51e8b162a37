"""`compare`: matched runs of several topologies and modes, or runs that are there already, in one report."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse, say_notes
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
from p2pfl.run.directory import comparison_folder, in_use, runs_in
from p2pfl.run.paths import CONFIG_FILE
from p2pfl.topology import load_topology

_SECTIONS = ("model", "data", "training", "gossip", "server", "robust", "exchange", "compute", "record")
_OF_THE_REPORT = frozenset({"run_dir", "name"})  # the options that mean something where nothing is run


@dataclass(frozen=True)
class Compare:
    """Run several topologies and modes under the same conditions, one after the other, and compare them.

    Matched: the same initial weights, shards, batch size, schedule and seeds, and the same number of samples processed
    by the whole system. Plain SGD takes n times the steps, FedAvg with 3 of 8 clients 8/3 of the rounds. Rounds and
    local epochs or steps are those of the gossip runs.

    With run directories instead of topology files nothing is run: they are compared as they are.
    """

    what: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TOPOLOGY_FILE|RUN_DIR...", help_behavior_hint="(optional where --config names one)"),
    ] = ()
    """Topology files to run, or directories of finished runs."""
    centralized: bool = False
    """Also FedAvg with as many clients as the topologies have peers."""
    num_selected: Annotated[str | None, tyro.conf.arg(metavar="M[,M...]", help_behavior_hint="(default: all)")] = None
    """Clients that the coordinator draws for each round; 8,3 makes two runs."""
    sgd: bool = False
    """Also plain SGD on all data, in one process."""
    local: bool = False
    """Also the same peers without any exchange."""
    seeds: Annotated[str | None, tyro.conf.arg(metavar="S[,S...]", help_behavior_hint="(default: that of --seed)")] = (
        None
    )
    """Seeds: each run is repeated with every one, and the report gives mean and standard deviation."""
    restart: Restart = 0
    """How many times a process of the gossip and centralized runs that dies is started again."""
    allow_mismatch: bool = False
    """Compare runs that do not match all the same, and mark them."""
    config: OptionalFile = None
    """TOML file with the settings of the gossip runs; what stands on the command line wins."""
    dry_run: bool = False
    """Say which runs there will be and what is odd about the data, try the model out, and stop. The pictures of an
    imagefolder are decoded for it, as for the runs."""
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
    """Run what is to be compared, unless it is there, and write and print the comparison."""
    base = base_config(words, None)
    given = Compare(**{name: getattr(base, name) for name in _SECTIONS}, restart=base.exchange.restart)
    arguments = parse(Compare, words, "compare", given)
    asked = RunConfig(**{name: getattr(arguments, name) for name in _SECTIONS})
    asked = replace_options(asked, restart=arguments.restart)
    what = arguments.what or ((Path(base.topology),) if base.topology else ())
    _refuse_foreign_base(base, arguments)
    there, files = _told_apart(what)
    if files and there:
        raise ConfigError(
            f"compare: {there[0]} is a run and {files[0]} a topology file; run the topologies first, "
            "then compare the run directories"
        )
    if files:
        return _run_and_compare(arguments, asked, files, words)
    _refuse_idle_options(arguments, asked)
    folder = comparison_folder(asked.record.run_dir, asked.record.name or "runs")
    return _report(folder, there, arguments.allow_mismatch, shlex.join(["python", "run_peers.py", "compare", *words]))


def _told_apart(what: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Run directories, those in folders of comparisons among them; and topology files."""
    there: list[Path] = []
    for path in what:
        if path.is_dir():
            there += [path] if os.path.lexists(path / CONFIG_FILE) else runs_in(path)
    return there, [path for path in what if not path.is_dir()]


def _run_and_compare(arguments: Compare, asked: RunConfig, files: Sequence[Path], words: list[str]) -> int:
    from p2pfl.experiment.compare import Wanted, check_plan, describe_plan, plan_runs, run_all

    topologies = tuple(load_topology(path) for path in files)
    for topology in topologies:
        say_notes(topology)
    wanted = Wanted(
        topologies=topologies,
        num_selected=_selected(arguments, topologies[0].n),
        sgd=arguments.sgd,
        local=arguments.local,
        seeds=_seeds(arguments, words),
    )
    if not arguments.centralized and asked.server != ServerConfig():
        changed = next(name for name, value in vars(asked.server).items() if value != vars(ServerConfig())[name])
        raise ConfigError(f"--{changed.replace('_', '-')}: means nothing without --centralized")
    planned = plan_runs(asked, wanted)
    folder = comparison_folder(asked.record.run_dir, asked.record.name or "-".join(t.name for t in topologies))
    if (folder / CONFIG_FILE).exists():
        raise ConfigError(f"--run-dir {folder}: holds a single run; choose another folder")
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
    with explained(folder), in_use(folder):
        try:
            made = run_all(folder, planned, _say, show_decoding, again=shlex.join(["p2pfl", *command]))
            # They were planned to match; where a lost client has changed that, the report says so.
            return _report(folder, made, True, repeat)
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing came to be in it


def _without(words: Sequence[str], *options: str) -> list[str]:
    """The words of a command without an option and its value: repeated, it gets a folder of its own."""
    kept = [word for word in words if not word.startswith(tuple(f"{option}=" for option in options))]
    for option in options:
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return kept


def _say(text: str) -> None:
    print(text, flush=True)


def _report(folder: Path, run_dirs: Sequence[Path], allow_mismatch: bool, command: str) -> int:
    from rich.console import Console

    from p2pfl.report.comparison import terminal_table, write_comparison

    comparison = write_comparison(folder, run_dirs, allow_mismatch=allow_mismatch, command=command)
    console = Console(highlight=False, markup=False)
    console.print()
    console.print(terminal_table(comparison, console.width))
    return 0


def _selected(arguments: Compare, peers: int) -> tuple[int, ...]:
    if arguments.num_selected is None:
        return (peers,) if arguments.centralized else ()
    if not arguments.centralized:
        raise ConfigError(f"--num-selected {arguments.num_selected}: means nothing without --centralized")
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
        raise ConfigError(f"{option} {text}: must be whole numbers with commas between, such as 0,1,2")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{option} {text}: names a number twice")
    return numbers


def _refuse_foreign_base(base: RunConfig, arguments: Compare) -> None:
    """Settings in a file that a comparison would not heed."""
    if base.mode != "gossip":
        raise ConfigError(f"{arguments.config}: holds settings of p2pfl {base.mode}; compare starts from gossip's")
    if base.centralized != CentralizedConfig():
        raise ConfigError(
            f"{arguments.config}: num_clients, num_selected: the clients are the topology's peers, and "
            "--num-selected M,M says on the command line how many of them train in a round"
        )


def _refuse_idle_options(arguments: Compare, asked: RunConfig) -> None:
    """Where the runs are there already, options of training would do nothing."""
    if not arguments.what:
        raise ConfigError("compare: name topology files to run, or directories of finished runs")
    flags = [name for name in ("centralized", "sgd", "local", "dry_run") if getattr(arguments, name)]
    flags += [name for name in ("num_selected", "seeds", "config") if getattr(arguments, name) is not None]
    plain = RunConfig()
    for section in _SECTIONS:
        now, default = vars(getattr(asked, section)), vars(getattr(plain, section))
        flags += [name for name in now if now[name] != default[name] and name not in _OF_THE_REPORT]
    if flags:
        option = "--" + flags[0].replace("_", "-")
        raise ConfigError(f"{option}: means nothing where runs are compared that are there already; leave it out")
