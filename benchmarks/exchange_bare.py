"""Bare version of the exchange: pyzmq sockets, raw bytes, averaging in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
import zmq
from torch import Tensor

from p2pfl.payload import ITEM_BYTES
from p2pfl.protocol.wire import CHUNK_BYTES

TIMEOUT_SECONDS = 60.0
_BLOCK = 1 << 18  # elements; what torch converts at a time should stay in the cache
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Sockets:
    """Bound ROUTER, and a DEALER connected to each neighbor; a context manager.

    Their options are ZeroMQ's defaults.
    """

    def __init__(self, bind: str, me: int) -> None:
        self._context = zmq.Context()
        self._me = me
        self._links: dict[int, zmq.Socket[bytes]] = {}
        self._trackers: list[zmq.MessageTracker] = []
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.RCVTIMEO, int(TIMEOUT_SECONDS * 1000))
        self._router.bind(bind)
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in (self._router, *self._links.values()):
            socket.close(0)
        self._context.term()

    def connect(self, endpoints: Mapping[int, str]) -> None:
        for neighbor, endpoint in endpoints.items():
            link = self._context.socket(zmq.DEALER)
            link.setsockopt(zmq.ROUTING_ID, bytes([self._me + 1]))  # may not begin with 0
            link.setsockopt(zmq.SNDTIMEO, int(TIMEOUT_SECONDS * 1000))
            link.connect(endpoint)
            self._links[neighbor] = link

    def send(self, neighbor: int, vector: Tensor, frame_bytes: int) -> None:
        """Queue a vector for sending, in frames of `frame_bytes`.

        The vector must not change until `flush` returns.
        """
        data = vector.view(torch.uint8).numpy().data
        link = self._links[neighbor]
        for start in range(0, data.nbytes, frame_bytes):
            # One connection sends in order, so the last frame's tracker says enough.
            last = start + frame_bytes >= data.nbytes
            tracker = link.send(data[start : start + frame_bytes], copy=False, track=last)
            if last:
                self._trackers.append(tracker)

    def flush(self) -> None:
        """Wait until ZeroMQ has released all queued vectors."""
        for tracker in self._trackers:
            tracker.wait(TIMEOUT_SECONDS)
        self._trackers.clear()

    def receive(self) -> tuple[int, memoryview]:
        """Next frame, and its sender."""
        sender = self._router.recv()[0] - 1
        return sender, self._router.recv(copy=False).buffer


class Sum:
    """Sum of received vectors, in place and as float32, and each sender's progress."""

    def __init__(self, total: Tensor, codec: str) -> None:
        self.total = total
        self.have: dict[int, int] = {}  # elements that a sender has added in this round
        self._item = ITEM_BYTES[codec]
        self._dtype = _DTYPES[codec]
        # bfloat16 is converted piece by piece, in a buffer that stays in the cache.
        self._scratch = torch.empty(CHUNK_BYTES // self._item)

    def add(self, sender: int, body: memoryview, weight: float) -> None:
        numbers = torch.frombuffer(body, dtype=self._dtype)
        start = self.have[sender]
        self.have[sender] = start + numbers.numel()
        part = self.total[start : start + numbers.numel()]
        if self._dtype == torch.float32:
            part.add_(numbers, alpha=weight)
            return
        pieces = torch.split(numbers, len(self._scratch)), torch.split(part, len(self._scratch))
        for piece, target in zip(*pieces, strict=True):
            target.add_(self._scratch[: len(piece)].copy_(piece), alpha=weight)

    def is_whole(self, sender: int) -> bool:
        return self.have[sender] == self.total.numel()


def swap(sockets: Sockets, other: int, vector: Tensor, total: Sum, frame_bytes: int) -> None:
    """Send a vector and add the other's to the total.

    Returns when the vector may change.
    """
    sockets.send(other, vector, frame_bytes)
    total.have = {other: 0}
    while not total.is_whole(other):
        total.add(*sockets.receive(), weight=1.0)
    sockets.flush()


class Mixer:
    """Averaging with neighbors by a row of W: x ← w_own · x + Σ_j w_j x_j, in place.

    In-place averaging costs a copy of the sent vector; p2pfl needs none, since it alternates between two vectors. With
    bfloat16 messages Q the result is x + Σ_j w_j (Q(x_j) − Q(x)), as in p2pfl.
    """

    def __init__(
        self, sockets: Sockets, x: Tensor, own_weight: float, weights: Mapping[int, float], codec: str = "fp32"
    ) -> None:
        self._sockets = sockets
        self._x = x
        self._sent = torch.empty_like(x, dtype=_DTYPES[codec])
        self._own_weight = own_weight
        self._weights = weights
        self._sum = Sum(x, codec)
        self._early: dict[int, deque[memoryview]] = {neighbor: deque() for neighbor in weights}

    def mix(self) -> None:
        """Do one round.

        A neighbor may be one round ahead; its early frames wait for the next call.
        """
        self._sockets.flush()
        self._sent.copy_(self._x)
        for neighbor in self._weights:
            self._sockets.send(neighbor, self._sent, CHUNK_BYTES)
        self._weigh_own()
        self._sum.have = dict.fromkeys(self._weights, 0)
        for neighbor, bodies in self._early.items():
            while bodies and not self._sum.is_whole(neighbor):
                self._sum.add(neighbor, bodies.popleft(), self._weights[neighbor])
        while not all(map(self._sum.is_whole, self._weights)):
            sender, body = self._sockets.receive()
            if self._sum.is_whole(sender):
                self._early[sender].append(body)
            else:
                self._sum.add(sender, body, self._weights[sender])

    def _weigh_own(self) -> None:
        if self._sent.dtype == torch.float32:
            self._x.mul_(self._own_weight)
            return
        for x, sent in zip(torch.split(self._x, _BLOCK), torch.split(self._sent, _BLOCK), strict=True):
            x.add_(sent, alpha=self._own_weight - 1.0)
