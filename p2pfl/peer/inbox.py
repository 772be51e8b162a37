"""What one peer receives: leave to send, granted in peer order, and vectors put in their place.

At most four vectors are outstanding (granted and not yet folded), so memory does not grow with the degree, and
rings and tori never wait for leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p2pfl.errors import ProtocolError
from p2pfl.gossip import Algorithm, Hoods, Payload
from p2pfl.wire import ITEM_BYTES, Buffer, Header, Message

WINDOW = 4
_NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ITEMS: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "bf16": np.dtype("<i2")}  # numpy has no bfloat16


@dataclass
class _Arrival:
    """One sender's payload of one round, as far as it has come."""

    pieces: dict[str, list[Tensor]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    complete: bool = False


class Inbox:
    """Grants and arrivals, keyed by (round, sender): the order in which leave is given."""

    def __init__(self, hoods: Hoods, size: int, algorithm_of: Callable[[int], Algorithm[object]], last_round: int):
        self._hoods = hoods
        self._size = size
        self._algorithm_of = algorithm_of
        self._last_round = last_round
        self._outstanding: dict[tuple[int, int], _Arrival] = {}
        self._taken: set[tuple[int, int]] = set()

    def grant(self, round: int) -> list[tuple[int, int]]:
        """Further (round, sender) that get leave now, in peer order: those of this round, then of the next."""
        new: list[tuple[int, int]] = []
        self._taken = {key for key in self._taken if key[0] >= round - 1}  # the last one, for late duplicates
        for number in range(round, min(round + 1, self._last_round) + 1):
            for sender in sorted(self._hoods(number).incoming):
                key = (number, sender)
                if len(self._outstanding) >= WINDOW:
                    return new
                if key not in self._outstanding and key not in self._taken:
                    self._outstanding[key] = _Arrival()
                    new.append(key)
        return new

    def granted_to(self, sender: int) -> list[int]:
        """Rounds for which a sender has leave and has not delivered everything."""
        return [r for (r, s), arrival in self._outstanding.items() if s == sender and not arrival.complete]

    def taken_from(self, sender: int) -> list[int]:
        """Rounds of which a sender has delivered everything, as far as they may still be asked about."""
        whole = {r for (r, s), arrival in self._outstanding.items() if s == sender and arrival.complete}
        return sorted(whole | {r for r, s in self._taken if s == sender})

    def missing(self, round: int) -> set[int]:
        """Senders whose payload of this round is not complete."""
        keys = {(round, sender) for sender in self._hoods(round).incoming} - self._taken
        arrivals = {sender: self._outstanding.get((round, sender)) for _, sender in keys}
        return {sender for sender, arrival in arrivals.items() if arrival is None or not arrival.complete}

    def add(self, message: Message) -> bool:
        """Take a chunk; True when its payload is complete, now or already (so that it is acknowledged, again).

        Raises ProtocolError for a chunk without leave, of another size, or out of order.
        """
        header = message.header
        key = (header.round, header.sender)
        if key in self._taken:
            return self._is_last(header)
        arrival = self._outstanding.get(key)
        if arrival is None:
            raise ProtocolError(f"round: a chunk of round {header.round} without leave")
        if arrival.complete:
            return self._is_last(header)
        self._check(header)
        have = arrival.bytes.get(header.vector, 0)
        if header.offset < have:
            return False  # sent again after a broken connection; a payload does not change, so what is here stays
        if header.offset > have:
            raise ProtocolError(f"offset: {header.offset} is not the next chunk")
        arrival.pieces.setdefault(header.vector, []).append(_tensor(message.body, header.codec))
        arrival.bytes[header.vector] = have + header.length
        arrival.scalars = dict(header.scalars)
        total = self._size * ITEM_BYTES[header.codec]
        wanted = self._algorithm_of(header.round).vectors
        arrival.complete = all(arrival.bytes.get(name) == total for name in wanted)
        return arrival.complete

    def take(self, round: int, sender: int) -> Payload | None:
        """A complete payload, once; None as long as it is not."""
        arrival = self._outstanding.get((round, sender))
        if arrival is None or not arrival.complete:
            return None
        del self._outstanding[round, sender]
        self._taken.add((round, sender))
        return Payload(arrival.pieces, arrival.scalars)

    def _check(self, header: Header) -> None:
        algorithm = self._algorithm_of(header.round)
        if header.codec != algorithm.codec:
            raise ProtocolError(f"codec: {header.codec} instead of {algorithm.codec}")
        if header.vector not in algorithm.vectors:
            raise ProtocolError(f"vector: there is no {header.vector!r} here")
        if header.offset + header.length > self._size * ITEM_BYTES[header.codec]:
            raise ProtocolError("length: the vector is longer than the model")

    def _is_last(self, header: Header) -> bool:
        names = self._algorithm_of(header.round).vectors
        end = header.offset + header.length
        return header.vector == names[-1] and end == self._size * ITEM_BYTES.get(header.codec, 0)


def _tensor(body: Buffer, codec: str) -> Tensor:
    """Received bytes as a one-dimensional tensor, without a copy unless their address is odd or read-only."""
    numbers = np.frombuffer(body, _ITEMS[codec])
    if not (numbers.flags.aligned and numbers.flags.writeable):
        numbers = numbers.copy()
    return torch.from_numpy(numbers).view(_NUMBERS[codec])
