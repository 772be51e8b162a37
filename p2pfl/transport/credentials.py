"""Credentials of connections: the token of a run (PLAIN) or key pairs (CurveZMQ).

Either way who connects names itself and proves it before the first message: with the secret key of a neighbor, which
also encrypts the link, or with a password made of the token, its own number and the number of whom it connects to, so
that a password overheard or received is of no use in another's name, or against another peer.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import zmq
from zmq.utils import z85

from p2pfl.errors import Refusal
from p2pfl.protocol.events import Refused


class Credentials(Protocol):
    """What one peer proves itself with, and how it knows its neighbors."""

    mechanism: bytes
    """ZMTP's name of the mechanism."""
    sealing: int
    """Bytes that encryption adds to a frame."""
    unasked: int
    """Bytes that a server sends at most to a connection before it is admitted or refused."""
    refusal: Refused
    """Why a connection is refused whose proof is none."""

    @property
    def size(self) -> int:
        """How many neighbors there are."""

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        """Before `socket` is bound."""

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        """Before `socket` connects to a neighbor."""

    def neighbor(self, proof: Sequence[bytes]) -> int | None:
        """The neighbor that a connection's proof is of; None where it is nobody's."""


@dataclass(frozen=True)
class Keys:
    """One peer's key pair, and its neighbors' public keys by peer number; all in Z85 (CurveZMQ, RFC 26)."""

    public: str
    secret: str = field(repr=False)
    neighbors: Mapping[int, str]

    mechanism = b"CURVE"
    # The name of the command that carries a frame, a nonce, an authenticator and the frame's flags.
    sealing = 8 + 8 + 16 + 1
    unasked = 64 + 2 + 168  # greeting and WELCOME
    refusal = Refused(Refusal.KEY, "no neighbor's")

    @property
    def size(self) -> int:
        return len(self.neighbors)

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret.encode())

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        """The neighbor must hold the secret key to its public one."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.neighbors[neighbor].encode())

    def neighbor(self, proof: Sequence[bytes]) -> int | None:
        key = z85.encode(proof[0]).decode() if len(proof) == 1 and len(proof[0]) == 32 else ""
        return next((peer for peer, public in self.neighbors.items() if public == key), None)


@dataclass(frozen=True)
class Token:
    """The secret that all peers of a run share, with this peer's number and those of its neighbors."""

    secret: str = field(repr=False)
    me: int
    neighbors: frozenset[int]

    mechanism = b"PLAIN"
    sealing = 0
    unasked = 64  # greeting
    refusal = Refused(Refusal.TOKEN, "not this run's, or no neighbor's")

    @property
    def size(self) -> int:
        return len(self.neighbors)

    def password(self, sender: int, receiver: int) -> str:
        """What `sender` shows when it connects to `receiver`."""
        return hmac.new(self.secret.encode(), f"{sender}|{receiver}".encode(), "sha256").hexdigest()

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.PLAIN_SERVER, 1)

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        socket.setsockopt_string(zmq.PLAIN_USERNAME, str(self.me))
        socket.setsockopt_string(zmq.PLAIN_PASSWORD, self.password(self.me, neighbor))

    def neighbor(self, proof: Sequence[bytes]) -> int | None:
        if len(proof) != 2 or not proof[0].isdigit() or len(proof[0]) > 10:
            return None
        sender = int(proof[0])
        expected = self.password(sender, self.me).encode()
        return sender if hmac.compare_digest(expected, proof[1]) and sender in self.neighbors else None
