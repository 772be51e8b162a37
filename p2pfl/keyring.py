"""Key pairs of a swarm: made for each peer, and each peer's own read and checked before it is used.

Public keys stand in the topology file, secret keys in one file a peer that only its owner can read. Keys are
CurveZMQ's (Curve25519), written as 40 characters of Z85.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import zmq
from zmq.utils import z85

from p2pfl.errors import ConfigError
from p2pfl.topology import Topology, check_publishable, load_topology, publish

_KEY_CHARACTERS = 40


def make_keys(topology_file: Path, folder: Path) -> list[Path]:
    """A key pair for each peer: public keys into the topology file, secret keys into files of mode 0600 in `folder`.

    Raises ConfigError, and then leaves everything as it was.
    """
    check_publishable(topology_file)
    topology = load_topology(topology_file)
    paths = [key_file(folder, topology, peer) for peer in range(topology.n)]
    made: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        public: dict[str, str] = {}
        for name, path in zip(topology.names, paths, strict=True):
            pair = zmq.curve_keypair()
            public[name] = pair[0].decode()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            made.append(path)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask takes away
                file.write(pair[1] + b"\n")
        publish(topology_file, public)
    except FileExistsError as error:
        _remove(made)
        raise ConfigError(f"{error.filename}: exists already; choose another folder for the new keys (-o)") from None
    except OSError as error:
        _remove(made)
        raise ConfigError(f"-o {folder}: cannot be written ({error.strerror})") from None
    except BaseException:
        _remove(made)
        raise
    return paths


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def key_file(folder: Path, topology: Topology, peer: int) -> Path:
    """Where a peer's secret key is."""
    return folder / f"{topology.node_path(peer)}.key"


def public_keys(topology: Topology) -> dict[int, str]:
    """By peer what the topology file says."""
    nodes = topology.graph.nodes
    return {peer: str(nodes[peer]["public_key"]) for peer in range(topology.n) if "public_key" in nodes[peer]}


def check_keys(topology: Topology, folder: str | None, insecure: bool, peers: Iterable[int]) -> None:
    """Find out before anything starts whether these peers can use their keys.

    Raises ConfigError naming file and remedy: keys that are missing on either side, files that others can read, keys
    that are none or do not belong together.
    """
    public = public_keys(topology)
    if folder is None:
        if public and not insecure:
            raise ConfigError(
                f"{topology.source}: has public keys; say where the secret ones are (--keys DIR), or go without "
                "(--insecure)"
            )
        return
    for peer, name in enumerate(topology.names):
        if peer not in public:
            raise ConfigError(
                f"{topology.source}: node {name!r} has no public_key, and --keys {folder} asks for encryption; "
                "p2pfl keys makes them"
            )
        if not _is_key(public[peer]):
            raise ConfigError(f"{topology.source}: public_key of node {name!r} is no key; p2pfl keys makes them")
    if len(set(public.values())) < topology.n:
        raise ConfigError(f"{topology.source}: two nodes have the same public_key; p2pfl keys makes them anew")
    for peer in peers:
        own_secret(topology, folder, peer)


def own_secret(topology: Topology, folder: str, peer: int) -> str:
    """A peer's secret key, from its file. Raises ConfigError naming the file."""
    path = key_file(Path(folder), topology, peer)
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"--keys {path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        text = ""
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"--keys {path}: others can read it (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}")
    if not _is_key(text):
        raise ConfigError(f"--keys {path}: no secret key (40 characters that p2pfl keys writes)")
    if zmq.curve_public(text.encode()).decode() != public_keys(topology).get(peer):
        raise ConfigError(f"--keys {path}: does not belong to the public_key of node {topology.names[peer]!r}")
    return text


def _is_key(text: str) -> bool:
    try:
        return len(text) == _KEY_CHARACTERS and len(z85.decode(text.encode("ascii"))) == 32
    except (ValueError, KeyError, UnicodeEncodeError):
        return False
