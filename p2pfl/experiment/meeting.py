"""Meeting of a single peer with its neighbors, as its options say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from p2pfl.config import ExchangeConfig, RunConfig
from p2pfl.errors import ConfigError
from p2pfl.experiment.endpoints import endpoints_of_peer, refuse_launcher_options
from p2pfl.modes import Roles
from p2pfl.rendezvous.address import Announced, announced
from p2pfl.rendezvous.book import Book
from p2pfl.rendezvous.client import ServiceClient
from p2pfl.rendezvous.directory import Directory
from p2pfl.rendezvous.entry import Entry, Identity, is_address, process_name, topology_digest
from p2pfl.rendezvous.folder import Folder
from p2pfl.rendezvous.meeting import Meeting, RendezvousTransport
from p2pfl.rendezvous.record_sender import Say
from p2pfl.run.fingerprint import run_fingerprint
from p2pfl.topology import Topology
from p2pfl.transport import Credentials, Keys, Token, keyring

_TCP = "tcp://"
_FORMS = "must be tcp://HOST:PORT, as p2pfl rendezvous prints it, or a folder"


@dataclass(frozen=True)
class Meets:
    """Meeting of a peer, and what its links need."""

    meeting: Meeting
    grace: float
    credentials: Credentials | None = field(repr=False)

    def open(self, _bind: str = "") -> RendezvousTransport:
        """Open the peer's sockets, and announce them; the meeting knows where."""
        return self.meeting.open(self.grace, self.credentials)


def addresses(
    topology: Topology, index: int, config: RunConfig, announce: str | None
) -> tuple[dict[int, str], Announced | None]:
    """Endpoints of all peers, and what this one announces.

    If they find each other by --rendezvous, those of the others are empty, and its own is where it will listen; else
    nothing is announced. Raises ConfigError as `endpoints_of_peer`
    and `check_meeting` do.
    """
    if config.exchange.rendezvous is not None:
        found = check_meeting(topology, index, config, announce)
        return dict.fromkeys(range(topology.n), "") | {index: found.bind}, found
    if announce is not None:
        raise ConfigError(f"--announce {announce}: means nothing without --rendezvous; leave it out")
    return dict(enumerate(endpoints_of_peer(topology, index, config))), None


def check_meeting(topology: Topology, index: int, config: RunConfig, announce: str | None) -> Announced:
    """Check how a peer will meet its neighbors; returns what it announces.

    Nothing is made. Raises ConfigError for options that need a launcher or do not fit together, for unusable keys or
    token, and where messages to other machines would not be encrypted without --insecure.
    """
    refuse_launcher_options(config)
    exchange = config.exchange
    where = str(exchange.rendezvous)
    if exchange.transport == "ipc":
        raise ConfigError("--transport ipc: means nothing with --rendezvous, which is for tcp; leave it out")
    if where.startswith(_TCP):
        _check_service(exchange)
    elif _is_misspelled(where):
        raise ConfigError(f"--rendezvous {where}: {_FORMS}")
    elif exchange.rendezvous_key is not None:
        raise ConfigError(f"--rendezvous-key: means nothing with a folder ({where}); leave it out")
    found = announced(announce, topology.graph.nodes[index], _service_host(where))
    if keyring.public_keys(topology):
        keyring.check_keys(topology, exchange.keys, exchange.insecure, [index])
    _check_secrets(topology.names[index], found.host, exchange)
    return found


def open_meeting(roles: Roles, index: int, config: RunConfig, announced: Announced, say: Say) -> Meets:
    """Open the directory of a run, and the meeting of one of its peers in it.

    Raises ConfigError where the directory or the peer's key cannot be used.
    """
    topology, exchange = roles.topology, config.exchange
    neighbors = roles.links[index]
    credentials, public = link_credentials(topology, index, exchange, neighbors)
    identity = Identity(topology_digest(topology), run_fingerprint(roles, config), exchange.rendezvous_run or "")
    own = Entry(peer=index, address="", identity=identity, process=process_name(), public_key=public)
    book = Book(
        identity,
        {peer: topology.names[peer] for peer in sorted(neighbors)},
        wants_keys=bool(public),
        only_local=exchange.keys is None and not exchange.insecure,
    )
    meeting = Meeting(_directory(topology, index, neighbors, exchange), book, own, announced, say)
    return Meets(meeting, exchange.grace_timeout, credentials)


def _directory(topology: Topology, index: int, neighbors: frozenset[int], exchange: ExchangeConfig) -> Directory:
    where = str(exchange.rendezvous)
    if not where.startswith(_TCP):
        return Folder(Path(where), topology)
    token = keyring.own_token(str(exchange.token_file))
    return ServiceClient(where, str(exchange.rendezvous_key), token, index, len(neighbors))


def link_credentials(
    topology: Topology, index: int, exchange: ExchangeConfig, neighbors: frozenset[int]
) -> tuple[Credentials | None, str]:
    """Credentials of a peer's links, and the public key that it announces.

    That is empty where the topology file holds the keys, or there are none.
    """
    if exchange.keys is None:
        if exchange.token_file is None:
            return None, ""
        return Token(keyring.own_token(exchange.token_file), index, neighbors), ""
    if own := keyring.public_keys(topology).get(index):
        secret = keyring.own_secret(topology, exchange.keys, index)
        return Keys(own, secret, keyring.neighbors_keys(topology, index)), ""
    public, secret = keyring.own_pair(topology, exchange.keys, index)
    return Keys(public, secret, {}), public


def _check_service(exchange: ExchangeConfig) -> None:
    where = str(exchange.rendezvous)
    if not is_address(where):
        raise ConfigError(f"--rendezvous {where}: {_FORMS}")
    if exchange.rendezvous_key is None:
        raise ConfigError(
            f"--rendezvous {where}: needs its public key (--rendezvous-key), as p2pfl rendezvous prints it"
        )
    if exchange.token_file is None:
        raise ConfigError(
            f"--rendezvous {where}: admits only peers with its token; give all the same (--token-file FILE, made by: "
            f"{keyring.MAKE_TOKEN})"
        )


def _is_misspelled(where: str) -> bool:
    """Whether a path is an address with a slip, rather than a folder.

    Peers would wait in such a folder for nobody.
    """
    looks_so = "://" in where or where.lower().startswith("tcp:") or is_address(f"{_TCP}{where}")
    return not where.strip() or (looks_so and not Path(where).is_dir())


def _check_secrets(name: str, host: str, exchange: ExchangeConfig) -> None:
    """Check that strangers are kept out, and messages encrypted where they must be."""
    is_local = keyring.is_loopback(host)
    if exchange.token_file is not None:
        if exchange.keys is not None and not str(exchange.rendezvous).startswith(_TCP):
            raise ConfigError(f"--token-file {exchange.token_file}: means nothing with --keys; leave one of them out")
        keyring.own_token(exchange.token_file)
    elif exchange.keys is None and not (exchange.insecure and is_local):
        raise ConfigError(
            f"peer {name}: anybody who reaches its port could speak for its neighbors; add --keys DIR (each peer makes "
            f"its own key there), or give all the same secret (--token-file FILE, made by: {keyring.MAKE_TOKEN})"
        )
    if exchange.keys is None and not exchange.insecure and not is_local:
        raise ConfigError(
            f"peer {name}: it announces host {host}, which is beyond this machine, and without keys messages over tcp "
            "are not encrypted; add --keys DIR, or --insecure if the network is your own"
        )


def _service_host(where: str) -> str | None:
    return urlsplit(where).hostname if where.startswith(_TCP) else None
