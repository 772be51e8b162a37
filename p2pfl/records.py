"""What a round produced, as JSON lines, and read back; and the sketch that estimates the consensus distance.

A peer appends one `RoundRecord` a round to `peers/<id>/rounds.jsonl` and its sketch to `peers/<id>/sketches.f32`
(4,096 little-endian float32 a round). Rounds are counted from 1; the rounds of the consensus phase follow on.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from p2pfl import seeding
from p2pfl.errors import CheckpointError, ConfigError, unwritable

ROUNDS_FILE = "rounds.jsonl"
SKETCHES_FILE = "sketches.f32"
SKETCH_BUCKETS = 4096
_SKETCH_BYTES = SKETCH_BUCKETS * 4

Vector = npt.NDArray[np.float32]


# What a file may say; far beyond what a run can record, so that sums stay finite and lists short.
_Round = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Number = Annotated[float, msgspec.Meta(ge=-1e100, le=1e100)]
_Seconds = Annotated[float, msgspec.Meta(ge=-1.0, le=1e12)]  # differences of a clock may be rounded to below 0
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process's round, of a peer, a client or the coordinator.

    Seconds are wall-clock; bytes are what was handed to the transport, headers included. The parts of a round add up
    to it: `seconds` = train + evaluate + exchange (busy with messages and mixing while not training) + wait (idle
    until a neighbor's vector came) + a small remainder of bookkeeping.

    A coordinator takes no steps of its own: its `samples` are those behind all updates that it has averaged, and its
    `train_loss` is the mean of what the clients say. A client records only the rounds in which it took part.
    """

    round: _Round
    phase: Literal["train", "consensus"]
    steps: _Count  # optimizer steps of this peer so far
    samples: _Count  # training samples that this peer has processed so far
    train_loss: _Number | None = None  # mean over this round's local steps
    lr: _Number | None = None  # learning rate of this round's last step
    test_accuracy: _Share | None = None  # 0..1, after mixing; None where this round was not evaluated
    test_loss: _Number | None = None
    test_samples: _Count | None = None
    elapsed: _Seconds  # seconds since this peer began its first round; a resumed run counts on
    seconds: _Seconds
    train_seconds: _Seconds
    exchange_seconds: _Seconds
    wait_seconds: _Seconds
    evaluate_seconds: _Seconds
    bytes_sent: _Count
    bytes_received: _Count
    sent_to: dict[str, _Count] = {}  # bytes sent in this round, by the neighbor's label
    selected: list[str] | None = None  # a coordinator's: clients drawn for this round
    missing: list[str] | None = None  # of these, those whose update did not come in time
    absent: list[str] | None = None  # a peer's: neighbors in whose place stood its own weights, at least in part
    refused: dict[str, _Count] | None = None  # messages and connections refused since the last record, by reason


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(RoundRecord)


def encode_record(record: RoundRecord) -> bytes:
    """One JSON object without a line end."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> RoundRecord:
    """The inverse of `encode_record`. Raises msgspec.MsgspecError, or UnicodeDecodeError for a damaged string."""
    return _decoder.decode(data)


def append_round(peer_dir: Path, record: RoundRecord, sketch: Vector | None, durable: bool = True) -> None:
    """Add a finished round to a peer's files; the sketch, if any, first, so that every recorded round has one.

    Raises CheckpointError naming the file if it cannot be written; it is then as it was, as far as that is possible.
    `durable` waits for the disk: a checkpoint written later must not survive a power cut that this does not.
    """
    if sketch is not None:
        _append(peer_dir / SKETCHES_FILE, sketch.astype("<f4").tobytes(), durable)
    _append(peer_dir / ROUNDS_FILE, encode_record(record) + b"\n", durable)


def _append(path: Path, data: bytes, durable: bool) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(file).st_size
            try:
                _write(file, data)
                if durable:
                    os.fsync(file)
            except OSError:
                os.ftruncate(file, before)  # a full disk takes part of it: the next line must not be joined to that
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def read_rounds(peer_dir: Path) -> list[RoundRecord]:
    """All finished rounds of a peer, oldest first; a last line cut off by a crash is left out.

    Raises ConfigError naming file and line where a line in the middle cannot be read.
    """
    path = peer_dir / ROUNDS_FILE
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(decode_record(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}:{number}: not a round record ({error})") from None
    return records


def read_sketches(peer_dir: Path) -> npt.NDArray[np.float32]:
    """The sketches of a peer's finished rounds: (rounds, 4096) float32, in the order of `read_rounds`."""
    path = peer_dir / SKETCHES_FILE
    data = path.read_bytes() if path.exists() else b""
    whole = len(data) // _SKETCH_BYTES
    return np.frombuffer(data[: whole * _SKETCH_BYTES], "<f4").reshape(whole, SKETCH_BUCKETS)


def truncate(peer_dir: Path, rounds: int) -> list[RoundRecord]:
    """Forget everything after the first `rounds` records (a resumed run writes them again); returns the kept.

    Raises CheckpointError naming the folder if it cannot be written.
    """
    kept = [record for record in read_rounds(peer_dir) if record.round <= rounds]
    text = b"".join(encode_record(record) + b"\n" for record in kept)
    temporary = peer_dir / (ROUNDS_FILE + ".tmp")
    try:
        temporary.write_bytes(text)
        os.replace(temporary, peer_dir / ROUNDS_FILE)
        sketches = peer_dir / SKETCHES_FILE
        if sketches.exists():
            os.truncate(sketches, min(sketches.stat().st_size, len(kept) * _SKETCH_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(unwritable(peer_dir, error)) from None
    return kept


def sketch(vector: Vector, seed: int) -> Vector:
    """The count sketch of a weight vector: (4096,) float32 (Charikar, Chen, Farach-Colton 2002).

    The vector is cut into blocks of 4,096. Each block gets random signs and is added to the buckets, rotated by a
    random offset, so that two elements of different blocks share a bucket with probability 1/4096 and two of one
    block never do. Sketches are linear, and the squared distance of two sketches is an unbiased estimate of the
    squared distance of the vectors, with a relative standard deviation of at most sqrt(2/4096) = 2.2 %. Rotating
    whole blocks, instead of drawing a bucket for each element, takes a few vector operations a block. All peers of a
    run must use the same seed. Sums are float64.
    """
    rng = seeding.numpy_generator(seed, "sketch")
    buckets = np.zeros(SKETCH_BUCKETS, np.float64)
    # Sixteen blocks at once and signs flipped as bits: a third of the time of a multiplication for each block.
    for start in range(0, vector.size, 16 * SKETCH_BUCKETS):
        part = vector[start : start + 16 * SKETCH_BUCKETS]
        blocks = -(-part.size // SKETCH_BUCKETS)
        words = rng.integers(0, 2**64, (blocks, SKETCH_BUCKETS // 64 + 1), dtype=np.uint64)
        signed = np.unpackbits(~np.ascontiguousarray(words[:, 1:]).view(np.uint8)).astype(np.uint32)
        signed <<= 31
        signed[: part.size] ^= part.view(np.uint32)
        signed[part.size :] = 0
        for first, block in zip(words[:, 0], signed.view(np.float32).reshape(blocks, -1), strict=True):
            offset, wide = int(first % SKETCH_BUCKETS), block.astype(np.float64)
            buckets[offset:] += wide[: SKETCH_BUCKETS - offset]
            buckets[:offset] += wide[SKETCH_BUCKETS - offset :]
    return buckets.astype(np.float32)


def consensus_distance(sketches: Sequence[Vector] | npt.NDArray[np.float32]) -> float:
    """sqrt(mean_i ‖x_i − x̄‖²) estimated from one sketch a peer: n arrays of (4096,)."""
    stacked = np.asarray(sketches, np.float64)
    centred = stacked - stacked.mean(axis=0)
    return math.sqrt(float((centred**2).sum(axis=1).mean()))
