"""Encryption and authentication of links with CurveZMQ (RFC 26), and the allow-list without which it lets anybody in.

Who connects must hold the secret key of a neighbor (ZAP, RFC 27, by pyzmq's own authenticator), and what comes over a
connection must name that neighbor as its sender.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import zmq
from zmq.auth.thread import ThreadAuthenticator

_DOMAIN = "p2pfl"
# What encryption adds to a frame: the name of the command that carries it, a nonce, an authenticator and its flags.
SEALING_BYTES = 8 + 8 + 16 + 1


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
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an authenticator nobody comes in, instead of everybody

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        """Before `socket` connects to a neighbor, who must hold the secret key to its public one."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._keys.neighbors[neighbor].encode())

    def owner(self, frame: zmq.Frame) -> int | None:
        """The neighbor that made the connection over which a frame came."""
        # Asked anew for each message: the other end chooses its connection's identity, and may choose that of another
        # neighbor's earlier one.
        return self._peers.get(str(frame.get("User-Id")))

    def refusals(self) -> int:
        """How many connections have been refused since this was last asked."""
        new, self._told = self._refused - self._told, self._refused
        return new

    def close(self) -> None:
        """End the authenticator's thread."""
        self._authenticator.stop()
