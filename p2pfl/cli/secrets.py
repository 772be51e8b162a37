"""`keys`: a key pair for each peer of a topology file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from p2pfl.cli.arguments import counted, parse
from p2pfl.keyring import make_keys


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


def keys(words: list[str]) -> int:
    """Make the keys and say where they are."""
    arguments = parse(Keys, words, "keys")
    paths = make_keys(arguments.file, arguments.output)
    print(f"{counted(len(paths), 'secret key')} in {arguments.output}, public keys in {arguments.file}")
    print(f"start with: p2pfl gossip {arguments.file} --keys {arguments.output}")
    return 0
