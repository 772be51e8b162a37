"""One peer by itself, and what its neighbors say to it."""

from __future__ import annotations

import msgspec
import torch
from tests.support.helpers import matrix, schedules_of

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.events import Action, Fail, Flushed, Note, Received, RoundDone, Send, Started
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.wire import VERSION, Header, Message

SIZE = 8  # elements
X = torch.arange(SIZE, dtype=torch.float32)
CONTEXT = PeerContext(
    me=0,
    names=["zero", "one", "two", "three"],
    links=frozenset({1, 3}),
    training_rounds=2,
    consensus_rounds=1,
    run="run",
    layout="layout",
    timeouts=Timeouts(start=None, handshake=60.0, first_round=600.0, round=30.0),
)


def peer_zero(context: PeerContext = CONTEXT, training: DPSGD | None = None, x: torch.Tensor | None = None) -> Peer:
    """Peer 0 of a ring of 4, whose neighbors are 1 and 3."""
    x = X.clone() if x is None else x
    return Peer(context, schedules_of(matrix("ring", 4))[0], x, training or DPSGD(), Chebyshev(1 / 3))


def message(kind: str, sender: int, round: int, body: bytes = b"", **fields: object) -> Received:
    layout = "layout" if kind in ("hello", "chunk") else ""
    header = Header(VERSION, "run", kind, sender, round, layout=layout)  # type: ignore[arg-type]
    return Received(Message(msgspec.structs.replace(header, length=len(body), **fields), body))


def hello(sender: int, serves: int, **about: float) -> Received:
    """Greeting of a peer that serves rounds from `serves` on.

    `about` are its other terms.
    """
    return message("hello", sender, serves, scalars={name: float(value) for name, value in about.items()})


def edge_down(sender: int, epoch: int = 1) -> Received:
    return message("edge_down", sender, 0, scalars={"epoch": float(epoch)})


def chunk(sender: int, round: int, start: int = 0, stop: int = SIZE, **fields: object) -> Received:
    """Elements start..stop of a vector of ones."""
    body = torch.ones(stop - start).numpy().tobytes()
    return message("chunk", sender, round, body, **{"codec": "fp32", "vector": "x", "offset": 4 * start, **fields})


def greeted(peer: Peer, now: float = 0.0) -> list[Action]:
    peer.handle(Started(), now)
    peer.handle(message("hello", 1, 1), now)
    return peer.handle(message("hello", 3, 1), now)


def sends(actions: list[Action]) -> list[tuple[str, int, int]]:
    found = [action for action in actions if isinstance(action, Send)]
    return [(send.message.header.kind, send.neighbor, send.message.header.round) for send in found]


def only_fail(actions: list[Action]) -> str:
    (action,) = actions
    assert isinstance(action, Fail)
    return action.reason


def news(actions: list[Action]) -> list[str]:
    """Notes for the user among the actions."""
    return [action.text for action in actions if isinstance(action, Note) and action.matters]


def finish_round(peer: Peer, round: int, now: float) -> torch.Tensor:
    """Messages of peers 1 and 3 in a round, after peer 0's training.

    Returns x after it.
    """
    actions: list[Action] = []
    for sender in (1, 3):
        actions += peer.handle(message("grant", sender, round), now)
        actions += peer.handle(chunk(sender, round), now)
        actions += peer.handle(message("ack", sender, round), now)
    actions += peer.handle(Flushed(), now)
    assert peer.stage == "recording"
    (done,) = (action for action in actions if isinstance(action, RoundDone))
    assert done.x is not None
    return done.x
