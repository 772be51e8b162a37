"""The options of a command that trains: those on the command line, over those of --config or --resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from p2pfl import config as settings
from p2pfl.cli.arguments import parse, say_notes
from p2pfl.config import ComputeConfig, DataConfig, Mode, ModelConfig, RecordConfig, RunConfig, TrainingConfig
from p2pfl.errors import ConfigError
from p2pfl.experiment.resume import has_other_rounds
from p2pfl.faults import load_faults
from p2pfl.roles import topology_of
from p2pfl.run.directory import open_run_dir, with_own_files
from p2pfl.topology import Topology, load_topology

OptionalFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
OptionalFolder = Annotated[Path | None, tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="(optional)")]
Restart = Annotated[int, tyro.conf.arg(metavar="INT")]
TopologyFile = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="TOPOLOGY_FILE", help_behavior_hint="(optional where --config or --resume names it)"),
]


@dataclass(frozen=True)
class Training:
    """What every command that trains takes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    config: OptionalFile = None
    """TOML file with any of these options; what stands on the command line wins."""
    resume: OptionalFolder = None
    """Run directory of an interrupted run, to go on with the settings saved there; with more --rounds also of one
    that is finished, if its --schedule is constant. Where its data have moved, --dataset says where they are."""
    dry_run: bool = False
    """Say what the run will need (memory a process, bytes, rounds) and what is odd about the data, try its model out,
    and stop. The pictures of an imagefolder are decoded for it, as for the run."""


# Options of the exchange that not every command takes that has one.
_OF_SOME_COMMANDS = ("token_file", "restart")

A = TypeVar("A", bound=Training)


@dataclass(frozen=True)
class Settled(Generic[A]):
    """The arguments, and the settings and the topology that they and the files they name come to."""

    arguments: A
    config: RunConfig
    topology: Topology


def settle(kind: type[A], words: Sequence[str], command: str, mode: Mode) -> Settled[A]:
    """Read the command line of a command that trains. Raises ConfigError with one line."""
    base = base_config(words, mode)
    asked_for = {"topology": base.topology, **{name: getattr(base.exchange, name) for name in _OF_SOME_COMMANDS}}
    named: dict[str, Any] = {
        item.name: asked_for[item.name] for item in dataclasses.fields(kind) if item.name in asked_for
    }
    arguments = parse(kind, words, command, kind(**sections(base), **named))
    config = RunConfig(topology=getattr(arguments, "topology", None), mode=mode, **sections_of(arguments, mode))
    own = {name: vars(arguments)[name] for name in _OF_SOME_COMMANDS if name in named}
    config = settings.replace_options(config, **own)
    config = _with_aliases(config, arguments, words)
    if arguments.resume is not None:
        return Settled(arguments, config, _resumed(arguments.resume, base, config))
    topology = topology_of(config)
    if topology is None and config.topology is None:
        raise ConfigError(f"{command}: name a topology file, for example topologies/ring-4.graphml")
    if topology is None:
        topology = load_topology(str(config.topology))
        say_notes(topology)
    return Settled(arguments, config, topology)


def base_config(words: Sequence[str], mode: Mode | None) -> RunConfig:
    """The settings that options on the command line change: those of --resume or --config, or the defaults."""
    resume, config = _value(words, "--resume"), _value(words, "--config")
    if resume is not None:
        if config is not None:
            raise ConfigError("--resume takes its settings from the run directory: leave --config out")
        saved = open_run_dir(Path(resume))[1]
        if saved.mode != mode:
            raise ConfigError(
                f"--resume {resume}: a {saved.mode} run; go on with: p2pfl {saved.mode} --resume {resume}"
            )
        return saved
    if config is None:
        return RunConfig() if mode is None else RunConfig(mode=mode)
    return _give_way(settings.load_toml(config, mode), words)


def sections(base: RunConfig) -> dict[str, Any]:
    """The sections of settings that mean something in their mode."""
    return {name: getattr(base, name) for name in settings.MODE_SECTIONS[base.mode]}


def sections_of(arguments: object, mode: Mode) -> dict[str, Any]:
    """The same from parsed arguments."""
    return {name: getattr(arguments, name) for name in settings.MODE_SECTIONS[mode]}


def _give_way(base: RunConfig, words: Sequence[str]) -> RunConfig:
    """--local-steps on the command line wins over local_epochs in the file, and the other way round."""
    names = {"local_steps": {"local_steps"}, "local_epochs": {"local_epochs"}}
    for alias, option in settings.ALIASES.get(base.mode, {}).items():
        names.get(option, set()).add(alias)
    for option, other in (("local_steps", "local_epochs"), ("local_epochs", "local_steps")):
        if any(_given(words, name) for name in names[option]) and getattr(base.training, other) is not None:
            base = settings.replace_options(base, **{other: None})
    return base


def _with_aliases(config: RunConfig, arguments: Training, words: Sequence[str]) -> RunConfig:
    """Options that were given by the name under which the mode's own literature knows them."""
    for alias, option in settings.ALIASES.get(config.mode, {}).items():
        value = getattr(arguments, alias)
        if value is None:
            continue
        spelled = f"--{alias.replace('_', '-')} {value}"
        if _given(words, option):
            raise ConfigError(f"{spelled}: the same as --{option.replace('_', '-')}, which is given too; choose one")
        if value < 1:
            raise ConfigError(f"{spelled}: must be greater than 0")
        config = settings.replace_options(config, **{option: value})
    return config


def _given(words: Sequence[str], option: str) -> bool:
    return any(_value(words, f"--{spelled}") is not None for spelled in (option, option.replace("_", "-")))


def _value(words: Sequence[str], option: str) -> str | None:
    for word, following in zip_longest(words, words[1:]):
        if word == option:
            return following
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


def _resumed(run_dir: Path, saved: RunConfig, asked: RunConfig) -> Topology:
    topology, _ = open_run_dir(run_dir)
    before, now = settings.options(saved), settings.options(asked)
    for name, value in now.items():
        if name == "faults" and None not in (value, before[name]):
            contents = [load_faults(path, saved.record.seed).text() for path in (value, before[name])]
            if contents[0] == contents[1]:
                continue
        if name == "init" and None not in (value, before[name]):
            with_own_files(asked, run_dir)  # which refuses other weights
            continue
        if name == "dataset" and saved.data.kind == asked.data.kind:
            continue  # it may lie elsewhere by now: its content counts, which is compared once it is known
        if name == "rounds":
            has_other_rounds(run_dir, asked)  # which refuses what the run cannot have
            continue
        if value != before[name] and name not in settings.RESUME_OVERRIDES:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {value}: {run_dir} was started with {before[name]}; leave it out to go on with that"
            )
    if asked.topology not in (None, saved.topology):
        other = load_topology(str(asked.topology))
        same = other.names == topology.names and _edges(other) == _edges(topology)
        if not same:
            raise ConfigError(f"{asked.topology}: not the topology that {run_dir} was started with")
    return topology


def _edges(topology: Topology) -> set[tuple[int, int, object]]:
    return set(topology.graph.edges.data("weight"))
