"""Compressed encodings: exact at both ends, and checked before they are read."""

from __future__ import annotations

import struct

import pytest
import torch

from p2pfl.algorithms.compression import HEAD, KINDS, SCALE_BLOCK, Compression, dense
from p2pfl.errors import ProtocolError, Refusal

ALL = [
    Compression("top-k", 0.1),
    Compression("top-k", 0.1, "bf16"),
    Compression("top-k", 0.01),
    Compression("top-k", 0.01, "bf16"),
    Compression("top-k", 1.0),
    Compression("random-k", 0.1),
    Compression("random-k", 0.1, "bf16"),
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


@pytest.mark.parametrize("kind", ["top-k", "random-k"])
@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_kept_values_travel_as_bfloat16_if_asked_for(kind: str, fraction: float) -> None:
    """At the same positions, rounded to eight bits."""
    change, none = change_of(1000), torch.empty(0)
    exact, rounded = Compression(kind, fraction), Compression(kind, fraction, "bf16")
    bodies = [one.encode(change, none, 7) for one in (exact, rounded)]
    assert bodies[0].numel() - bodies[1].numel() == 2 * exact.count(1000)
    found = [decoded(one, body, 1000) for one, body in zip((exact, rounded), bodies, strict=True)]
    assert torch.equal(found[0].bfloat16().float(), found[1])


@pytest.mark.parametrize(("fraction", "positions"), [(0.1, 4 * 32), (0.033, 4 * 32), (0.032, 4 * 32), (0.03, 4 * 30)])
def test_positions_take_the_shorter_of_two_forms(fraction: float, positions: int) -> None:
    """A bit for each of 1,000 values, in whole words, or 4 bytes for each one kept."""
    compression = Compression("top-k", fraction)
    assert compression.length("top-k", 1000, 0) == HEAD.size + positions + 4 * compression.count(1000)


def test_many_values_fill_the_positions_in_order() -> None:
    """The first value is the lowest bit."""
    body = Compression("top-k", 0.5).encode(torch.tensor([9.0, 0.0, 0.0, 8.0, 7.0, 0.0]), torch.empty(0), 0)
    assert body[HEAD.size :].tolist() == [0b11001, 0, 0, 0, *struct.pack("<3f", 9.0, 8.0, 7.0)]


def patched(body: torch.Tensor, place: int, data: bytes) -> torch.Tensor:
    found = body.clone()
    found[place : place + len(data)] = torch.tensor(list(data), dtype=torch.uint8)
    return found


NAN = struct.pack("<f", float("nan"))
START = HEAD.size + 4 * 3  # after three buffers
BITS, INDICES = Compression("top-k", 0.1), Compression("top-k", 0.03)  # positions of ten and of three of 100 values


@pytest.mark.parametrize(
    ("compression", "damage", "code"),
    [
        (BITS, lambda body: body[:-4], Refusal.ENCODING),
        (BITS, lambda body: body[:8], Refusal.ENCODING),
        (BITS, lambda body: patched(body, 0, b"\xff"), Refusal.ENCODING),
        (BITS, lambda body: patched(body, 0, bytes([KINDS.index("sign")])), Refusal.ENCODING),
        (BITS, lambda body: patched(body, START, b"\xff\xff"), Refusal.INDICES),
        (BITS, lambda body: patched(body, START, bytes(16)), Refusal.INDICES),
        (BITS, lambda body: patched(body, START, bytes(12) + b"\x00\xff\x03\x00"), Refusal.INDICES),  # beyond the end
        (BITS, lambda body: patched(body, START + 16, NAN), Refusal.VALUES),
        (BITS, lambda body: patched(body, HEAD.size, NAN), Refusal.VALUES),
        (INDICES, lambda body: patched(body, START, struct.pack("<i", -1)), Refusal.INDICES),
        (INDICES, lambda body: patched(body, START + 8, struct.pack("<i", 100)), Refusal.INDICES),
        (INDICES, lambda body: patched(body, START + 8, struct.pack("<I", 2**32 - 1)), Refusal.INDICES),
        (INDICES, lambda body: patched(body, START + 4, bytes(body[START : START + 4].tolist())), Refusal.INDICES),
        (INDICES, lambda body: patched(body, START + 12, NAN), Refusal.VALUES),
        (Compression("top-k", 0.1, "bf16"), lambda body: patched(body, START + 16, b"\x80\x7f"), Refusal.VALUES),
        (Compression("random-k", 0.1, "bf16"), lambda body: patched(body, START, b"\x80\x7f"), Refusal.VALUES),
        (Compression("random-k", 0.1), lambda body: patched(body, START, NAN), Refusal.VALUES),
        (Compression("sign"), lambda body: patched(body, START, NAN), Refusal.VALUES),
        (Compression("int8"), lambda body: patched(body, START, struct.pack("<f", float("inf"))), Refusal.VALUES),
    ],
)
def test_hostile_bodies_are_refused_by_code(compression: Compression, damage, code: Refusal) -> None:  # type: ignore[no-untyped-def]
    body = compression.encode(change_of(100), torch.ones(3), 1)
    compression.verify(body, 100, 3)
    with pytest.raises(ProtocolError) as caught:
        compression.verify(damage(body), 100, 3)
    assert caught.value.code is code
