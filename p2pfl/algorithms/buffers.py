"""Buffers of a peer that mixes once a round: own vector, sent vector, mix.

In both orders and encodings nothing that is being sent is written, and as little is copied as that allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from p2pfl.payload import FP32, Encoding, Payload, VectorMemory


@dataclass
class Buffers:
    """Flat vectors, each (size,).

    x: trained in place. own: x at the exchange. sent: own in its encoding. mixed: destination of the mix.

    Unless the exchange is overlapped, x is not trained while neighbors' vectors come in, so own is x. In float32 x
    itself is sent then, and trades places with mixed at the end of the round; in another encoding the mix goes to x.
    """

    x: Tensor
    own: Tensor
    sent: Tensor
    mixed: Tensor
    overlapped: bool

    @classmethod
    def of_vector(cls, x: Tensor, overlapped: bool, encoding: Encoding) -> Buffers:
        """Buffers for a peer's x, which is kept itself, not a copy."""
        exact = encoding == FP32
        if overlapped:
            own, mixed = torch.empty_like(x), torch.empty_like(x)
        else:
            own, mixed = x, vector_like(x) if exact else x
        sent = own if exact else torch.empty_like(x, dtype=encoding.dtype)
        return cls(x, own, sent, mixed, overlapped)

    @property
    def is_exact(self) -> bool:
        """Whether the vector travels as it is, in float32."""
        return self.sent is self.own

    @property
    def payload(self) -> Payload:
        """The peer's vector of this round as it travels."""
        return Payload({"x": (self.sent,)}, is_stable=True)

    def begin(self, memory: VectorMemory) -> None:
        """Take x as it is now for this round's exchange.

        Where vectors may have been lent to neighbors, `memory` says which of them can be written in this round.
        """
        is_exact = self.is_exact
        if is_exact and self.overlapped:
            self.own = self.sent = memory.writable(self.own)
        elif is_exact:
            self.mixed = memory.writable(self.mixed)
        else:
            self.sent = memory.writable(self.sent)
        if self.own is not self.x:
            self.own.copy_(self.x)
        if self.sent is not self.own:
            self.sent.copy_(self.own)

    def finish(self, statistics: Sequence[slice] = ()) -> Tensor:
        """End the round with the complete mix.

        Returns the next x. Overlapped training is added to the mix, but `statistics`, such as running variances, become
        the mean of the mix and the trained ones: where training makes a variance smaller by more than the mix of the
        neighbors' has, the sum would be negative.
        """
        if self.overlapped:
            between = [self.x[place].add(self.mixed[place]).mul_(0.5) for place in statistics]
            self.x.sub_(self.own).add_(self.mixed)
            for place, values in zip(statistics, between, strict=True):
                self.x[place] = values
            return self.x
        if self.mixed is not self.x:
            self.x, self.mixed = self.mixed, self.x
            self.own = self.sent = self.x
        return self.x


def vector_like(x: Tensor) -> Tensor:
    """An uninitialized vector that may take the place of x.

    Pinned for transfers to a GPU if x is.
    """
    return torch.empty_like(x, pin_memory=x.is_pinned())
