"""Values that algorithms pass on: payloads, and requests to local training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:  # the command line reads encodings' names without torch
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """Number format of a vector on the wire.

    `name` is used in messages and settings. `carrier`: NumPy's type of the same size, as which received bytes are read;
    NumPy has no bfloat16. `lengths`: of an encoding of variable length, by the number of the vector's elements: its
    possible lengths in bytes, that of the first payload on an edge first and the usual one last. `verify`: raises
    ProtocolError for a complete vector that cannot be decoded, given as pieces, with the number of elements.
    """

    name: str
    torch_name: str
    carrier: np.dtype[Any]
    lengths: Callable[[int], Collection[int]] | None = field(default=None, compare=False)
    verify: Callable[[Sequence[Tensor], int], None] | None = field(default=None, compare=False)

    @cached_property
    def dtype(self) -> torch.dtype:
        """PyTorch data type."""
        import torch

        dtype: torch.dtype = getattr(torch, self.torch_name)
        return dtype

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return self.carrier.itemsize


FP32 = Encoding("fp32", "float32", np.dtype("<f4"))
BF16 = Encoding("bf16", "bfloat16", np.dtype("<i2"))
ENCODINGS: Mapping[str, Encoding] = {encoding.name: encoding for encoding in (FP32, BF16)}
COMPRESSED = Encoding("compressed", "uint8", np.dtype("u1"))
"""Bytes of an algorithm's own encoding, of variable length."""
WIRE_ENCODINGS: Mapping[str, Encoding] = {**ENCODINGS, COMPRESSED.name: COMPRESSED}
ITEM_BYTES: Mapping[str, int] = {name: encoding.item_bytes for name, encoding in ENCODINGS.items()}


class Borrowed(list["Tensor"]):
    """Pieces of a vector in a neighbor's shared memory.

    The neighbor may still write them; nothing can write them here. Their numbers must be copied before they are checked
    and used, each once (`blockwise.side_by_side` does so).
    """


@dataclass(frozen=True)
class Payload:
    """Payload of a peer for a neighbor: named vectors and scalars.

    A scalar is for example push-sum's weight. Each vector is given as consecutive one-dimensional pieces in
    its encoding's number format: one piece at the sender, one a chunk at the receiver, which never joins them.

    is_stable: its sender asks `VectorMemory.writable` before it writes these vectors, so that neighbors may read them
    where they are.
    """

    vectors: Mapping[str, Sequence[Tensor]]
    scalars: Mapping[str, float] = field(default_factory=dict)
    is_stable: bool = False

    def rest(self, received: Mapping[str, int]) -> Payload:
        """Rest of the payload, without the first `received[name]` elements of each vector.

        Each vector must be given as one piece.

        Examples:
            >>> import torch
            >>> Payload({"x": [torch.arange(3.0)]}).rest({"x": 1}).vectors["x"]
            [tensor([1., 2.])]
        """
        vectors = {name: [piece[received.get(name, 0) :]] for name, (piece,) in self.vectors.items()}
        return Payload(vectors, self.scalars)


class VectorMemory:
    """Memory of vectors that a process sends.

    It is the process's own, or `lend` is set: then neighbors can read what it returns where it is, without a copy.
    """

    def __init__(self) -> None:
        self.lend: Callable[[Tensor], Tensor] | None = None
        """Takes a vector that is about to be written, and returns it or another like it, uninitialized."""

    def writable(self, vector: Tensor) -> Tensor:
        """Return a vector that nobody reads: this one, or another like it, uninitialized.

        Its numbers are about to be overwritten. Only between rounds, when what was sent before has been delivered.
        """
        return vector if self.lend is None else self.lend(vector)


class Receipt(NamedTuple):
    """Last round of which a peer has a neighbor's payload.

    digest: of what it made of the payloads so far, as the algorithm says; 0: not known.
    """

    round: int = 0
    digest: int = 0


@dataclass(frozen=True)
class LocalTraining:
    """Request to one round of local training.

    Tensors are flat float32 vectors, (size,), laid out like x; an algorithm does not write them before the training is
    over.
    """

    momentum: Literal["local", "reset"] | Tensor = "local"
    """Place of the optimizer's momentum: kept locally from round to round, reset to 0 before each round (AdamW: both
    moments and its number of steps), or given by the algorithm: then every step of the round starts from this vector,
    as in quasi-global momentum. SGD's alone can be given."""
    carried_momentum: Tensor | None = None
    """Vector of SGD's momentum that the algorithm carries from round to round, in place of the local one: the first
    step starts from it, and training sets it to the momentum after the last. Not read before the training is over."""
    correction: Tensor | None = None
    """Vector added to each step's gradient before the optimizer's step, as in gradient tracking."""
    gradient_sum: Tensor | None = None
    """Vector that training sets to the sum of all steps' gradients, with the correction and without proximal pull and
    weight decay; 0 at the places of buffers. Not read before the training is over."""
    proximal: float = 0.0
    """μ of the pull μ (w − w_before) added to each step's gradient: FedProx (Li et al. 2020, algorithm 2)."""
    reestimates: bool = False
    """No steps: the running statistics of batch normalization are re-estimated on the peer's own samples."""
