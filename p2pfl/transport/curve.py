"""Encryption and authentication of links with CurveZMQ (RFC 26), and the allow-list without which it lets anybody in.

Who connects must hold the secret key of a neighbor (ZAP, RFC 27, by pyzmq's own authenticator), and what comes over a
connection must name that neighbor as its sender.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import zmq
from zmq.auth.thread import ThreadAuthenticator

_DOMAIN = "p2pfl"  # a socket with a domain accepts nobody unless an authenticator says so
_MOST_CONNECTIONS = 4096  # remembered by their identity


@dataclass(frozen=True)
class Keys:
    """One peer's key pair, and its neighbors' public keys by peer number; all in Z85."""

    public: str
    secret: str = field(repr=False)
    neighbors: Mapping[int, str]


class Guard:
    """Lets the neighbors in, and knows which of them a message came from."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: Keys) -> None:
        self._keys = keys
        self._peers = {key: peer for peer, key in keys.neighbors.items()}
        self._owners: dict[bytes, int | None] = {}
        self._refused = self._told = 0  # one is written by the authenticator's thread only
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(_DOMAIN, self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the holder of a public key may connect; asked by the authenticator's thread."""
        allowed = key.decode() in self._peers
        self._refused += not allowed
        return allowed

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        """Before `socket` is bound."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
        socket.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        """Before `socket` connects to a neighbor, who must hold the secret key to its public one."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._keys.neighbors[neighbor].encode())

    def owner(self, identity: zmq.Frame) -> int | None:
        """The neighbor that made the connection which a message's identity frame names."""
        name = identity.bytes
        if name not in self._owners:
            if len(self._owners) >= _MOST_CONNECTIONS:
                self._owners.clear()
            self._owners[name] = self._peers.get(str(identity.get("User-Id")))
        return self._owners[name]

    def refusals(self) -> int:
        """How many connections have been refused since this was last asked."""
        new, self._told = self._refused - self._told, self._refused
        return new

    def close(self) -> None:
        """End the authenticator's thread."""
        self._authenticator.stop()
