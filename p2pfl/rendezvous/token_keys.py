"""Keys by which peers prove to the directory service that they hold the token.

Each peer's key pair for the service is derived from the token and the peer's number, so that who holds the token knows
all public keys, and CurveZMQ admits their holders alone, before the first message. The service's own pair is random:
holding the token is not enough to pose as the service.
"""

from __future__ import annotations

import hmac
import re

import zmq
from zmq.utils import z85


def peer_pair(token: str, peer: int) -> tuple[str, str]:
    """Public and secret key of a peer for the service, in Z85."""
    return _pair(token, str(peer))


def collector_pair(token: str) -> tuple[str, str]:
    """Public and secret key of who collects the peers' records, in Z85."""
    return _pair(token, "collector")


def _pair(token: str, who: str) -> tuple[str, str]:
    secret = z85.encode(hmac.new(token.encode(), f"rendezvous|{who}".encode(), "sha256").digest())
    return zmq.curve_public(secret).decode(), secret.decode()


def as_hex(key: str) -> str:
    """Key in Z85 as 64 hexadecimal digits, which no shell takes for anything else."""
    return z85.decode(key.encode()).hex()


def is_hex_key(text: str) -> bool:
    """Return whether a text is a key of 64 hexadecimal digits."""
    return re.fullmatch(r"[0-9a-fA-F]{64}", text) is not None


def from_hex(digits: str) -> str:
    """Key in Z85 from 64 hexadecimal digits."""
    return z85.encode(bytes.fromhex(digits)).decode()
