"""`gossip` and `peer`: the commands that train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from p2pfl import config as settings
from p2pfl import topology as topologies
from p2pfl.cli.arguments import counted, parse
from p2pfl.config import (
    ComputeConfig,
    DataConfig,
    ExchangeConfig,
    ModelConfig,
    RecordConfig,
    RunConfig,
    TrainingConfig,
)
from p2pfl.errors import ConfigError
from p2pfl.rundir import open_run_dir
from p2pfl.swarm import Result, endpoints_in_file
from p2pfl.topology import Topology, load_topology


@dataclass(frozen=True)
class _Run:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    record: RecordConfig = field(default_factory=RecordConfig)


_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(optional)")]
_Folder = Annotated[Path | None, tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="(optional)")]
_Topology = Annotated[
    str | None,
    tyro.conf.Positional,
    tyro.conf.arg(metavar="TOPOLOGY_FILE", help_behavior_hint="(optional where --config or --resume names it)"),
]


@dataclass(frozen=True)
class Gossip(_Run):
    """Train one model over a topology: one process a peer, ZeroMQ between neighbors, no server."""

    topology: _Topology = None
    """Topology file: .graphml .gml .gexf .json .edgelist or .adjlist."""
    config: _File = None
    """TOML file with any of these options; what stands on the command line wins."""
    resume: _Folder = None
    """Run directory of an interrupted run, to go on with the settings saved there."""
    dry_run: bool = False
    """Say what the run will need (memory a peer, bytes, rounds) and stop."""


@dataclass(frozen=True)
class OnePeer(_Run):
    """Run one peer. Start the others with the same file and options, on their own machines, in any order.

    The first node of the file evaluates and saves the consensus model.
    """

    topology: _Topology = None
    """Topology file with a host and a port on every node; the same on every machine."""
    node: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="(required)")] = None
    """Label of the node to run here."""
    config: _File = None
    """TOML file with any of these options; what stands on the command line wins."""
    resume: _Folder = None
    """Run directory of this peer's interrupted run, to go on with the settings saved there."""
    dry_run: bool = False
    """Say what the run will need (memory a peer, bytes, rounds) and stop."""


C = TypeVar("C", Gossip, OnePeer)


def gossip(words: list[str]) -> int:
    """A swarm on this machine, one process a peer."""
    arguments, run, topology = _settle(Gossip, words, "gossip")
    if arguments.dry_run:
        print(_describe_run(topology, run))
        return 0
    from p2pfl.swarm import run_swarm

    print(_outcome(run_swarm(topology, run, resume=arguments.resume)))
    return 0


def peer(words: list[str]) -> int:
    """One peer of a swarm that is spread over machines."""
    arguments, run, topology = _settle(OnePeer, words, "peer")
    if arguments.node is None:
        raise ConfigError(f"peer: say which node to run here: --node {topology.names[0]}, for example")
    index = topology.index(arguments.node)
    if endpoints_in_file(topology, run) is None:
        raise ConfigError(f"{topology.source}: every node needs a host and a port (and --transport must not be ipc)")
    if arguments.dry_run:
        print(_describe_run(topology, run))
        return 0
    from p2pfl.solo import run_peer

    run_peer(topology, index, run, resume=arguments.resume)
    return 0


def _settle(kind: type[C], words: list[str], command: str) -> tuple[C, RunConfig, Topology]:
    """The arguments, and the settings and topology that they and the files they name come to."""
    base = _base(words)
    arguments = parse(kind, words, command, kind(**_sections(base), topology=base.topology))
    run = RunConfig(topology=arguments.topology, **_sections(arguments))
    if arguments.resume is not None:
        return arguments, run, _resumed(arguments.resume, base, run)
    if run.topology is None:
        raise ConfigError(f"{command}: name a topology file, for example topologies/ring-4.graphml")
    return arguments, run, load_topology(run.topology)


def _base(words: Sequence[str]) -> RunConfig:
    """The settings that options on the command line change: those of --resume or --config, or the defaults."""
    resume, config = _value(words, "--resume"), _value(words, "--config")
    if resume is not None:
        if config is not None:
            raise ConfigError("--resume takes its settings from the run directory: leave --config out")
        return open_run_dir(Path(resume))[1]
    return RunConfig() if config is None else _give_way(settings.load_toml(config), words)


def _give_way(base: RunConfig, words: Sequence[str]) -> RunConfig:
    """--local-steps on the command line wins over local_epochs in the file, and the other way round."""
    for option, other in (("local_steps", "local_epochs"), ("local_epochs", "local_steps")):
        given = any(_value(words, f"--{spelled}") is not None for spelled in (option, option.replace("_", "-")))
        if given and getattr(base.training, other) is not None:
            base = settings.replace_options(base, **{other: None})
    return base


def _value(words: Sequence[str], option: str) -> str | None:
    for word, following in zip_longest(words, words[1:]):
        if word == option:
            return following
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


def _sections(source: object) -> dict[str, Any]:
    return {name: getattr(source, name) for name in settings.SECTIONS}


def _resumed(run_dir: Path, saved: RunConfig, asked: RunConfig) -> Topology:
    topology, _ = open_run_dir(run_dir)
    before, now = settings.options(saved), settings.options(asked)
    for name, value in now.items():
        if value != before[name] and name not in settings.FREE_ON_RESUME:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {value}: {run_dir} was started with {before[name]}; leave it out to go on with that"
            )
    if asked.topology not in (None, saved.topology):
        other = load_topology(str(asked.topology))
        same = other.names == topology.names and set(other.graph.edges) == set(topology.graph.edges)
        if not same:
            raise ConfigError(f"{asked.topology}: not the topology that {run_dir} was started with")
    return topology


def _describe_run(topology: Topology, run: RunConfig) -> str:
    from p2pfl.estimate import estimate

    matrix = topologies.mixing_matrix(topology, run.gossip.mixing)
    endpoints_in_file(topology, run)
    need = estimate(topology, matrix, run)
    memory = need.weights_memory + need.activations_memory + need.exchange_memory
    rows = {
        "topology": f"{topology.name}: {topology.n} peers, spectral gap {topologies.spectral_gap(matrix):.4f}",
        "data": f"{run.data.dataset}: {need.train_samples:,} training and {need.test_samples:,} test samples, "
        f"{need.classes} classes; {need.smallest_shard:,} a peer",
        "model": f"{run.model.model}: {need.parameters:,} parameters",
        "training": f"{counted(need.rounds, 'round')} of {counted(need.steps_per_round, 'step')} "
        f"of {counted(run.training.batch_size, 'sample')} a peer",
        "memory a peer": f"{_mb(memory)} beyond libraries and data: weights, gradient and momentum "
        f"{_mb(need.weights_memory)}, activations {_mb(need.activations_memory)}, exchange {_mb(need.exchange_memory)}",
        "bytes sent": f"{_mb(need.bytes_per_round)} a round by all peers, {_mb(need.busiest_bytes_per_round)} by the "
        f"busiest; {_mb(need.bytes_per_round * need.rounds)} in all rounds",
        "consensus": f"{counted(need.consensus_rounds, 'more round')} of mixing only, {_mb(need.consensus_bytes)}",
    }
    return "\n".join(f"{name + ':':<15} {text}" for name, text in rows.items())


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _outcome(result: Result) -> str:
    summary = result.summary
    return "\n".join(
        [
            f"consensus model: {summary['consensus_accuracy']:.2%} of the test set "
            f"(peers before the consensus phase: mean {summary['mean_peer_accuracy']:.2%}, "
            f"worst {summary['worst_peer_accuracy']:.2%})",
            f"weights: {result.run_dir / 'consensus.safetensors'}",
            f"report:  {result.run_dir / 'report.html'}",
        ]
    )
