"""`gossip` and `peer`: the commands that train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from p2pfl import config as settings
from p2pfl.cli.arguments import parse
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


@dataclass(frozen=True)
class _Run:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    record: RecordConfig = field(default_factory=RecordConfig)


def gossip(words: list[str]) -> int:
    """A swarm on this machine, one process a peer."""

    @dataclass(frozen=True)
    class Gossip(_Run):
        """Train one model over a topology: one process a peer, ZeroMQ between neighbors, no server."""

        topology: tyro.conf.Positional[str | None] = None
        """Topology file: .graphml .gml .gexf .json .edgelist or .adjlist."""
        config: Path | None = None
        """TOML file with any of these options; what stands on the command line wins."""
        resume: Path | None = None
        """Run directory of an interrupted run to go on with, with the settings saved there."""
        dry_run: bool = False
        """Say what the run will need (memory a peer, bytes, rounds) and stop."""

    base = _base(words)
    arguments = parse(Gossip, words, "gossip", Gossip(**_sections(base), topology=base.topology))
    run = RunConfig(topology=arguments.topology, **_sections(arguments))
    from p2pfl import swarm
    from p2pfl.topology import load_topology

    if arguments.resume is not None:
        topology = _resumed(arguments.resume, base, run)
    elif run.topology is None:
        raise ConfigError("gossip: name a topology file, for example topologies/ring-4.graphml")
    else:
        topology = load_topology(run.topology)
    if arguments.dry_run:
        print(_describe_run(topology, run))
        return 0
    result = swarm.run_swarm(topology, run, resume=arguments.resume)
    print(_outcome(result))
    return 0


def peer(words: list[str]) -> int:
    """One peer of a swarm that is spread over machines."""

    @dataclass(frozen=True)
    class PeerArguments(_Run):
        """Run one peer; start the others with the same file and options on their own machines, in any order."""

        topology: tyro.conf.Positional[str]
        """Topology file with a host and a port on every node, the same file on every machine."""
        node: str = ""
        """Label of the node to run here."""
        config: Path | None = None
        """TOML file with any of these options; what stands on the command line wins."""

    base = _base(words)
    arguments = parse(PeerArguments, words, "peer", PeerArguments(topology=tyro.MISSING, **_sections(base)))
    run = RunConfig(topology=arguments.topology, **_sections(arguments))
    from p2pfl.solo import run_peer
    from p2pfl.topology import load_topology

    if arguments.node == "":
        raise ConfigError("peer: say which node of the topology to run here: --node LABEL")
    topology = load_topology(arguments.topology)
    return run_peer(topology, topology.index(arguments.node), run)


def _base(words: Sequence[str]) -> RunConfig:
    """The settings that options on the command line change: those of --resume or --config, or the defaults."""
    resume, config = _value(words, "--resume"), _value(words, "--config")
    if resume is not None:
        if config is not None:
            raise ConfigError("--resume takes its settings from the run directory: leave --config out")
        from p2pfl.swarm import open_run_dir

        return open_run_dir(Path(resume))[1]
    return RunConfig() if config is None else settings.load_toml(config)


def _value(words: Sequence[str], option: str) -> str | None:
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == option:
            return following
        if word.startswith(option + "="):
            return word.partition("=")[2]
    return None


def _sections(source: object) -> dict[str, Any]:
    return {name: getattr(source, name) for name in settings.SECTIONS}


def _resumed(run_dir: Path, saved: RunConfig, asked: RunConfig) -> Any:
    from p2pfl.swarm import open_run_dir

    topology, _ = open_run_dir(run_dir)
    before, now = settings.options(saved), settings.options(asked)
    for name, value in now.items():
        if value != before[name] and name not in settings.FREE_ON_RESUME:
            option = "--" + name.replace("_", "-")
            raise ConfigError(
                f"{option} {value}: {run_dir} was started with {before[name]}; leave it out to go on with that"
            )
    if asked.topology not in (None, saved.topology):
        from p2pfl.topology import load_topology

        other = load_topology(str(asked.topology))
        same = other.names == topology.names and set(other.graph.edges) == set(topology.graph.edges)
        if not same:
            raise ConfigError(f"{asked.topology}: not the topology that {run_dir} was started with")
    return topology


def _describe_run(topology: Any, run: RunConfig) -> str:
    from p2pfl import topology as topologies
    from p2pfl.estimate import estimate
    from p2pfl.swarm import endpoints_in_file

    matrix = topologies.mixing_matrix(topology, run.exchange.mixing)
    endpoints_in_file(topology, run)
    need = estimate(topology, matrix, run)
    memory = need.weights_memory + need.activations_memory + need.exchange_memory
    rows = {
        "topology": f"{topology.name}: {topology.n} peers, spectral gap {topologies.spectral_gap(matrix):.4f}",
        "data": f"{run.data.dataset}: {need.train_samples:,} training and {need.test_samples:,} test samples, "
        f"{need.classes} classes; {need.smallest_shard:,} a peer",
        "model": f"{run.model.model}: {need.parameters:,} parameters",
        "training": f"{need.rounds} rounds of {need.steps_per_round} steps of {run.training.batch_size} samples a peer",
        "memory a peer": f"{_mb(memory)} beyond libraries and data: weights, gradient and momentum "
        f"{_mb(need.weights_memory)}, activations {_mb(need.activations_memory)}, exchange {_mb(need.exchange_memory)}",
        "bytes sent": f"{_mb(need.bytes_per_round)} a round by all peers, {_mb(need.busiest_bytes_per_round)} by the "
        f"busiest; {_mb(need.bytes_per_round * need.rounds)} in all rounds",
        "consensus": f"{need.consensus_rounds} more rounds of mixing only, {_mb(need.consensus_bytes)}",
    }
    return "\n".join(f"{name + ':':<15} {text}" for name, text in rows.items())


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _outcome(result: Any) -> str:
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
