"""Address that a peer announces, and the one at which it listens."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from p2pfl.errors import ConfigError
from p2pfl.rendezvous.entry import is_address

_HOST_AND_PORT = re.compile(
    r"\[(?P<six>[^\]]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<host>[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
)
_ELSEWHERE = ("192.0.2.1", 9)  # an address of RFC 5737: which of ours would send there? Nothing is sent
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Announced:
    """Host and port under which neighbors find a peer.

    `port`: None where the system chooses one. `bind`: endpoint to listen at; that host where it is this machine's, else
    all its addresses, as behind a name or a forwarded port.
    """

    host: str
    port: int | None
    bind: str

    def address(self, bound: str) -> str:
        """Address to announce for a socket that is bound to an endpoint."""
        port = self.port or int(bound.rpartition(":")[2])
        return f"tcp://{bracketed(self.host)}:{port}"


def announced(option: str | None, node: Mapping[str, object], toward: str | None = None) -> Announced:
    """Choose what a peer announces: the option, the file's host, or an own address.

    `option`: HOST or HOST:PORT. `node`: attributes of the peer's node. `toward`: host of the directory service, through
    whose network neighbors are reached. Raises ConfigError for an option that nobody could connect to.
    """
    host, port = (None, None) if option is None else _parsed(option)
    if port is None and "port" in node:
        port = int(str(node["port"]))
    if host is None:
        host = str(node["host"]) if "host" in node else own_host(toward)
    listening = host if is_own(host) else "*"
    return Announced(host, port, f"tcp://{bracketed(listening)}:{'*' if port is None else port}")


def own_host(toward: str | None = None) -> str:
    """Address of this machine for others.

    In the network of `toward`, or else of its name, or of its default route.
    """
    candidates = [] if toward is None else [_source(toward)]
    with contextlib.suppress(OSError):
        candidates.append(socket.gethostbyname(socket.gethostname()))
    candidates.append(_source(_ELSEWHERE[0]))
    found = [host for host in candidates if host]
    beyond = [host for host in found if not ip_address(host.partition("%")[0]).is_loopback and is_own(host)]
    if toward is not None and found and _source(toward) == found[0]:
        return found[0]  # a service on this machine alone is for peers on this machine
    return next(iter(beyond), "127.0.0.1")


def is_own(host: str) -> bool:
    """Return whether a host is an address of this machine, or its name."""
    try:
        places = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, place in places:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
            return True
    return False


def listens(address: str) -> bool:
    """Return whether a connection to `tcp://HOST:PORT` opens."""
    place = urlsplit(address)
    try:
        socket.create_connection((place.hostname, place.port), _CONNECT_SECONDS).close()
    except (OSError, UnicodeError, ValueError):
        return False
    return True


def bracketed(host: str) -> str:
    """Host in an endpoint: IPv6 addresses are in brackets."""
    return f"[{host}]" if ":" in host else host


def _parsed(option: str) -> tuple[str, int | None]:
    text = f"[{option}]" if option.count(":") > 1 and "[" not in option else option
    form = _HOST_AND_PORT.fullmatch(text)
    host = form and (form["six"] or form["host"])
    port = form and (form["port6"] or form["port"])
    if not host or not is_address(f"tcp://{bracketed(host)}:{port or 1}"):
        raise ConfigError(f"--announce {option}: must be HOST or HOST:PORT, as neighbors reach this peer")
    with contextlib.suppress(ValueError):
        if ip_address(host.partition("%")[0]).is_unspecified:
            raise ConfigError(
                f"--announce {option}: no address that neighbors could connect to; name one of this machine"
            )
    return host, int(port) if port else None


def _source(host: str) -> str | None:
    """Own address that packets to a host come from; None where there is no route."""
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, protocol, _, place in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(place)
                return str(probe.getsockname()[0])
    return None
