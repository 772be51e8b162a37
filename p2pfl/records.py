"""What a round produced, as JSON lines, and read back.

A peer appends one `RoundRecord` a round to `peers/<id>/rounds.jsonl`, and its sketch to the file beside it.
Rounds are counted from 1; the rounds of the consensus phase follow on.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from p2pfl import sketches
from p2pfl.errors import CheckpointError, ConfigError, unwritable
from p2pfl.sketches import SKETCHES_FILE, Vector

ROUNDS_FILE = "rounds.jsonl"


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process's round, of a peer, a client or the coordinator.

    Seconds are wall-clock; bytes are what was handed to the transport, headers included. The parts of a round add up
    to it: `seconds` = train + evaluate + exchange (busy with messages and mixing while not training) + wait (idle
    until a neighbor's vector came) + a small remainder of bookkeeping.

    A coordinator takes no steps of its own: its `samples` are those behind all updates that it has averaged, and its
    `train_loss` is the mean of what the clients say. A client records only the rounds in which it took part.
    """

    round: int
    phase: Literal["train", "consensus"]
    steps: int  # optimizer steps of this peer so far
    samples: int  # training samples that this peer has processed so far
    train_loss: float | None = None  # mean over this round's local steps
    lr: float | None = None  # learning rate of this round's last step
    test_accuracy: float | None = None  # 0..1, after mixing; None where this round was not evaluated
    test_loss: float | None = None
    test_samples: int | None = None
    elapsed: float  # seconds since this peer began its first round; a resumed run counts on
    seconds: float
    train_seconds: float
    exchange_seconds: float
    wait_seconds: float
    evaluate_seconds: float
    bytes_sent: int
    bytes_received: int
    sent_to: dict[str, int] = {}  # bytes sent in this round, by the neighbor's label
    selected: list[str] | None = None  # a coordinator's: clients drawn for this round
    missing: list[str] | None = None  # of these, those whose update did not come in time
    absent: list[str] | None = None  # a peer's: neighbors in whose place stood its own weights, at least in part
    refused: dict[str, int] | None = None  # messages and connections refused since the last record, by reason


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
        _append(peer_dir / SKETCHES_FILE, sketches.to_bytes(sketch), durable, sketches.HEADER)
    _append(peer_dir / ROUNDS_FILE, encode_record(record) + b"\n", durable)


def _append(path: Path, data: bytes, durable: bool, header: bytes = b"") -> None:
    """Add data at the end of a file; a new one gets the header first."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(file).st_size
            try:
                _write(file, data if before else header + data)
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
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}:{number}: not a round record ({error})") from None
    return records


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
        file = peer_dir / SKETCHES_FILE
        if file.exists():
            whole = min(len(sketches.read_sketches(peer_dir)), len(kept))
            os.truncate(file, sketches.file_size(whole) if whole else 0)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(unwritable(peer_dir, error)) from None
    return kept
