"""Credentials of connections: the token of a run (PLAIN) or key pairs (CurveZMQ).

Either way the connecting peer proves its identity before the first message: with its secret key, which also encrypts
the link, or with a password derived from the token, its own number and its neighbor's number, so that a password that
is overheard or received cannot be used in another peer's name, or against another peer.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import zmq
from zmq.utils import z85

from p2pfl.errors import Refusal
from p2pfl.protocol.events import Refused


class Credentials(Protocol):
    """Proof of one peer's identity, and the check of its neighbors' proofs."""

    mechanism: bytes
    """Name of the mechanism in ZMTP."""
    sealing: int
    """Bytes that encryption adds to a frame."""
    unasked: int
    """Bytes at most that a server sends to a connection before it is admitted or refused."""
    refusal: Refused
    """Refusal of a connection without a valid proof."""
    is_complete: bool
    """Whether the neighbors' proofs can be checked yet; connections wait for that."""

    @property
    def size(self) -> int:
        """Number of neighbors."""

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options of a socket that is not bound yet."""

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        """Set the options of a socket that is to connect to a neighbor."""

    def neighbor(self, proof: Sequence[bytes]) -> int | None:
        """Number of the neighbor with this proof; None if it is no neighbor's."""


@dataclass
class Keys:
    """CurveZMQ keys (RFC 26) of one peer: its key pair and its neighbors' public keys.

    All are in Z85; `neighbors` is by peer number. Those of neighbors may come later.
    """

    public: str
    secret: str = field(repr=False)
    neighbors: Mapping[int, str]

    mechanism = b"CURVE"
    # Name of the command that carries a frame, nonce, authenticator and flags of the frame.
    sealing = 8 + 8 + 16 + 1
    unasked = 64 + 2 + 168  # greeting and WELCOME
    refusal = Refused(Refusal.KEY, "no neighbor's")
    is_complete = True

    @property
    def size(self) -> int:
        return len(self.neighbors)

    def learn(self, neighbor: int, public: str) -> None:
        """Take a neighbor's public key, for connections from now on."""
        self.neighbors = {**self.neighbors, neighbor: public}  # another thread may be reading the old mapping

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret.encode())

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        """As in the interface; the neighbor must hold the secret key to its public one."""
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.neighbors[neighbor].encode())

    def neighbor(self, proof: Sequence[bytes]) -> int | None:
        key = z85.encode(proof[0]).decode() if len(proof) == 1 and len(proof[0]) == 32 else ""
        return next((peer for peer, public in self.neighbors.items() if public == key), None)


class AnnouncedKeys:
    """Key pair of one start of a process, whose public half goes with its endpoint.

    An announced endpoint is `tcp://host:port#KEY`, with the key in hexadecimal digits. The neighbors' keys come with
    their endpoints; a neighbor that is started again has another. The secret half never leaves this object.
    """

    mechanism, sealing, unasked, refusal = Keys.mechanism, Keys.sealing, Keys.unasked, Keys.refusal

    def __init__(self, neighbors: int) -> None:
        """`neighbors`: number of those that may connect."""
        public, secret = (part.decode() for part in zmq.curve_keypair())
        self._keys = Keys(public, secret, {})
        self.size = neighbors
        self.is_complete = False

    def announced(self, endpoint: str) -> str:
        """Endpoint of this process with its public key."""
        return f"{endpoint}#{z85.decode(self._keys.public).hex()}"

    def learn(self, endpoints: Mapping[int, str]) -> dict[int, str]:
        """Take the keys from neighbors' endpoints, and return the endpoints alone.

        Raises ValueError for an endpoint without a key.
        """
        parts = {peer: endpoint.partition("#") for peer, endpoint in endpoints.items()}
        keys = {peer: z85.encode(bytes.fromhex(key)).decode() for peer, (_, _, key) in parts.items()}
        if bad := [endpoints[peer] for peer, key in keys.items() if len(key) != len(self._keys.public)]:
            raise ValueError(f"{bad[0]}: no endpoint with a public key")
        # Replaced as a whole: another thread may be looking a neighbor up.
        self._keys = replace(self._keys, neighbors={**self._keys.neighbors, **keys})
        self.is_complete = True
        return {peer: endpoint for peer, (endpoint, _, _) in parts.items()}

    def secure_server(self, socket: zmq.Socket[bytes]) -> None:
        self._keys.secure_server(socket)

    def secure_client(self, socket: zmq.Socket[bytes], neighbor: int) -> None:
        self._keys.secure_client(socket, neighbor)

    def neighbor(self, proof: Sequence[bytes]) -> int | None:
        return self._keys.neighbor(proof)


@dataclass(frozen=True)
class Token:
    """Secret that all peers of a run share, with peer numbers for passwords."""

    secret: str = field(repr=False)
    me: int
    neighbors: frozenset[int]

    mechanism = b"PLAIN"
    sealing = 0
    unasked = 64  # greeting
    refusal = Refused(Refusal.TOKEN, "not this run's, or no neighbor's")
    is_complete = True

    @property
    def size(self) -> int:
        return len(self.neighbors)

    def password(self, sender: int, receiver: int) -> str:
        """Password with which `sender` connects to `receiver`."""
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
