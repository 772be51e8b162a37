"""`gossip`, `centralized`, `sgd`, `local` and `peer`: the commands that train one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import networkx as nx
import tyro

from p2pfl.cli.describe import describe_result, describe_run
from p2pfl.cli.options import Restart, Settled, TopologyFile, Training, settle
from p2pfl.config import CentralizedConfig, ExchangeConfig, GossipConfig, RobustConfig, ServerConfig
from p2pfl.errors import ConfigError
from p2pfl.experiment.run import endpoints_of_peer, run
from p2pfl.report import check_drawing
from p2pfl.transport.keyring import check_keys, refuse_token_file


@dataclass(frozen=True)
class Swarm(Training):
    """Options of a swarm over a topology, wherever its peers run."""

    topology: TopologyFile = None
    """Topology file: .graphml .gml .gexf .json .edgelist .adjlist .csv .txt .net .dot …"""
    gossip: GossipConfig = field(default_factory=GossipConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)


@dataclass(frozen=True)
class Gossip(Swarm):
    """Train one model over a topology: one process a peer, ZeroMQ between neighbors, no server."""

    restart: Restart = 0
    """How many times the launcher starts a process that dies again, from its checkpoint or a neighbor's weights."""


@dataclass(frozen=True)
class OnePeer(Swarm):
    """Run one peer. Start the others with the same file and options, on their own machines, in any order.

    The first node of the file evaluates and saves the consensus model. The file needs a host and a port on every node.
    """

    node: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="(required)")] = None
    """Label of the node to run here."""
    token_file: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """File with the secret that all peers share where there are no keys: nobody else can connect."""


_Alias = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(optional)")]


@dataclass(frozen=True)
class Centralized(Training):
    """Train one model with a coordinator (FedAvg): each round some clients train it, and it averages their updates."""

    num_rounds: _Alias = None
    """Another name of --rounds."""
    epochs: _Alias = None
    """Another name of --local-epochs."""
    centralized: CentralizedConfig = field(default_factory=CentralizedConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    restart: Restart = 0
    """How many times the launcher starts a process that dies again, from its checkpoint."""


@dataclass(frozen=True)
class Sgd(Training):
    """Train one model in one process on all data: the baseline for everything else.

    A round is a pass over the training set, unless --local-steps says otherwise.
    """

    epochs: _Alias = None
    """Passes over the training set: another name of --rounds."""


@dataclass(frozen=True)
class Local(Training):
    """Train the peers of a topology file without any exchange, each alone on its shard: what an exchange must beat."""

    topology: TopologyFile = None
    """Topology file; only its nodes count."""


def gossip(words: list[str]) -> int:
    """A swarm on this machine, one process a peer."""
    return _train(settle(Gossip, words, "gossip", "gossip"))


def centralized(words: list[str]) -> int:
    """A coordinator and its clients on this machine, one process each."""
    return _train(settle(Centralized, words, "centralized", "centralized"))


def sgd(words: list[str]) -> int:
    """One process with all data."""
    return _train(settle(Sgd, words, "sgd", "sgd"))


def local(words: list[str]) -> int:
    """Peers that never exchange anything."""
    return _train(settle(Local, words, "local", "local"))


def _train(settled: Settled[Gossip] | Settled[Centralized] | Settled[Sgd] | Settled[Local]) -> int:
    if settled.arguments.dry_run:
        check_drawing()
        refuse_token_file(settled.config.exchange)
        if settled.config.mode == "gossip":
            exchange, topology = settled.config.exchange, settled.topology
            check_keys(topology, exchange.keys, exchange.insecure, range(topology.n))
        print(describe_run(settled.topology, settled.config, begins=settled.arguments.resume is None))
        return 0
    result = run(settled.config, settled.topology, resume=settled.arguments.resume)
    print(describe_result(result))
    return 0


def peer(words: list[str]) -> int:
    """One peer of a swarm that is spread over machines."""
    settled = settle(OnePeer, words, "peer", "gossip")
    arguments, topology = settled.arguments, settled.topology
    if arguments.node is None:
        raise ConfigError(f"peer: say which node to run here: --node {topology.names[0]}, for example")
    index = topology.index(arguments.node)
    endpoints_of_peer(topology, index, settled.config)
    if arguments.dry_run:
        print(describe_run(topology, settled.config, index=index, begins=arguments.resume is None))
        return 0
    from p2pfl.experiment.single import run_peer
    from p2pfl.node.limits import allow_open_files

    allow_open_files(1, len(set(nx.all_neighbors(topology.graph, index))))
    run_peer(topology, index, settled.config, resume=arguments.resume)
    return 0
