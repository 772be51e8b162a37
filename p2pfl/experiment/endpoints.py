"""Endpoints of a run's peers, as the topology file has them, and their encryption."""

from __future__ import annotations

from p2pfl.config import RunConfig, spans_machines
from p2pfl.errors import ConfigError
from p2pfl.modes import mode_of
from p2pfl.topology import Topology
from p2pfl.transport import keyring


def endpoints_in_file(topology: Topology, config: RunConfig) -> list[str] | None:
    """Endpoints of all peers from the topology file; None where others are found.

    Raises ConfigError for hosts beyond this machine without keys and without --insecure.
    """
    if not mode_of(config).mixes:  # the others need no file, or use of a file nothing but its nodes
        if config.exchange.keys is not None:
            raise ConfigError(f"--keys {config.exchange.keys}: only a gossip run has a topology file with public keys")
        return None
    if spans_machines(config):
        return None  # they are found at the start, and all links are encrypted
    endpoints = _endpoints(topology, config)
    if endpoints is not None:
        keyring.check_encryption(topology, config.exchange)
    return endpoints


def endpoints_of_peer(topology: Topology, index: int, config: RunConfig) -> list[str]:
    """Endpoints of all peers from the topology file, for a single peer.

    Raises ConfigError for options that need a launcher, or where the file has no endpoints, or no means by which the
    peer and its neighbors know each other, or messages would not be encrypted without --insecure.
    """
    refuse_launcher_options(config)
    for option, value in (("key", config.exchange.rendezvous_key), ("run", config.exchange.rendezvous_run)):
        if value is not None:
            raise ConfigError(f"--rendezvous-{option} {value}: means nothing without --rendezvous; leave it out")
    endpoints = _endpoints(topology, config)
    if endpoints is None:
        raise ConfigError(
            f"{topology.source}: every node needs a host and a port (and --transport must not be ipc); or let the "
            "peers find each other (--rendezvous)"
        )
    exchange = config.exchange
    keyring.check_keys(topology, exchange.keys, exchange.insecure, [index])
    keyring.check_token_file(topology, exchange)
    keyring.check_encryption(topology, exchange)
    return endpoints


def refuse_launcher_options(config: RunConfig) -> None:
    """Raise ConfigError for options that a single peer cannot have."""
    if config.exchange.faults is not None:
        raise ConfigError(f"--faults {config.exchange.faults}: a script needs a launcher to play it; use p2pfl gossip")
    if config.exchange.restart:
        raise ConfigError(f"--restart {config.exchange.restart}: needs a launcher; start a peer again by --resume")
    if spans_machines(config):
        raise ConfigError(f"--launcher {config.launch.launcher}: p2pfl peer is a peer alone; use p2pfl gossip")


def _endpoints(topology: Topology, config: RunConfig) -> list[str] | None:
    nodes = [topology.graph.nodes[peer] for peer in range(topology.n)]
    if config.exchange.transport == "ipc" or not all("host" in node and "port" in node for node in nodes):
        return None
    return [f"tcp://{_bracketed(str(node['host']))}:{int(node['port'])}" for node in nodes]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
