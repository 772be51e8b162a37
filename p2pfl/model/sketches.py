"""Count sketches of weight vectors, which estimate the consensus distance."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p2pfl import seeding

SKETCH_BUCKETS = 4096
VERSION = 2  # of the files and of how a sketch is made: those of two versions cannot be compared
_SPAN = 32 * SKETCH_BUCKETS  # numbers added at a time to a sum that stays in the cache
_BLOCKS = 16  # added to the buckets at a time

Vector = npt.NDArray[np.float32]


def sketch(vector: Vector, seed: int) -> Vector:
    """Count sketch of a weight vector, (4096,) float32.

    Charikar, Chen & Farach-Colton 2002, Finding frequent items in data streams. Every element gets a random sign and is
    added to a bucket. Sketches are linear, and the squared distance of two sketches is an unbiased estimate of the
    squared distance of the vectors, wherever in them the difference lies, with a relative standard deviation of at most
    sqrt(2 (1/4096 + 1/131072)) = 2.3 %. So a distance is known to about 1.1 %. All peers of a run must use the same
    seed.

    There are two stages, since the first is a pass over the whole model in every round: it adds up spans of 131,072
    elements, the second blocks of 4,096 of that sum. Each span or block is rotated by a random offset, so that two
    elements of different ones share a bucket with probability 1/131,072 or 1/4096, and two of one never do. Sums of
    the first stage are float32, those of the second float64: equal vectors have equal sketches, and differences
    below some 10⁻⁷ of the vectors' length drown in rounding.

    A vector with an element that is not finite has a sketch with such an element.
    """
    with np.errstate(all="ignore"):
        return _into_buckets(_folded(vector, seed), seed)


def _folded(vector: Vector, seed: int) -> Vector:
    """Signed sum of a vector's spans: at most (131072,) float32.

    A shorter vector is returned as it is.
    """
    if vector.size <= _SPAN:
        return vector
    signs, starts = _signs(seed), range(0, vector.size, _SPAN)
    total, product = np.zeros(2 * _SPAN, np.float32), np.empty(_SPAN, np.float32)
    for start, (offset, first, flip) in zip(starts, _spans(seed, len(starts)), strict=True):
        part = vector[start : start + _SPAN]
        signed = np.multiply(part, signs[first : first + part.size], out=product[: part.size])
        here = total[offset : offset + part.size]
        (np.subtract if flip else np.add)(here, signed, out=here)
    return total[:_SPAN] + total[_SPAN:]


@functools.lru_cache(maxsize=1)
def _spans(seed: int, count: int) -> list[tuple[int, int, int]]:
    """Offset of each span, start of its window of signs, and whether that is flipped."""
    rng = seeding.numpy_generator(seed, "sketch/spans")
    draws, flips = rng.integers(0, _SPAN, (count, 2)), rng.integers(0, 2, count)
    return list(zip(*draws.T.tolist(), flips.tolist(), strict=True))


@functools.lru_cache(maxsize=1)
def _signs(seed: int) -> Vector:
    """Random signs, (262144,), of which each span uses a window.

    At a random place, and with a random sign for the whole window.
    """
    words = seeding.numpy_generator(seed, "sketch/signs").integers(0, 2**64, 2 * _SPAN // 64, dtype=np.uint64)
    return 1 - 2 * np.unpackbits(words.view(np.uint8)).astype(np.float32)


def _into_buckets(vector: Vector, seed: int) -> Vector:
    """Count sketch by blocks of 4,096, each with random signs and an offset."""
    signs, offsets = _blocks(seed, -(-vector.size // SKETCH_BUCKETS))
    buckets = np.zeros(SKETCH_BUCKETS, np.float64)
    signed = np.zeros(_BLOCKS * SKETCH_BUCKETS, np.uint32)
    # Some blocks at once and signs flipped as bits: a third of the time of a multiplication for each block.
    for start in range(0, vector.size, signed.size):
        part = vector[start : start + signed.size]
        np.bitwise_xor(signs[start : start + part.size], part.view(np.uint32), out=signed[: part.size])
        signed[part.size :] = 0
        wide = signed.view(np.float32).astype(np.float64).reshape(_BLOCKS, SKETCH_BUCKETS)
        for offset, block in zip(offsets[start // SKETCH_BUCKETS :], wide, strict=False):
            buckets[offset:] += block[: SKETCH_BUCKETS - offset]
            buckets[:offset] += block[SKETCH_BUCKETS - offset :]
    return buckets.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _blocks(seed: int, count: int) -> tuple[npt.NDArray[np.uint32], list[int]]:
    """Sign bits of the elements of so many blocks, (4096 count,), and their offsets.

    Drawn once: that takes longer than a sketch, which a peer makes in every round.
    """
    rng = seeding.numpy_generator(seed, "sketch")
    words = rng.integers(0, 2**64, (count, SKETCH_BUCKETS // 64 + 1), dtype=np.uint64)
    signs = np.unpackbits(~np.ascontiguousarray(words[:, 1:]).view(np.uint8)).astype(np.uint32)
    signs <<= 31
    return signs, (words[:, 0] % SKETCH_BUCKETS).tolist()


def consensus_distance(sketches: Sequence[Vector] | npt.NDArray[np.float32]) -> float:
    """Consensus distance, estimated from one sketch a peer: n arrays of (4096,).

    sqrt(mean_i ‖x_i − x̄‖²).
    """
    stacked = np.asarray(sketches, np.float64)
    centred = stacked - stacked.mean(axis=0)
    return math.sqrt(float((centred**2).sum(axis=1).mean()))


def to_bytes(sketch: Vector) -> bytes:
    """Bytes of a sketch in its file and in messages to the launcher."""
    return sketch.astype("<f4").tobytes()
