"""Training commands: `gossip`, `centralized`, `sgd`, `local` and `peer`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

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
from p2pfl.experiment.meeting import addresses
from p2pfl.experiment.run import run
from p2pfl.modes import mode_of
from p2pfl.report import check_drawing
from p2pfl.run.directory import check_new
from p2pfl.topology import Topology
from p2pfl.topology.node_choice import node_from
from p2pfl.transport.keyring import check_keys, refuse_peer_options


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


def _given(metavar: str, default: str = "none") -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class OnePeer(Swarm):
    """Run one peer of a swarm distributed over machines.

    Start the other peers on their machines with the same file and options, in any order. The first node of the file
    evaluates and saves the consensus model. Every node of the file needs a host and a port, unless the peers find each
    other by --rendezvous.
    """

    node: Annotated[str | None, tyro.conf.arg(metavar="LABEL", help_behavior_hint="(required, or --node-from)")] = None
    """Label of the node to run."""
    node_from: Annotated[str | None, _given("VARIABLE")] = None
    """Environment variable that names the node, such as SLURM_PROCID: by a label, or by an index into the order of
    nodes, from 0, alone or at the end of a name such as peer-3."""
    token_file: Annotated[str | None, _given("FILE")] = None
    """File with a secret shared by all peers: only its holders can connect. For runs without keys, and for a
    rendezvous over tcp."""
    rendezvous: Annotated[str | None, _given("DIR|tcp://HOST:PORT")] = None
    """Where peers find their neighbors' addresses: a folder that all machines share, or p2pfl rendezvous."""
    rendezvous_key: Annotated[str | None, _given("KEY")] = None
    """Public key of p2pfl rendezvous, as it prints it."""
    rendezvous_run: Annotated[str | None, _given("NAME")] = None
    """Name of this start, the same for all peers, such as the number of a job: addresses announced under another name
    are another run's."""
    announce: Annotated[str | None, _given("HOST[:PORT]", "an address of this machine, and a free port")] = None
    """Host, and port, under which neighbors reach this peer, with --rendezvous."""
    check: bool = False
    """Check that this peer and its neighbors, which do the same at the same time, reach each other, and stop."""


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
    resolved = resolve_options(Sgd, words, "sgd", "sgd")
    chosen = resolved.config.data
    is_given = any(word.partition("=")[0] == "--partition" for word in words)
    if is_given and chosen.partition_file is None and chosen.partition not in ("own", "iid"):
        said = f"--partition {chosen.partition}: has no effect on plain SGD, which trains on all samples in one process"
        print(f"p2pfl: note: {said}", file=sys.stderr)
    return _train(resolved)


def local(words: list[str]) -> int:
    """Train peers without any exchange."""
    return _train(resolve_options(Local, words, "local", "local"))


def _train(resolved: Resolved[Gossip] | Resolved[Centralized] | Resolved[Sgd] | Resolved[Local]) -> int:
    if resolved.arguments.dry_run:
        check_drawing()
        if resolved.arguments.resume is None:
            check_new(resolved.config.record.run_dir)
        refuse_peer_options(resolved.config.exchange)
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
    index = _node(arguments, topology)
    addresses(topology, index, resolved.config, arguments.announce)
    if arguments.check and arguments.dry_run:
        raise ConfigError("--check: means nothing with --dry-run; leave one of them out")
    if arguments.check:
        from p2pfl.experiment.reachability import check_reachability

        check_reachability(topology, index, resolved.config, announce=arguments.announce)
        return 0
    if arguments.dry_run:
        print(describe_run(topology, resolved.config, index=index, begins=arguments.resume is None))
        return 0
    from p2pfl.experiment.single import run_peer
    from p2pfl.node.limits import allow_open_files

    allow_open_files(1, len(set(nx.all_neighbors(topology.graph, index))))
    run_peer(topology, index, resolved.config, resume=arguments.resume, announce=arguments.announce)
    return 0


def _node(arguments: OnePeer, topology: Topology) -> int:
    """Node to run. Raises ConfigError where it is not given, or in two ways."""
    if arguments.node_from is None:
        if arguments.node is None:
            raise ConfigError(
                f"peer: name the node to run, for example --node {topology.names[0]}, or a variable that does "
                "(--node-from SLURM_PROCID)"
            )
        return topology.index(arguments.node)
    if arguments.node is not None:
        raise ConfigError(
            f"--node-from {arguments.node_from}: means nothing with --node {arguments.node}; leave one of them out"
        )
    choice = node_from(arguments.node_from, os.environ, topology)
    if choice.note is not None:
        print(f"p2pfl: note: {choice.note}", file=sys.stderr)
    return choice.index
