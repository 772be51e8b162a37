"""One client alone, whose coordinator is the test."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from tests.support.one_peer import chunk, message, sends

from p2pfl.protocol.client import Client
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.events import (
    Started,
    Trained,
)

SIZE = 8
CLIENT = PeerContext(
    me=2,
    names=["zero", "one", "two", "three", "four", "five", "coordinator"],
    links=frozenset({6}),
    training_rounds=9,
    consensus_rounds=0,
    run="run",
    layout="layout",
    timeouts=Timeouts(start=None, handshake=60.0, first_round=600.0, round=30.0),
)


_vectors: WeakKeyDictionary[Client, torch.Tensor] = WeakKeyDictionary()


def a_client(codec: str = "fp32") -> Client:
    x = torch.zeros(SIZE)
    made = Client(CLIENT, x, codec)
    _vectors[made] = x
    assert sends(made.handle(Started(), 0.0)) == [("hello", 6, 1)]
    return made


def vector(made: Client) -> torch.Tensor:
    """The vector that a client and its training change in place."""
    return _vectors[made]


def idle() -> Client:
    made = a_client()
    assert sends(made.handle(message("hello", 6, 1), 0.0)) == [("grant", 6, 1)]
    return made


def offering(round: int = 1) -> Client:
    made = idle()
    made.handle(chunk(6, round), 0.0)
    assert sends(made.handle(Trained(0.5, 32), 1.0)) == [("offer", 6, round)]
    return made
