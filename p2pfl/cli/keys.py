"""`keys`: a key pair for each peer of a topology file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import counted, parse, say_notes
from p2pfl.topology import load_topology
from p2pfl.transport.keyring import make_keys


@dataclass(frozen=True)
class Keys:
    """Make a key pair for each peer, so that every link of the swarm is encrypted and nobody else can take part.

    Public keys go into the topology file, which everybody gets. Secret keys go into a folder, a file for each peer that
    only you can read: give each machine its own, and start with --keys FOLDER.
    """

    file: tyro.conf.Positional[Path]
    """Topology file: .graphml .gml .gexf or .json."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the secret keys."""
    renew: bool = False
    """Replace the public keys that the file has: an old secret key opens no new run (a resumed one keeps its keys)."""


def keys(words: list[str]) -> int:
    """Make the keys and say where they are."""
    arguments = parse(Keys, words, "keys")
    paths = make_keys(arguments.file, arguments.output, renew=arguments.renew)
    print(f"{counted(len(paths), 'secret key')} in {arguments.output}, public keys in {arguments.file}")
    topology = load_topology(arguments.file)
    say_notes(topology)
    spread = all("host" in node and "port" in node for node in topology.graph.nodes.values())
    command = f"peer {arguments.file} --node LABEL" if spread else f"gossip {arguments.file}"
    print(f"start with: p2pfl {command} --keys {arguments.output}")
    return 0
