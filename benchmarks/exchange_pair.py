"""Pair of processes that swap weights, through p2pfl or bare sockets.

The time of one memory copy stands beside them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import zmq

from benchmarks import exchange_bare as bare
from benchmarks.exchange_pool import Cost, Mark, Place, mean_cost
from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.model.networks import build_vgg
from p2pfl.model.vector import Layout, aligned_vector
from p2pfl.node.loop import FLUSH_SECONDS, IDLE_SECONDS
from p2pfl.payload import ITEM_BYTES, VectorMemory
from p2pfl.protocol import events
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.wire import CHUNK_BYTES
from p2pfl.topology import Neighborhood
from p2pfl.transport import Keys, SharedMemoryTransport, ZmqTransport

Way = Literal["p2pfl", "chunks", "whole", "mixing", "copy"]
Transport = Literal["shm", "ipc", "tcp"]
KeyPairs = tuple[tuple[str, str], ...]  # of CURVE, public and secret, by process; none: no encryption
RUN = "benchmark"
TIMEOUTS = Timeouts(start=None, handshake=60.0, first_round=60.0, round=60.0)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Swap:
    """Swap of vectors of `size` numbers in `rounds` measured rounds.

    `warm` rounds before them and one after them are not measured.
    """

    way: Way
    transport: Transport
    codec: str
    size: int
    layout: str
    rounds: int
    warm: int
    key_pairs: KeyPairs = field(default=(), repr=False)  # bare sockets have none

    @property
    def total(self) -> int:
        """Number of all rounds."""
        return self.warm + self.rounds + 1

    @property
    def bytes(self) -> int:
        """Bytes of one vector on the wire."""
        return self.size * ITEM_BYTES[self.codec]

    def run(self, place: Place) -> Cost:
        marks = _WAYS[self.way](self, place)
        return mean_cost(marks[self.warm - 1 : self.warm + self.rounds])

    def vector(self) -> torch.Tensor:
        """Weights of a usual magnitude."""
        return aligned_vector(self.size).normal_()


def layout_of(depth: int, width: float) -> Layout:
    """Layout of p2pfl's VGG, without its weights."""
    with torch.device("meta"):
        return Layout.of(build_vgg(depth, width=width))


def _ours(swap: Swap, place: Place) -> list[Mark]:
    me, other = place.me, 1 - place.me
    memory = VectorMemory()
    with contextlib.closing(open_transport(swap.transport, place, swap.key_pairs, memory)) as transport:
        endpoints = place.meet(transport.endpoint)
        context = PeerContext(
            me=me,
            names=("0", "1"),
            links=frozenset({other}),
            training_rounds=swap.total,
            consensus_rounds=0,
            run=RUN,
            layout=swap.layout,
            timeouts=TIMEOUTS,
            memory=memory,
        )
        neighborhood = Neighborhood(me, 0.5, {other: 0.5}, {other: 0.5})
        peer = Peer(context, lambda round: neighborhood, swap.vector(), DPSGD(wire_dtype=swap.codec), Chebyshev(0.0))
        transport.connect({other: endpoints[other]}, swap.size * ITEM_BYTES["fp32"])
        return Loop(peer, transport).run()


def make_key_pairs(processes: int) -> KeyPairs:
    """CURVE key pairs for a group."""
    pairs = [zmq.curve_keypair() for _ in range(processes)]
    return tuple((public.decode(), secret.decode()) for public, secret in pairs)


def open_transport(
    transport: Transport, place: Place, key_pairs: KeyPairs, memory: VectorMemory
) -> ZmqTransport | SharedMemoryTransport:
    """Transport of one process of a group.

    With key pairs, sockets are encrypted and admit only the group, as with `--keys`.
    """
    keys = None
    if key_pairs:
        others = {peer: public for peer, (public, _) in enumerate(key_pairs) if peer != place.me}
        keys = Keys(*key_pairs[place.me], neighbors=others)
    sockets = ZmqTransport(place.bind(transport), credentials=keys)
    if transport != "shm":
        return sockets
    return SharedMemoryTransport(sockets, RUN, place.me, lambda line: None, memory=memory)


class Loop:
    """Worker loop that only exchanges: no training, evaluation or records."""

    def __init__(self, peer: Peer, transport: ZmqTransport | SharedMemoryTransport) -> None:
        self._peer = peer
        self._transport = transport
        self._marks: list[Mark] = []
        self._ended = False

    def run(self) -> list[Mark]:
        """Run all rounds; returns the moments at which they ended."""
        self._tell(events.Started())
        while not self._ended:
            for event in self._transport.poll(FLUSH_SECONDS if self._peer.wants_flush else IDLE_SECONDS):
                if not isinstance(event, events.Received):
                    raise RuntimeError(f"nothing of the kind should happen between two processes: {event}")
                self._tell(event)
            if self._peer.wants_flush and self._transport.flushed():
                self._tell(events.Flushed())
            if time.monotonic() >= self._peer.deadline:
                self._tell(events.Tick())
        return self._marks

    def _tell(self, event: events.Event) -> None:
        answers: list[events.Event] = []  # told after all actions, as a training thread would
        for action in self._peer.handle(event, time.monotonic()):
            if isinstance(action, events.Send):
                self._transport.send(action.neighbor, action.message)
            elif isinstance(action, events.Train):
                answers.append(events.Trained())
            elif isinstance(action, events.RoundDone):
                self._marks.append(Mark.now())
                answers.append(events.Recorded())
            elif isinstance(action, events.Finish):
                self._ended = True
            else:
                raise RuntimeError(str(action))
        for answer in answers:
            self._tell(answer)


def _bare(frame_bytes: int, swap: Swap, place: Place) -> list[Mark]:
    other = 1 - place.me
    vector = swap.vector().to(_DTYPES[swap.codec])
    total = bare.Sum(swap.vector(), swap.codec)
    marks = []
    with bare.Sockets(place.bind(swap.transport), place.me) as sockets:
        sockets.connect({other: place.meet(sockets.endpoint)[other]})
        for _ in range(swap.total):
            bare.swap(sockets, other, vector, total, frame_bytes)
            marks.append(Mark.now())
    return marks


def _mixing(swap: Swap, place: Place) -> list[Mark]:
    other = 1 - place.me
    marks = []
    with bare.Sockets(place.bind(swap.transport), place.me) as sockets:
        mixer = bare.Mixer(sockets, swap.vector(), 0.5, {other: 0.5}, swap.codec)
        sockets.connect({other: place.meet(sockets.endpoint)[other]})
        for _ in range(swap.total):
            mixer.mix()
            marks.append(Mark.now())
        sockets.flush()
    return marks


def _copy(swap: Swap, place: Place) -> list[Mark]:
    source = swap.vector().to(_DTYPES[swap.codec]).view(torch.uint8).numpy()
    target = np.zeros_like(source)
    place.meet("")  # both copy at the same time, as both swap
    marks = []
    for _ in range(swap.total):
        np.copyto(target, source)
        marks.append(Mark.now())
    return marks


_WAYS: dict[str, Callable[[Swap, Place], list[Mark]]] = {
    "p2pfl": _ours,
    "chunks": lambda swap, place: _bare(CHUNK_BYTES, swap, place),
    "whole": lambda swap, place: _bare(swap.bytes, swap, place),
    "mixing": _mixing,
    "copy": _copy,
}
