"""`keys`: key pairs for the peers of a topology file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import parse, print_notes
from p2pfl.topology import load_topology
from p2pfl.transport.keyring import make_keys
from p2pfl.util.units import counted


@dataclass(frozen=True)
class Keys:
    """Generate a key pair for each peer, for encrypted and authenticated links.

    Public keys are written to the topology file, which all machines get. Secret keys are written to a folder, one file
    per peer, readable by you only: give each machine its own, and start with --keys FOLDER.
    """

    file: tyro.conf.Positional[Path]
    """Topology file: .graphml .gml .gexf or .json."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder for the secret keys."""
    renew: bool = False
    """Replace the file's public keys. Old secret keys are invalid in new runs; a resumed run keeps its keys."""


def keys(words: list[str]) -> int:
    """Generate keys and print their paths."""
    arguments = parse(Keys, words, "keys")
    paths = make_keys(arguments.file, arguments.output, renew=arguments.renew)
    print(f"{counted(len(paths), 'secret key')} in {arguments.output}, public keys in {arguments.file}")
    topology = load_topology(arguments.file)
    print_notes(topology)
    spread = all("host" in node and "port" in node for node in topology.graph.nodes.values())
    command = f"peer {arguments.file} --node LABEL" if spread else f"gossip {arguments.file}"
    print(f"start with: p2pfl {command} --keys {arguments.output}")
    return 0
