"""Entry of a peer in a directory: its address, its key, and the run's identity.

Entries come from other machines, and from files that anybody may have written: every field is typed and bounded, and an
address is the form `tcp://HOST:PORT` and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import Annotated

import msgspec

from p2pfl.topology import Topology

VERSION = 1
ENTRY_BYTES = 2048  # at most, of an entry as JSON or MessagePack
_ADDRESS = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_MOST_PORT = 65535

_Digest = Annotated[str, msgspec.Meta(max_length=64)]
_Name = Annotated[str, msgspec.Meta(max_length=200)]


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Identity of a run: entries of another identity are stale or foreign."""

    topology: _Digest
    """Digest of the topology's labels and edges."""
    settings: _Digest
    """Digest of the options on which all peers must agree."""
    start: _Name = ""
    """Name of the start, as given with --rendezvous-run."""

    def differences(self, other: Identity) -> list[str]:
        """Differences between two identities, in words."""
        words = {"topology": "another topology", "settings": "other options", "start": "another --rendezvous-run"}
        return [text for name, text in words.items() if getattr(self, name) != getattr(other, name)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Entry of one peer."""

    peer: Annotated[int, msgspec.Meta(ge=0, lt=10**6)]
    """Number of the peer, in peer order."""
    address: Annotated[str, msgspec.Meta(max_length=300)]
    """Address at which its neighbors reach it, `tcp://HOST:PORT`."""
    identity: Identity
    """Identity of its run."""
    process: Annotated[str, msgspec.Meta(min_length=8, max_length=32)]
    """Random name of the process that announces it: that of a restarted peer is another."""
    public_key: Annotated[str, msgspec.Meta(max_length=40)] = ""
    """CurveZMQ key in Z85, where the topology file holds none."""
    version: int = VERSION
    """Version of this format."""


def process_name() -> str:
    """Random name of this process."""
    return secrets.token_hex(8)


def is_address(text: str) -> bool:
    """Return whether a text is `tcp://HOST:PORT`, with a name or an IP address."""
    return bool(_ADDRESS.fullmatch(text)) and 1 <= int(text.rpartition(":")[2]) <= _MOST_PORT


def topology_digest(topology: Topology) -> str:
    """Digest of a topology's labels, edges and direction."""
    edges = sorted(map(list, topology.graph.edges))
    text = json.dumps([topology.names, edges, topology.directed])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]
