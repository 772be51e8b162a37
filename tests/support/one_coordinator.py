"""One coordinator alone, whose clients are the test."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from tests.support.one_peer import message, sends

from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.events import (
    Started,
)
from p2pfl.protocol.server_exchange import Federation

SIZE = 8
CONTEXT = PeerContext(
    me=6,
    names=["zero", "one", "two", "three", "four", "five", "coordinator"],
    links=frozenset(range(6)),
    training_rounds=2,
    consensus_rounds=0,
    run="run",
    layout="layout",
    timeouts=Timeouts(start=None, handshake=60.0, first_round=600.0, round=30.0),
)
_models: WeakKeyDictionary[Coordinator, torch.Tensor] = WeakKeyDictionary()
ALL = Federation(weights=[1.0] * 6, selected=6, seed=0, min_updates=3)


def a_coordinator(federation: Federation = ALL, context: PeerContext = CONTEXT) -> Coordinator:
    server = ServerAverage(torch.zeros(SIZE), torch.zeros(SIZE))
    made = Coordinator(context, federation, server)
    _models[made] = server.x
    return made


def model(made: Coordinator) -> torch.Tensor:
    """The global model of a coordinator that was made here, which it changes in place."""
    return _models[made]


def greeted(federation: Federation = ALL, context: PeerContext = CONTEXT) -> Coordinator:
    """In round 1, with the model sent to all six clients."""
    made = a_coordinator(federation, context)
    made.handle(Started(), 0.0)
    for client in range(6):
        made.handle(message("hello", client, 1), 0.0)
    for client in range(6):
        made.handle(message("grant", client, 1), 0.0)
    return made


def offer(made: Coordinator, *clients: int, now: float = 1.0) -> list[tuple[str, int, int]]:
    """These have trained the model; returns what is said to them."""
    said = []
    for client in clients:
        assert made.handle(message("ack", client, made.round), now) == []
        said += sends(made.handle(message("offer", client, made.round), now))
    return said


def missing(made: Coordinator) -> list[str]:
    return [made.context.names[client] for client, where in made.progress.items() if where == "missing"]


def all_ones(x: torch.Tensor) -> bool:
    """As the mean of vectors of ones is, but for rounding."""
    return torch.allclose(x, torch.ones(SIZE), rtol=1e-6)
