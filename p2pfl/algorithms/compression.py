"""Compressed encodings of a vector's change.

A body has a head of 16 bytes (kind, seed), the buffers in float32, and the parameters in one of these forms:

- dense: P float32;
- top-k: k indices in ascending order (uint32), their k values (float32);
- random-k: k float32, at indices that both ends draw from the seed;
- sign: one bit a value, after a float32 for each block of values, the mean of its absolute values;
- int8: one byte a value, after a float32 for each block, its largest absolute value divided by 127.

P is the number of parameters, k = ⌈F P⌉. So the length follows from kind, F and P, and is checked before anything is
read; both ends add exactly the same numbers to their replicas.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from p2pfl.errors import ProtocolError, Refusal
from p2pfl.model.vector import is_finite
from p2pfl.registry import COMPRESSIONS

DENSE = "dense"
KINDS = (DENSE, *COMPRESSIONS)
HEAD = struct.Struct("<B7xQ")
SCALE_BLOCK = 4096  # values that share a scale


@dataclass(frozen=True)
class Compression:
    """Compressor C of a run: its kind, and the fraction F of the values that it keeps."""

    kind: str
    fraction: float = 1.0

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
        kept, scales = self.count(size), 4 * -(-size // SCALE_BLOCK)
        parts = {DENSE: 4 * size, "top-k": 8 * kept, "random-k": 4 * kept}
        parts |= {"sign": scales + -(-size // 8), "int8": scales + size}
        return HEAD.size + parts[kind] + 4 * buffers

    def lengths(self, size: int, buffers: int) -> tuple[int, int]:
        """Lengths that a body may have."""
        return self.length(DENSE, size, buffers), self.length(self.kind, size, buffers)

    def encode(self, change: Tensor, buffers: Tensor, seed: int) -> Tensor:
        """The body of C(change): uint8."""
        return _body(self.kind, seed, self._parts(change, seed), buffers)

    def _parts(self, change: Tensor, seed: int) -> Sequence[Tensor]:
        size = change.numel()
        if self.kind == "top-k":
            kept = torch.topk(change.abs(), self.count(size), sorted=False).indices.sort().values
            return kept.to(torch.int32), change[kept]
        if self.kind == "random-k":
            return (change[self._drawn(size, seed)],)
        blocks = _blocks(change)
        if self.kind == "sign":
            counts = torch.full((len(blocks),), float(SCALE_BLOCK))
            counts[-1] = size - SCALE_BLOCK * (len(blocks) - 1)
            return blocks.abs().sum(1) / counts, _packed(change >= 0)
        scales = blocks.abs().amax(1) / 127.0
        steps = blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        return scales, steps.round().clamp(-127, 127).to(torch.int8).flatten()[:size]

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
            kept = self.count(size)
            replica[data[: 4 * kept].view(torch.int32).long()] += data[4 * kept : 8 * kept].view(torch.float32)
        elif kind == "random-k":
            replica[self._drawn(size, seed)] += data[: 4 * self.count(size)].view(torch.float32)
        else:
            scales = 4 * -(-size // SCALE_BLOCK)
            factors = data[:scales].view(torch.float32).repeat_interleave(SCALE_BLOCK)[:size]
            rest = data[scales:]
            steps = _unpacked(rest, size) if kind == "sign" else rest[:size].view(torch.int8)
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
            kept = self.count(size)
            indices = data[: 4 * kept].view(torch.int32)
            if int(indices.min()) < 0 or int(indices.max()) >= size or not bool((indices[1:] > indices[:-1]).all()):
                raise ProtocolError(Refusal.INDICES, "not ascending, or beyond the end")
            numbers = data[4 * kept :]
        elif kind in ("sign", "int8"):
            numbers = data[: 4 * -(-size // SCALE_BLOCK)]
        else:
            numbers = data
        if not all(is_finite(part.view(torch.float32)) for part in (numbers, statistics) if part.numel()):
            raise ProtocolError(Refusal.VALUES, "not finite")


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


def _packed(bits: Tensor) -> Tensor:
    padded = functional.pad(bits.to(torch.uint8), (0, -bits.numel() % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (padded * powers).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, size: int) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8)
    bits = (packed[: -(-size // 8), None] >> shifts) & 1
    return bits.flatten()[:size].to(torch.float32) * 2.0 - 1.0
