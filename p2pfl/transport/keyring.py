"""Key pairs and tokens of a swarm: generation, reading and checks.

Public keys are in the topology file; each peer's secret key is in a file that only its owner can read. Keys are
CurveZMQ's (Curve25519), written as 40 characters of Z85. Peers without keys share a token.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

import networkx as nx
import zmq
from zmq.utils import z85

from p2pfl.config import ExchangeConfig
from p2pfl.errors import ConfigError, unwritable
from p2pfl.topology import Topology, check_publishable, load_topology, publish

_KEY_CHARACTERS = 40
_TOKEN_CHARACTERS = (32, 1024)  # at least and at most
_TOKEN_VARIETY = 8  # distinct characters; 32 random hexadecimal digits have fewer once in ten million times
_MAX_BYTES = 4096  # read of a file
MAKE_TOKEN = "python -c 'import secrets; print(secrets.token_hex(32))' > FILE; chmod 600 FILE"


def make_keys(topology_file: Path, folder: Path, *, renew: bool = False) -> list[Path]:
    """Make a key pair for each peer, and return the paths of the secret keys.

    Public keys are written to the topology file, secret keys to files of mode 0600 in `folder`. `renew`: existing
    public keys are replaced, so that the old secret keys no longer work. Raises ConfigError, and then leaves everything
    as it was.
    """
    check_publishable(topology_file, renew)
    topology = load_topology(topology_file)
    paths = [key_file(folder, topology, peer) for peer in range(topology.n)]
    pairs = [[part.decode() for part in zmq.curve_keypair()] for _ in paths]
    public = {name: pair[0] for name, pair in zip(topology.names, pairs, strict=True)}
    made: list[Path] = []
    try:
        if _make_private(folder):
            made.append(folder)
        for (_, secret), path in zip(pairs, paths, strict=True):
            _write_secret(path, secret, made)
        publish(topology_file, public)
    except FileExistsError as error:
        _remove(made)
        raise ConfigError(f"{error.filename}: exists already; choose another folder for the new keys (-o)") from None
    except OSError as error:
        _remove(made)
        raise ConfigError(f"-o {unwritable(folder, error)}") from None
    except BaseException:
        if not _is_published(topology_file, public):  # a Ctrl-C may come when all is done
            _remove(made)
        raise
    return paths


def _write_secret(path: Path, secret: str, made: list[Path] | None = None) -> None:
    """Write a secret key to a new file, and add that to `made`. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    if made is not None:
        made.append(path)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask takes away
        file.write(secret + "\n")
        file.flush()
        os.fsync(descriptor)  # before the public key can be read: a power cut leaves no peer without its secret


def _make_private(folder: Path, option: str = "-o") -> bool:
    """Make a folder that only its owner can enter, or check it; True if it is new."""
    try:
        folder.mkdir(mode=0o700, parents=True)
        return True
    except FileExistsError:
        mode = stat.S_IMODE(folder.stat().st_mode)
    if not folder.is_dir():
        raise ConfigError(f"{option} {folder}: is a file; choose a folder")
    if mode & 0o077:
        raise ConfigError(
            f"{option} {folder}: others can enter it (mode {mode:04o}); chmod 700 it, or choose another folder"
        )
    return False


def _is_published(topology_file: Path, public: Mapping[str, str]) -> bool:
    written = load_topology(topology_file)
    return list(public_keys(written).values()) == [public.get(name) for name in written.names]


def _remove(made: Sequence[Path]) -> None:
    """Remove what was made, in reverse order: a folder after its files."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def key_file(folder: Path, topology: Topology, peer: int) -> Path:
    """Path of a peer's secret key."""
    return folder / f"{topology.node_path(peer)}.key"


def public_keys(topology: Topology) -> dict[int, str]:
    """Public keys in the topology file, by peer."""
    nodes = topology.graph.nodes
    return {peer: str(nodes[peer]["public_key"]) for peer in range(topology.n) if "public_key" in nodes[peer]}


def neighbors_keys(topology: Topology, peer: int) -> dict[int, str]:
    """Public keys of a peer's neighbors, by peer."""
    public = public_keys(topology)
    return {other: public[other] for other in sorted({*nx.all_neighbors(topology.graph, peer)})}


def check_keys(topology: Topology, folder: str | None, insecure: bool, peers: Iterable[int]) -> None:
    """Check the keys of these peers before a run starts.

    Raises ConfigError naming file and remedy: missing or malformed keys, files that others can read, and secret keys
    that do not match the public ones.
    """
    public = public_keys(topology)
    if folder is None:
        if public and not insecure:
            raise ConfigError(
                f"{topology.source}: has public keys; say where the secret ones are (--keys DIR), or run without "
                "encryption (--insecure)"
            )
        return
    for peer, name in enumerate(topology.names):
        if peer not in public:
            raise ConfigError(
                f"{topology.source}: node {name!r} has no public_key, and --keys {folder} asks for encryption; "
                "make keys (p2pfl keys)"
            )
        if not is_key(public[peer]):
            raise ConfigError(f"{topology.source}: public_key of node {name!r} is not a key; make keys (p2pfl keys)")
    if len(set(public.values())) < topology.n:
        raise ConfigError(f"{topology.source}: two nodes have the same public_key; make new keys (p2pfl keys --renew)")
    for peer in peers:
        own_secret(topology, folder, peer)


def own_secret(topology: Topology, folder: str, peer: int) -> str:
    """Read a peer's secret key from its file. Raises ConfigError naming the file."""
    path = key_file(Path(folder), topology, peer)
    text = _read_secret("--keys", path, "give the folder that p2pfl keys wrote (-o)")
    if not is_key(text):
        raise ConfigError(f"--keys {path}: not a secret key (40 characters that p2pfl keys writes)")
    if zmq.curve_public(text.encode()).decode() != public_keys(topology).get(peer):
        raise ConfigError(
            f"--keys {path}: does not belong to the public_key of node {topology.names[peer]!r} in {topology.source}"
        )
    return text


def own_pair(topology: Topology, folder: str, peer: int) -> tuple[str, str]:
    """Public and secret key of a peer whose public key no topology file has.

    They are made where the file of the secret one is missing. Raises ConfigError naming the file.
    """
    path = key_file(Path(folder), topology, peer)
    if not os.path.lexists(path):
        try:
            _make_private(Path(folder), "--keys")
        except OSError as error:
            raise ConfigError(f"--keys {unwritable(path, error)}") from None
    return pair_in_file("--keys", path)


def pair_in_file(option: str, path: Path) -> tuple[str, str]:
    """Public and secret key, of a file of the secret one.

    It is made where it is missing. Raises ConfigError naming the file.
    """
    if not os.path.lexists(path):
        try:
            with contextlib.suppress(FileExistsError):  # made meanwhile
                _write_secret(path, zmq.curve_keypair()[1].decode())
        except OSError as error:
            raise ConfigError(f"{option} {unwritable(path, error)}") from None
    secret = _read_secret(option, path, "name a file of a secret key, or a new one")
    if not is_key(secret):
        raise ConfigError(f"{option} {path}: not a secret key (40 characters); remove it, and a new one is made")
    return zmq.curve_public(secret.encode()).decode(), secret


def own_token(path: str) -> str:
    """Read the token in a file. Raises ConfigError naming the file and the remedy."""
    text = _read_secret("--token-file", Path(path), f"make one: {MAKE_TOKEN}")
    least, most = _TOKEN_CHARACTERS
    problem = ""
    if len(text) < least:
        problem = f"{len(text)} characters; a token has at least {least}" if text else "holds no token"
    elif len(text) > most or not text.isprintable() or " " in text:
        problem = f"not a token (one line of {least} to {most} characters, without spaces)"
    elif len(set(text)) < _TOKEN_VARIETY:
        problem = "easily guessed; a token is random"
    if problem:
        raise ConfigError(f"--token-file {path}: {problem}; make one: {MAKE_TOKEN}")
    return text


def check_encryption(topology: Topology, config: ExchangeConfig) -> None:
    """Check that messages over tcp to other machines are encrypted, or need not be.

    Raises ConfigError for hosts beyond this machine with neither --keys nor --insecure.
    """
    peer = _beyond_this_machine(topology)
    if peer is None or config.keys is not None or config.insecure:
        return
    node = topology.graph.nodes[peer]
    keys = "make keys (p2pfl keys) and add --keys DIR"
    if "public_key" in node:
        keys = "say where the secret keys are (--keys DIR)"
    raise ConfigError(
        f"peer {topology.names[peer]}: host {node['host']} is beyond this machine, and without keys messages over tcp "
        f"are not encrypted; {keys}, or add --insecure if the network is your own"
    )


def check_token_file(topology: Topology, config: ExchangeConfig) -> None:
    """Check before a single peer starts how it will authenticate its neighbors.

    Raises ConfigError where there are neither keys nor a token, and --insecure cannot replace them because of hosts
    beyond this machine; where a token is given beside keys; and where a file holds no token.
    """
    if config.token_file is not None:
        if config.keys is not None:
            raise ConfigError(f"--token-file {config.token_file}: means nothing with --keys; leave one of them out")
        own_token(config.token_file)
    elif config.keys is None:
        peer = _beyond_this_machine(topology)
        if peer is None and config.insecure:
            return
        allow = " and --insecure, since messages are not encrypted then" if not config.insecure else ""
        raise ConfigError(
            "peer: anybody who reaches its port could speak for its neighbors; give all peers the same secret "
            f"(--token-file FILE, made by: {MAKE_TOKEN}){'' if peer is None else allow}, or keys (p2pfl keys, then "
            f"--keys DIR){', or run without (--insecure)' if peer is None else ''}"
        )


def refuse_peer_options(config: ExchangeConfig) -> None:
    """Raise ConfigError for options of single peers in a launcher's run."""
    given = {"token_file": (config.token_file, "makes a token itself"), "rendezvous": (config.rendezvous, "needs none")}
    for name, (value, instead) in given.items():
        if value is not None:
            raise ConfigError(f"{name} {value}: only for p2pfl peer; a launcher {instead}: take it out of the settings")


def _beyond_this_machine(topology: Topology) -> int | None:
    """First peer whose host is not a loopback address; None if there is none."""
    nodes = topology.graph.nodes
    return next((peer for peer in range(topology.n) if not is_loopback(str(nodes[peer].get("host", "::1")))), None)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine for itself only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_secret(option: str, path: Path, remedy: str) -> str:
    """Text of a file that only its owner can read; empty if it is not ASCII."""
    try:
        # Opening a pipe, or reading it, might never end.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{option} {path}: is not a file; {remedy}")
            if stat.S_IMODE(mode) & 0o077:
                raise ConfigError(
                    f"{option} {path}: others can read it (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}"
                )
            return file.read(_MAX_BYTES).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        return ""


def is_key(text: str) -> bool:
    """Return whether a text is a key of CurveZMQ in Z85."""
    try:
        return len(text) == _KEY_CHARACTERS and len(z85.decode(text.encode("ascii"))) == 32
    except (ValueError, KeyError, struct.error):  # z85 raises three kinds
        return False
