"""Training commands: `gossip`, `centralized`, `sgd`, `local` and `peer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import networkx as nx
import tyro

from p2pfl.cli.describe import describe_result, describe_run
from p2pfl.cli.options import Resolved, Restart, TopologyFile, Training, resolve_options
from p2pfl.config import (
    CentralizedConfig,
    ExchangeConfig,
    GossipConfig,
    LaunchConfig,
    RobustConfig,
    ServerConfig,
    spans_machines,
)
from p2pfl.errors import ConfigError
from p2pfl.experiment.endpoints import endpoints_of_peer
from p2pfl.experiment.run import run
from p2pfl.modes import mode_of
from p2pfl.report import check_drawing
from p2pfl.transport.keyring import check_keys, refuse_token_file


@dataclass(frozen=True)
class Swarm(Training):
    """Options of a swarm over a topology, on one machine or several."""

    topology: TopologyFile = None
    """Topology file: .graphml .gml .gexf .json .edgelist .adjlist .csv .txt .net .dot …"""
    gossip: GossipConfig = field(default_factory=GossipConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)


@dataclass(frozen=True)
class Gossip(Swarm):
    """Train one model over a topology: one process per peer, no server.

    Neighbors communicate over ZeroMQ.
    """

    launch: LaunchConfig = field(default_factory=LaunchConfig)
    restart: Restart = 0
    """Number of times that a dead process is restarted, from its checkpoint or its neighbors' weights."""


@dataclass(frozen=True)
class OnePeer(Swarm):
    """Run one peer of a swarm distributed over machines.

    Start the other peers on their machines with the same file and options, in any order. The first node of the file
    evaluates and saves the consensus model. Every node of the file needs a host and a port.
    """

    node: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="(required)")] = None
    """Label of the node to run."""
    token_file: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """File with a secret shared by all peers, for runs without keys: only its holders can connect."""


_Alias = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(optional)")]


@dataclass(frozen=True)
class Centralized(Training):
    """Train one model with a coordinator and clients (FedAvg).

    In each round some clients train the model, and the coordinator averages their updates.
    """

    num_rounds: _Alias = None
    """Another name of --rounds."""
    epochs: _Alias = None
    """Another name of --local-epochs."""
    centralized: CentralizedConfig = field(default_factory=CentralizedConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    restart: Restart = 0
    """Number of times that a dead process is restarted, from its checkpoint."""


@dataclass(frozen=True)
class Sgd(Training):
    """Train one model in one process on all data, as a baseline.

    A round is a pass over the training set, unless --local-steps is given.
    """

    epochs: _Alias = None
    """Passes over the training set; another name of --rounds."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)


@dataclass(frozen=True)
class Local(Training):
    """Train the peers of a topology without any exchange, each on its own shard."""

    topology: TopologyFile = None
    """Topology file; only its nodes are used."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)


def gossip(words: list[str]) -> int:
    """Run a swarm on this machine, one process per peer."""
    return _train(resolve_options(Gossip, words, "gossip", "gossip"))


def centralized(words: list[str]) -> int:
    """Run a coordinator and its clients on this machine, one process each."""
    return _train(resolve_options(Centralized, words, "centralized", "centralized"))


def sgd(words: list[str]) -> int:
    """Train in one process with all data."""
    return _train(resolve_options(Sgd, words, "sgd", "sgd"))


def local(words: list[str]) -> int:
    """Train peers without any exchange."""
    return _train(resolve_options(Local, words, "local", "local"))


def _train(resolved: Resolved[Gossip] | Resolved[Centralized] | Resolved[Sgd] | Resolved[Local]) -> int:
    if resolved.arguments.dry_run:
        check_drawing()
        refuse_token_file(resolved.config.exchange)
        if mode_of(resolved.config).mixes and not spans_machines(resolved.config):
            exchange, topology = resolved.config.exchange, resolved.topology
            check_keys(topology, exchange.keys, exchange.insecure, range(topology.n))
        print(describe_run(resolved.topology, resolved.config, begins=resolved.arguments.resume is None))
        return 0
    result = run(resolved.config, resolved.topology, resume=resolved.arguments.resume)
    print(describe_result(result))
    return 0


def peer(words: list[str]) -> int:
    """Run one peer of a distributed swarm."""
    resolved = resolve_options(OnePeer, words, "peer", "gossip")
    arguments, topology = resolved.arguments, resolved.topology
    if arguments.node is None:
        raise ConfigError(f"peer: name the node to run, for example --node {topology.names[0]}")
    index = topology.index(arguments.node)
    endpoints_of_peer(topology, index, resolved.config)
    if arguments.dry_run:
        print(describe_run(topology, resolved.config, index=index, begins=arguments.resume is None))
        return 0
    from p2pfl.experiment.single import run_peer
    from p2pfl.node.limits import allow_open_files

    allow_open_files(1, len(set(nx.all_neighbors(topology.graph, index))))
    run_peer(topology, index, resolved.config, resume=arguments.resume)
    return 0
