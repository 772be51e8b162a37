"""Compressed encodings of a vector's change.

A body has a head of 16 bytes (kind, seed), the buffers in float32, and the parameters in one of these forms:

- dense: P float32;
- top-k: positions of k values, then these in ascending order of position. Positions are k ascending indices (uint32)
  or, where that is shorter, one bit for each of the P values, in whole words of 32 bits, the lowest bit first;
- random-k: k values, at indices that both ends draw from the seed;
- sign: one bit a value, after a float32 for each block of values, the mean of its absolute values;
- int8: one byte a value, after a float32 for each block, its largest absolute value divided by 127.

P is the number of parameters, k = ⌈F P⌉. The k values are float32, or bfloat16 with --wire-dtype bf16: what rounding
loses stays in the difference of model and replica, like the values that are not sent. The length follows from kind, F,
P and number format, and is checked before anything is read; both ends add exactly the same numbers to their replicas.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.model.vector import is_finite
from p2pfl.payload import ENCODINGS, FP32
from p2pfl.registry import COMPRESSIONS

DENSE = "dense"
KINDS = (DENSE, *COMPRESSIONS)
HEAD = struct.Struct("<B7xQ")
SCALE_BLOCK = 4096  # values that share a scale
WORD = 32  # bits; positions fill whole words, so that the values after them are aligned


@dataclass(frozen=True)
class Compression:
    """Compressor C of a run.

    Its kind, the fraction F of the values that it keeps, and their number format on the wire.
    """

    kind: str
    fraction: float = 1.0
    wire_dtype: str = FP32.name

    @property
    def consensus_step(self) -> float:
        """Default of γ: below what is stable on quadratic objectives and full meshes."""
        steps = {"top-k": min(0.5, 4.0 * self.fraction), "random-k": 0.75 * self.fraction, "sign": 0.5, "int8": 0.8}
        return steps[self.kind]

    def count(self, size: int) -> int:
        """Values that are kept of so many, k."""
        return min(size, max(1, math.ceil(self.fraction * size)))

    def length(self, kind: str, size: int, buffers: int) -> int:
        """Bytes of a body of this kind."""
        values, scales = self._values_length(size), 4 * -(-size // SCALE_BLOCK)
        parts = {DENSE: 4 * size, "top-k": self._positions_length(size) + values, "random-k": values}
        parts |= {"sign": scales + -(-size // 8), "int8": scales + size}
        return HEAD.size + parts[kind] + 4 * buffers

    def lengths(self, size: int, buffers: int) -> tuple[int, int]:
        """Lengths that a body may have."""
        return self.length(DENSE, size, buffers), self.length(self.kind, size, buffers)

    def _values_length(self, size: int) -> int:
        return ENCODINGS[self.wire_dtype].item_bytes * self.count(size)

    def _positions_length(self, size: int) -> int:
        return 4 * min(self.count(size), _words(size))

    def _has_bits(self, size: int) -> bool:
        """Whether positions are bits, which is shorter."""
        return _words(size) < self.count(size)

    def encode(self, change: Tensor, buffers: Tensor, seed: int) -> Tensor:
        """The body of C(change): uint8."""
        return _body(self.kind, seed, self._parts(change, seed), buffers)

    def _parts(self, change: Tensor, seed: int) -> Sequence[Tensor]:
        size = change.numel()
        if self.kind == "top-k":
            kept = torch.topk(change.abs(), self.count(size), sorted=False).indices
            if self._has_bits(size):
                bits = torch.zeros(WORD * _words(size), dtype=torch.bool)
                bits[kept] = True
                return _packed(bits), self._rounded(change[bits[:size]])
            kept = kept.sort().values
            return kept.to(torch.int32), self._rounded(change[kept])
        if self.kind == "random-k":
            return (self._rounded(change[self._drawn(size, seed)]),)
        blocks = _blocks(change)
        if self.kind == "sign":
            counts = torch.full((len(blocks),), float(SCALE_BLOCK))
            counts[-1] = size - SCALE_BLOCK * (len(blocks) - 1)
            return blocks.abs().sum(1) / counts, _packed(change >= 0)
        scales = blocks.abs().amax(1) / 127.0
        steps = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        return scales, steps.round().clamp(-127, 127).to(torch.int8).flatten()[:size]

    def _rounded(self, values: Tensor) -> Tensor:
        return values.to(ENCODINGS[self.wire_dtype].dtype)

    def _values(self, data: Tensor) -> Tensor:
        return data.view(ENCODINGS[self.wire_dtype].dtype)

    def _positions(self, data: Tensor, size: int) -> Tensor:
        """Index of the values: whether each is there, or the places of those that are."""
        return _unpacked(data)[:size] if self._has_bits(size) else data.view(torch.int32).long()

    def _drawn(self, size: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed & (1 << 63) - 1)
        return torch.randperm(size, generator=generator)[: self.count(size)].sort().values

    def add(self, body: Tensor, replica: Tensor, buffers: int) -> None:
        """replica += the decoded change; a dense one replaces it. `buffers`: their number."""
        kind, seed = _head(body)
        size, data = replica.numel(), body[HEAD.size + 4 * buffers :]
        if kind == DENSE:
            replica.copy_(data[: 4 * size].view(torch.float32))
        elif kind == "top-k":
            start = self._positions_length(size)
            replica[self._positions(data[:start], size)] += self._values(data[start:])
        elif kind == "random-k":
            replica[self._drawn(size, seed)] += self._values(data)
        else:
            scales = 4 * -(-size // SCALE_BLOCK)
            factors = data[:scales].view(torch.float32).repeat_interleave(SCALE_BLOCK)[:size]
            rest = data[scales:]
            steps = _unpacked(rest)[:size].float() * 2.0 - 1.0 if kind == "sign" else rest[:size].view(torch.int8)
            replica.add_(factors * steps)

    def verify(self, body: Tensor, size: int, buffers: int) -> None:
        """Raise ProtocolError unless a body can be decoded and all numbers are finite."""
        if body.numel() < HEAD.size:
            raise ProtocolError(Refusal.ENCODING, f"{body.numel()} bytes")
        number, _ = HEAD.unpack(body[: HEAD.size].numpy().tobytes())
        kind = KINDS[number] if number < len(KINDS) else None
        if kind not in (DENSE, self.kind) or body.numel() != self.length(kind, size, buffers):
            raise ProtocolError(Refusal.ENCODING, f"kind {number} with {body.numel()} bytes")
        statistics, data = body[HEAD.size : HEAD.size + 4 * buffers], body[HEAD.size + 4 * buffers :]
        if kind == "top-k":
            start = self._positions_length(size)
            self._verify_positions(data[:start], size)
            numbers = self._values(data[start:])
        elif kind == "random-k":
            numbers = self._values(data)
        elif kind in ("sign", "int8"):
            numbers = data[: 4 * -(-size // SCALE_BLOCK)].view(torch.float32)
        else:
            numbers = data.view(torch.float32)
        if not all(is_finite(part) for part in (numbers, statistics.view(torch.float32)) if part.numel()):
            raise ProtocolError(Refusal.VALUES, "not finite")

    def _verify_positions(self, data: Tensor, size: int) -> None:
        if self._has_bits(size):
            bits = _unpacked(data)
            count, wanted = int(bits.count_nonzero()), self.count(size)
            if count != wanted or bool(bits[size:].any()):
                raise ProtocolError(Refusal.INDICES, f"{count} positions in place of {wanted}, or beyond the end")
            return
        indices = data.view(torch.int32)
        if int(indices.min()) < 0 or int(indices.max()) >= size or not bool((indices[1:] > indices[:-1]).all()):
            raise ProtocolError(Refusal.INDICES, "not ascending, or beyond the end")


def dense(parameters: Tensor, buffers: Tensor) -> Tensor:
    """The body of a whole vector: uint8."""
    return _body(DENSE, 0, (parameters,), buffers)


def statistics_of(body: Tensor, buffers: int) -> Tensor:
    """The buffers in a body."""
    return body[HEAD.size : HEAD.size + 4 * buffers].view(torch.float32)


def is_dense(body: Tensor) -> bool:
    """Whether a body holds a whole vector."""
    return _head(body)[0] == DENSE


def _body(kind: str, seed: int, parts: Sequence[Tensor], buffers: Tensor) -> Tensor:
    head = torch.frombuffer(bytearray(HEAD.pack(KINDS.index(kind), seed)), dtype=torch.uint8)
    return torch.cat([head, *(part.contiguous().view(torch.uint8) for part in (buffers, *parts))])


def _head(body: Tensor) -> tuple[str, int]:
    number, seed = HEAD.unpack(body[: HEAD.size].numpy().tobytes())
    return KINDS[number], seed


def _blocks(change: Tensor) -> Tensor:
    rows = -(-change.numel() // SCALE_BLOCK)
    return functional.pad(change, (0, rows * SCALE_BLOCK - change.numel())).view(rows, SCALE_BLOCK)


def _words(size: int) -> int:
    """Words that so many bits fill."""
    return -(-size // WORD)


def _packed(bits: Tensor) -> Tensor:
    """Eight bits to a byte, the first one lowest, the last byte filled with zeros."""
    return torch.from_numpy(np.packbits(bits.numpy(), bitorder="little"))


def _unpacked(packed: Tensor) -> Tensor:
    """Bits (8 · bytes,) as bool."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), bitorder="little")).view(torch.bool)
