"""Compressed encodings: exact at both ends, and checked before they are read."""

from __future__ import annotations

import struct

import pytest
import torch

from p2pfl.algorithms.compression import HEAD, KINDS, SCALE_BLOCK, Compression, dense
from p2pfl.errors import ProtocolError, Refusal

ALL = [
    Compression("top-k", 0.1),
    Compression("top-k", 1.0),
    Compression("random-k", 0.1),
    Compression("sign"),
    Compression("int8"),
]
SIZES = [1, 7, 100, SCALE_BLOCK, SCALE_BLOCK + 9]


def change_of(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def decoded(compression: Compression, body: torch.Tensor, size: int, buffers: int = 0) -> torch.Tensor:
    replica = torch.zeros(size)
    compression.add(body, replica, buffers)
    return replica


@pytest.mark.parametrize("compression", ALL, ids=str)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("buffers", [0, 3])
def test_a_body_has_the_length_that_is_checked_and_shrinks_what_is_left(
    compression: Compression, size: int, buffers: int
) -> None:
    change, statistics = change_of(size), torch.arange(float(buffers))
    body = compression.encode(change, statistics, seed=2**63 + 5)
    assert body.dtype == torch.uint8
    assert body.numel() == compression.lengths(size, buffers)[1]
    compression.verify(body, size, buffers)
    found = decoded(compression, body, size, buffers)
    assert (change - found).norm() < change.norm()
    whole = dense(change, statistics)
    compression.verify(whole, size, buffers)
    assert torch.equal(decoded(compression, whole, size, buffers), change)


def test_what_the_compressors_keep() -> None:
    change = torch.tensor([0.5, -4.0, 0.1, 3.0, -0.2, 0.0, 1.0, -1.0])
    none = torch.empty(0)
    top = Compression("top-k", 0.25)
    kept = decoded(top, top.encode(change, none, 0), 8)
    assert kept.tolist() == [0.0, -4.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    random = Compression("random-k", 0.25)
    found = decoded(random, random.encode(change + 9, none, 3), 8)
    assert int(found.count_nonzero()) == 2
    assert set(found.tolist()) <= {0.0, *(change + 9).tolist()}
    sign = Compression("sign")
    signs = decoded(sign, sign.encode(change, none, 0), 8)
    torch.testing.assert_close(signs, torch.where(change >= 0, 1.0, -1.0) * change.abs().mean())
    int8 = Compression("int8")
    torch.testing.assert_close(decoded(int8, int8.encode(change, none, 0), 8), change, atol=4.0 / 254 + 1e-6, rtol=0)
    assert decoded(int8, int8.encode(torch.zeros(8), none, 0), 8).tolist() == [0.0] * 8


def patched(body: torch.Tensor, place: int, data: bytes) -> torch.Tensor:
    found = body.clone()
    found[place : place + len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    return found


NAN = struct.pack("<f", float("nan"))
START = HEAD.size + 4 * 3  # after three buffers


@pytest.mark.parametrize(
    ("kind", "damage", "code"),
    [
        ("top-k", lambda body: body[:-4], Refusal.ENCODING),
        ("top-k", lambda body: body[:8], Refusal.ENCODING),
        ("top-k", lambda body: patched(body, 0, b"\xff"), Refusal.ENCODING),
        ("top-k", lambda body: patched(body, 0, bytes([KINDS.index("sign")])), Refusal.ENCODING),
        ("top-k", lambda body: patched(body, START, struct.pack("<i", -1)), Refusal.INDICES),
        ("top-k", lambda body: patched(body, START + 36, struct.pack("<i", 100)), Refusal.INDICES),
        ("top-k", lambda body: patched(body, START + 36, struct.pack("<I", 2**32 - 1)), Refusal.INDICES),
        ("top-k", lambda body: patched(body, START + 4, bytes(body[START : START + 4].tolist())), Refusal.INDICES),
        ("top-k", lambda body: patched(body, START + 40, NAN), Refusal.VALUES),
        ("top-k", lambda body: patched(body, HEAD.size, NAN), Refusal.VALUES),
        ("random-k", lambda body: patched(body, START, NAN), Refusal.VALUES),
        ("sign", lambda body: patched(body, START, NAN), Refusal.VALUES),
        ("int8", lambda body: patched(body, START, struct.pack("<f", float("inf"))), Refusal.VALUES),
    ],
)
def test_hostile_bodies_are_refused_by_code(kind: str, damage, code: Refusal) -> None:  # type: ignore[no-untyped-def]
    compression = Compression(kind, 0.1)
    body = compression.encode(change_of(100), torch.ones(3), 1)
    compression.verify(body, 100, 3)
    with pytest.raises(ProtocolError) as caught:
        compression.verify(damage(body), 100, 3)
    assert caught.value.code is code
