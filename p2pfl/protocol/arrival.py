"""One sender's payload of one round as it comes: pieces, copied and checked.

Bodies of messages are this process's own memory; their numbers are checked as they come. Those in shared memory are
copied where they are used, in blocks that stay in the cache, and it is the copies that are checked: their sender may
write amid that, and can so send nothing that it could not have sent in a message. Where an algorithm reads each number
once and looks at what comes out (`Algorithm.add_borrowed`), no copies are needed for the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from p2pfl.algorithms.blockwise import BLOCK, Scratch
from p2pfl.errors import ProtocolError, Refusal
from p2pfl.model.vector import is_finite
from p2pfl.payload import COMPRESSED, WIRE_ENCODINGS, Borrowed, Encoding, Payload
from p2pfl.protocol.wire import Buffer, Message


class Form(Protocol):
    """Names and encodings of a payload's vectors; each algorithm has its own."""

    @property
    def encodings(self) -> Mapping[str, Encoding]:
        """Encoding of each vector, in the order in which they travel."""

    @property
    def streaming(self) -> bool:
        """Whether parts are taken as they come."""

    @property
    def reads_borrowed(self) -> bool:
        """Whether whole vectors are taken as they lie in their senders' shared memory."""


class UnusableError(ProtocolError):
    """A vector that is given up.

    Its numbers were not finite when they were to be averaged.
    """

    def __init__(self, round: int, sender: int) -> None:
        super().__init__(Refusal.VALUES, "not finite")
        self.round = round
        self.sender = sender


@dataclass
class Arrival:
    """One sender's payload of one round, as far as it has come."""

    pieces: dict[str, list[Tensor]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)  # bytes of whole vectors
    scalars: dict[str, float] = field(default_factory=dict)
    complete: bool = False
    begun: bool = False  # a part has been taken
    is_borrowed: bool = False  # some pieces are memory that the sender may still write

    def lies_whole(self, form: Form) -> bool:
        """Whether all of it, untouched, lies in the sender's shared memory.

        Its vectors have come in their order, so that its blocks are those of others at the same places.
        """
        is_untouched = self.complete and self.is_borrowed and not self.begun
        is_in_order = list(self.pieces) == list(form.encodings)
        return is_untouched and is_in_order and all(len(pieces) == 1 for pieces in self.pieces.values())

    def piece(self, message: Message, form: Form) -> Tensor:
        """Numbers of a chunk, checked.

        Those in shared memory are copied, or stay there where they are used one after the other, or as they lie there.
        Raises ProtocolError.
        """
        encoding = WIRE_ENCODINGS[message.header.codec]
        if message.is_shared and encoding != COMPRESSED and (form.streaming or form.reads_borrowed):
            self.is_borrowed = True
            piece = _read_only(message.body, encoding)
            return piece if form.streaming else _checked(piece)
        piece = _tensor(message.body, encoding)
        return piece if encoding == COMPRESSED else _checked(piece)

    def whole(self, borrows: bool) -> Mapping[str, Sequence[Tensor]]:
        """All pieces, in this process's memory or, if the caller `borrows`, as they lie.

        Raises ProtocolError.
        """
        if not self.is_borrowed:
            return self.pieces
        if borrows:
            return {name: Borrowed(pieces) for name, pieces in self.pieces.items()}
        return {name: [_checked(piece.clone()) for piece in pieces] for name, pieces in self.pieces.items()}

    def part(self, scratch: Scratch) -> Mapping[str, Sequence[Tensor]]:
        """Take what there is, or the next block of shared memory, valid until the next.

        Raises ProtocolError.
        """
        if not self.is_borrowed:
            taken, self.pieces = self.pieces, {}
            return taken
        name, block = self.next_block()
        self.skip_block()
        return {name: [_checked(scratch.copy(block))]}

    def next_block(self) -> tuple[str, Tensor]:
        """Next block of shared memory, as it lies there, and its vector's name."""
        name, pieces = next(iter(self.pieces.items()))
        return name, pieces[0][:BLOCK]

    def skip_block(self) -> None:
        """Count the next block of shared memory as taken."""
        name, block = self.next_block()
        pieces = self.pieces[name]
        rest = pieces[0][block.numel() :]
        if rest.numel():
            pieces[0] = rest
        else:
            pieces.pop(0)
        if not pieces:
            del self.pieces[name]


def first_block(payload: Payload, form: Form) -> Payload:
    """First block of a peer's own payload, cut as neighbors' are by `Arrival`.

    In the same order of vectors; all of it where it has no numbers.
    """
    left = {name: pieces[0] for name, pieces in payload.vectors.items() if pieces[0].numel()}
    for name in [*form.encodings, *left]:
        if name in left:
            return Payload({name: (left[name][:BLOCK],)}, payload.scalars)
    return payload


def _checked(piece: Tensor) -> Tensor:
    """Return a piece.

    Raises ProtocolError for a number not finite, which would spoil every average that it went into.
    """
    if not is_finite(piece):
        raise ProtocolError(Refusal.VALUES, "not finite")
    return piece


def _tensor(body: Buffer, encoding: Encoding) -> Tensor:
    """View received bytes as a tensor; copied where they are odd or read-only."""
    numbers = np.frombuffer(body, encoding.carrier)
    if not (numbers.flags.aligned and numbers.flags.writeable):
        numbers = numbers.copy()
    return torch.from_numpy(numbers).view(encoding.dtype)


def _read_only(body: Buffer, encoding: Encoding) -> Tensor:
    """View numbers in memory that cannot be written here."""
    _warn_once()
    return torch.from_numpy(np.frombuffer(body, encoding.carrier)).view(encoding.dtype)


@cache
def _warn_once() -> None:
    """Spend torch's only warning that a read-only array became a tensor.

    It could be written to by mistake only: nothing here writes to what a neighbor sent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(np.frombuffer(b"\0", np.uint8))
