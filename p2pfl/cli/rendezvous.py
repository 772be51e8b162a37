"""`rendezvous`: directory service through which peers find each other."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
import zmq

from p2pfl.cli.arguments import parse, print_notes
from p2pfl.errors import ConfigError
from p2pfl.node.limits import allow_open_files
from p2pfl.rendezvous.address import bracketed, own_host
from p2pfl.rendezvous.archive import Archive
from p2pfl.rendezvous.entry import is_address
from p2pfl.rendezvous.service import Service
from p2pfl.rendezvous.token_keys import as_hex
from p2pfl.topology import load_topology
from p2pfl.transport.keyring import own_token, pair_in_file

_TURN_SECONDS = 0.1
_DEFAULT_BIND = "tcp://*:7300"


@dataclass(frozen=True)
class Rendezvous:
    """Run a directory service, through which peers find each other.

    Peers announce their addresses in it, and ask for those of their neighbors. They are started with the printed
    --rendezvous and --rendezvous-key, and with the same token. Only addresses, public keys and digests of settings pass
    through it, and with --records the peers' records, never weights. It runs until it is stopped.
    """

    file: tyro.conf.Positional[Path]
    """Topology file, the same as the peers'."""
    token_file: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File with the secret shared by all peers: only its holders are admitted."""
    bind: Annotated[str, tyro.conf.arg(metavar="tcp://HOST:PORT")] = _DEFAULT_BIND
    """Address to listen at; * stands for all of this machine, or for any free port."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: a new key)")] = None
    """File of the service's secret key, which is made where it is missing: so its public key stays the same."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: none are kept)")] = None
    """Folder for the peers' records (settings, rounds, logs; never weights), which they send to it as they run. p2pfl
    collect brings them together, from there or over the network."""


def rendezvous(words: list[str]) -> int:
    """Run the service until it is interrupted."""
    arguments = parse(Rendezvous, words, "rendezvous")
    bind = arguments.bind
    if not is_address(bind.replace("//*:", "//any:").replace(":*", ":1")):
        raise ConfigError(f"--bind {bind}: must be tcp://HOST:PORT, for example {_DEFAULT_BIND}")
    topology = load_topology(arguments.file)
    print_notes(topology)
    token = own_token(str(arguments.token_file))
    public, secret = _pair(arguments.key)
    archive = None if arguments.records is None else Archive(arguments.records, topology)
    allow_open_files(1, 2 * topology.n)
    with Service(topology, bind, (public, secret), token, _print_line, archive) as service:
        address = service.endpoint.replace("//*:", f"//{bracketed(own_host())}:")
        _print_line(f"rendezvous of {topology.name} ({topology.n} peers) at {service.endpoint}")
        token_file = shlex.quote(str(arguments.token_file))
        _print_line(
            f"start the peers with: --rendezvous {address} --rendezvous-key {as_hex(public)} --token-file {token_file}"
        )
        if archive is not None:
            _print_line(
                f"collect their records with: p2pfl collect {address} --rendezvous-key {as_hex(public)} --token-file "
                f"{token_file} --run-dir DIR"
            )
        while True:
            service.turn(_TURN_SECONDS)


def _pair(path: Path | None) -> tuple[str, str]:
    """Key pair of the service, in Z85."""
    if path is not None:
        return pair_in_file("--key", path)
    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()


def _print_line(text: str) -> None:
    print(text, flush=True)
