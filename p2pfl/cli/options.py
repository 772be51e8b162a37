"""Options of a training command, from the command line and --config or --resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from p2pfl import config as settings
from p2pfl.cli.arguments import parse, print_notes
from p2pfl.config import ComputeConfig, DataConfig, Mode, ModelConfig, RecordConfig, RunConfig, TrainingConfig
from p2pfl.errors import ConfigError
from p2pfl.experiment.resume import has_other_rounds
from p2pfl.faults import load_faults
from p2pfl.modes import topology_of
from p2pfl.run.directory import open_run_dir, with_kept_files
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
    """Options of every training command."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    config: OptionalFile = None
    """TOML file with any of these options; options on the command line take precedence."""
    resume: OptionalFolder = None
    """Run directory of an interrupted run, to be continued with its saved settings; with more --rounds also of a
    finished run whose --schedule is constant. If its data have moved, --dataset gives their new path."""
    dry_run: bool = False
    """Report the run's requirements (memory per process, bytes, rounds) and anomalies in the data, try its model,
    and stop. This decodes the pictures of an imagefolder, as the run does."""


# Options of the exchange that only some commands have.
_SPECIAL_OPTIONS = ("token_file", "rendezvous", "rendezvous_key", "rendezvous_run", "restart")

A = TypeVar("A", bound=Training)


@dataclass(frozen=True)
class Resolved(Generic[A]):
    """Parsed arguments, with the settings and topology that they and their files give."""

    arguments: A
    config: RunConfig
    topology: Topology


def resolve_options(kind: type[A], words: Sequence[str], command: str, mode: Mode) -> Resolved[A]:
    """Resolve the command line of a training command. Raises ConfigError."""
    base = base_config(words, mode)
    base_values = {"topology": base.topology, **{name: getattr(base.exchange, name) for name in _SPECIAL_OPTIONS}}
    defaults: dict[str, Any] = {
        item.name: base_values[item.name] for item in dataclasses.fields(kind) if item.name in base_values
    }
    taken = {item.name for item in dataclasses.fields(kind)}
    given = {name: section for name, section in sections(base).items() if name in taken}
    arguments = parse(kind, words, command, kind(**given, **defaults))
    chosen = {**sections(base), **{name: getattr(arguments, name) for name in given}}
    config = RunConfig(topology=getattr(arguments, "topology", None), mode=mode, **chosen)
    own = {name: vars(arguments)[name] for name in _SPECIAL_OPTIONS if name in defaults}
    config = settings.replace_options(config, **own)
    config = _with_aliases(config, arguments, words)
    if arguments.resume is not None:
        return Resolved(arguments, config, _resumed(arguments.resume, base, config))
    topology = topology_of(config)
    if topology is None and config.topology is None:
        raise ConfigError(f"{command}: name a topology file, for example topologies/ring-4.graphml")
    if topology is None:
        topology = load_topology(str(config.topology))
        print_notes(topology)
    return Resolved(arguments, config, topology)


def base_config(words: Sequence[str], mode: Mode | None, lists: dict[str, tuple[str, ...]] | None = None) -> RunConfig:
    """Settings below the command line: those of --resume or --config, or the defaults.

    `lists`: as of `load_toml`.
    """
    resume, config = _value(words, "--resume"), _value(words, "--config")
    if resume is not None:
        if config is not None:
            raise ConfigError("--resume takes its settings from the run directory; omit --config")
        saved = open_run_dir(Path(resume))[1]
        if saved.mode != mode:
            raise ConfigError(
                f"--resume {resume}: a {saved.mode} run; resume it with: p2pfl {saved.mode} --resume {resume}"
            )
        return _without_other_launcher(saved, words)
    if config is None:
        return RunConfig() if mode is None else RunConfig(mode=mode)
    return _without_other_launcher(_without_overridden(settings.load_toml(config, mode, lists), words), words)


def sections(base: RunConfig) -> dict[str, Any]:
    """Sections of settings that apply to their mode."""
    return {name: getattr(base, name) for name in settings.MODE_SECTIONS[base.mode]}


def _without_overridden(base: RunConfig, words: Sequence[str]) -> RunConfig:
    """Settings without local_epochs where --local-steps overrides it, and vice versa."""
    names = {"local_steps": {"local_steps"}, "local_epochs": {"local_epochs"}}
    for alias, option in settings.ALIASES.get(base.mode, {}).items():
        names.get(option, set()).add(alias)
    for option, other in (("local_steps", "local_epochs"), ("local_epochs", "local_steps")):
        if any(_given(words, name) for name in names[option]) and getattr(base.training, other) is not None:
            base = settings.replace_options(base, **{other: None})
    return base


def _without_other_launcher(base: RunConfig, words: Sequence[str]) -> RunConfig:
    """Settings without their launcher's options where the line names another."""
    launcher = _value(words, "--launcher")
    if launcher is None or launcher == base.launch.launcher:
        return base
    return dataclasses.replace(base, launch=settings.LaunchConfig())


def _with_aliases(config: RunConfig, arguments: Training, words: Sequence[str]) -> RunConfig:
    """Settings with options given by the names of the mode's literature."""
    for alias, option in settings.ALIASES.get(config.mode, {}).items():
        value = getattr(arguments, alias)
        if value is None:
            continue
        spelled = f"--{alias.replace('_', '-')} {value}"
        if _given(words, option):
            raise ConfigError(
                f"{spelled}: another name of --{option.replace('_', '-')}, which is given too; choose one"
            )
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
        if name == "partition" and None not in (asked.data.partition_file, saved.data.partition_file):
            with_kept_files(asked, run_dir)  # refuses another content
            continue
        if name == "init" and None not in (value, before[name]):
            with_kept_files(asked, run_dir)  # refuses other weights
            continue
        if name == "dataset" and saved.data.kind == asked.data.kind:
            continue  # it may have moved: its content is compared once it is known
        if name == "rounds":
            has_other_rounds(run_dir, asked)  # refuses impossible numbers of rounds
            continue
        if value != before[name] and name not in settings.RESUME_OVERRIDES:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {value}: {run_dir} was started with {before[name]}; omit the option to keep that"
            )
    if asked.topology not in (None, saved.topology):
        other = load_topology(str(asked.topology))
        same = other.names == topology.names and _edges(other) == _edges(topology)
        if not same:
            raise ConfigError(f"{asked.topology}: not the topology that {run_dir} was started with")
    return topology


def _edges(topology: Topology) -> list[set[tuple[int, int, object]]]:
    return [set(one.graph.edges.data("weight")) for one in topology.by_round]
