"""Links on which a chunk takes longer than a reminder: nothing is sent twice."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping

import pytest
import torch

from p2pfl.algorithms import DPSGD, Chebyshev
from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.protocol import wire
from p2pfl.protocol.client import Client
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.events import (
    Action,
    Event,
    Finish,
    Flushed,
    Received,
    Recorded,
    RoundDone,
    Send,
    Started,
    Tick,
    Train,
    Trained,
)
from p2pfl.protocol.logic import Logic
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.server_exchange import Federation
from p2pfl.topology import make_topology, mixing_matrix, neighborhood

CHUNKS, ROUNDS = 12, 2
SIZE = 4 * CHUNKS  # elements, of chunks of 16 bytes
SECONDS = 8.4  # that a chunk of 1 MiB takes on a link of 1 Mbit/s; other messages take no time


def context(me: int, consensus: int) -> PeerContext:
    timeouts = Timeouts(start=None, handshake=60.0, first_round=600.0, round=60.0)
    return PeerContext(
        me, ["zero", "one"], frozenset({1 - me}), ROUNDS, consensus, "run", "layout", timeouts, incarnation=1
    )


def peers() -> Mapping[int, Logic]:
    matrix = mixing_matrix(make_topology("complete", 2), "metropolis-hastings")
    neighborhoods = [neighborhood(matrix, me) for me in (0, 1)]
    return {
        me: Peer(context(me, 1), lambda round, me=me: neighborhoods[me], torch.zeros(SIZE), DPSGD(), Chebyshev(0.5))
        for me in (0, 1)
    }


def client_and_coordinator() -> Mapping[int, Logic]:
    x = torch.zeros(SIZE)
    server = ServerAverage(x, torch.zeros_like(x))
    client = Client(context(0, 0), torch.zeros(SIZE), "fp32")
    return {0: client, 1: Coordinator(context(1, 0), Federation((1.0,), 1, 0, 1, None), server)}


class Links:
    """Links that carry one chunk after the other in both directions.

    A machine hears of a flush when its last chunk has arrived.
    """

    def __init__(self, machines: Mapping[int, Logic]) -> None:
        self.machines = machines
        self.now = 0.0
        self.free = dict.fromkeys(machines, 0.0)
        self.chunks: Counter[int] = Counter()
        self.ended: dict[int, Action] = {}
        self._coming: list[tuple[float, int, int, Event]] = []
        self._count = itertools.count()
        for me in machines:
            self.tell(me, Started())

    def tell(self, me: int, event: Event) -> None:
        for action in self.machines[me].handle(event, self.now) if me not in self.ended else ():
            if isinstance(action, Send):
                is_chunk = action.message.header.kind == "chunk"
                self.chunks[me] += is_chunk
                self.free[me] = max(self.free[me], self.now) + SECONDS * is_chunk
                self.later(self.free[me], 1 - me, Received(action.message))
            elif isinstance(action, Train):
                self.later(self.now + 5.0, me, Trained(0.1, 1))
            elif isinstance(action, RoundDone):
                self.later(self.now + 0.1, me, Recorded())
            elif type(action).__name__ in ("Finish", "Fail"):
                self.ended[me] = action

    def later(self, when: float, me: int, event: Event) -> None:
        heapq.heappush(self._coming, (when, next(self._count), me, event))

    def go(self) -> None:
        while len(self.ended) < 2:
            assert self.now < 1e5, "they continue without end"
            live = [me for me in self.machines if me not in self.ended]
            flushes = [(max(self.free[me], self.now), me) for me in live if self.machines[me].wants_flush]
            ticks = [(max(self.machines[me].deadline, self.now + 1e-6), me) for me in live]
            when = self._coming[0][0] if self._coming else math.inf
            if flushes and min(flushes)[0] <= min(when, min(ticks)[0]):
                self.now, me = min(flushes)
                self.tell(me, Flushed())
            elif when <= min(ticks)[0]:
                self.now, _, me, event = heapq.heappop(self._coming)
                self.tell(me, event)
            else:
                self.now, me = min(ticks)
                self.tell(me, Tick())


@pytest.mark.parametrize("machines", [peers, client_and_coordinator])
def test_a_slow_link_carries_each_vector_once(monkeypatch: pytest.MonkeyPatch, machines: object) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", 16)
    links = Links(machines())  # type: ignore[operator]
    links.go()
    assert links.ended == {0: Finish(), 1: Finish()}
    vectors = ROUNDS + (machines is peers)
    assert links.chunks == {0: CHUNKS * vectors, 1: CHUNKS * vectors}
