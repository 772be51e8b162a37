"""Round records of a process, as JSON lines.

A peer appends one `RoundRecord` a round to `peers/<id>/rounds.jsonl`, and its sketch to the file beside it.
Rounds are counted from 1; those of the consensus phase follow the training rounds.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from p2pfl.config import EvaluationSet
from p2pfl.errors import CheckpointError, UnreadableError, unwritable
from p2pfl.model.sketches import Vector, to_bytes
from p2pfl.run.paths import ROUNDS_FILE, SKETCHES_FILE
from p2pfl.run.sketch_file import HEADER, readable_sketches
from p2pfl.util.files import opener, read_if_any, sync_file

MAX_RECORD_BYTES = 2**31  # of the file: some millions of rounds


# Limits of the values in a file, far beyond those of any run, so that sums stay finite and lists short.
_Round = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Number = Annotated[float, msgspec.Meta(ge=-1e100, le=1e100)]
_Seconds = Annotated[float, msgspec.Meta(ge=-1.0, le=1e12)]  # differences of a clock may be rounded to below 0
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Record of one round of a process: a peer, a client or the coordinator.

    Seconds are wall-clock; bytes are those handed to the transport, headers included. `seconds` is the sum of training,
    evaluation, exchange (busy with messages and mixing while not training), wait (idle until a neighbor's vector came)
    and a small remainder of bookkeeping.

    A coordinator takes no steps itself: its `samples` are those behind all updates that it has averaged, and its
    `train_loss` is the mean of the clients' losses. A client records only the rounds in which it took part.

    `evaluated_on` names the set of all accuracies of the record: the test set, or the validation set of a run that has
    one. `own_accuracy` weighs the accuracy of each class by the class's share of the peer's samples, as far as the set
    has the class. `class_accuracy` is that of each class, in the order of the data set.
    """

    round: _Round
    """Number of the round, from 1."""
    phase: Literal["train", "consensus"]
    """Training round, or round of the consensus phase."""
    steps: _Count
    """Optimizer steps of this process so far."""
    samples: _Count
    """Training samples that this process has processed so far."""
    train_loss: _Number | None = None
    """Mean loss over this round's local steps."""
    lr: _Number | None = None
    """Learning rate of this round's last step."""
    test_accuracy: _Share | None = None
    """Accuracy after mixing on the set of `evaluated_on`, 0 to 1; null where this round was not evaluated."""
    test_loss: _Number | None = None
    """Loss after mixing on that set."""
    test_samples: _Count | None = None
    """Samples of this evaluation."""
    evaluated_on: EvaluationSet | None = None
    """Set of this evaluation: test or validation; null without one, and in older records, which are of the test set."""
    own_accuracy: _Share | None = None
    """Of a peer after its training: accuracy on its own mix of classes, 0 to 1."""
    class_accuracy: list[_Share | None] | None = None
    """Accuracy of each class on the whole set; null for a class that the set lacks."""
    elapsed: _Seconds
    """Seconds since this process began its first round; a resumed run continues the count."""
    seconds: _Seconds
    """Seconds of the round."""
    train_seconds: _Seconds
    """Seconds of training."""
    exchange_seconds: _Seconds
    """Seconds of messages and mixing while not training."""
    wait_seconds: _Seconds
    """Seconds without work, until a neighbor's vector came."""
    evaluate_seconds: _Seconds
    """Seconds of evaluation."""
    bytes_sent: _Count
    """Bytes handed to the transport in this round, headers included."""
    bytes_received: _Count
    """Bytes received from the transport in this round, headers included."""
    sent_to: dict[str, _Count] = {}
    """Bytes sent in this round, by the neighbor's label."""
    selected: list[str] | None = None
    """Of a coordinator: clients drawn for this round."""
    missing: list[str] | None = None
    """Of a coordinator: drawn clients whose update did not come in time."""
    absent: list[str] | None = None
    """Of a peer: neighbors that its own weights replaced, at least in part."""
    weights_from: list[str] | None = None
    """Of a peer: neighbors from whose weights it bootstrapped."""
    refused: dict[str, _Count] | None = None
    """Messages and connections refused since the last record, by reason."""

    @property
    def accuracy_name(self) -> str:
        """Name of its accuracy in texts, which tells it from that on the test set."""
        return "validation accuracy" if self.evaluated_on == "validation" else "accuracy"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(RoundRecord)


def encode_record(record: RoundRecord) -> bytes:
    """Encode a record as one JSON object, without a line end."""
    return _encoder.encode(record)


def decode_record(data: bytes) -> RoundRecord:
    """Decode a record, the inverse of `encode_record`.

    Raises msgspec.MsgspecError, or UnicodeDecodeError for a damaged string.
    """
    return _decoder.decode(data)


def append_round(peer_dir: Path, record: RoundRecord, sketch: Vector | None, durable: bool = True) -> None:
    """Append a finished round to a peer's files.

    The sketch, if any, is written first, so that every recorded round has one. `durable`: wait for the disk, since a
    checkpoint that is written later must not survive a power cut without this record. Raises CheckpointError naming the
    file if it cannot be written; it is then as it was, as far as possible.
    """
    if sketch is not None:
        _append(peer_dir / SKETCHES_FILE, to_bytes(sketch), durable, HEADER)
    _append(peer_dir / ROUNDS_FILE, encode_record(record) + b"\n", durable)


def sync(peer_dir: Path) -> None:
    """Wait until a peer's records and sketches are on disk. Raises CheckpointError."""
    for path in (peer_dir / SKETCHES_FILE, peer_dir / ROUNDS_FILE):
        try:
            sync_file(path)
        except FileNotFoundError:  # a process without sketches
            continue
        except OSError as error:
            raise CheckpointError(unwritable(path, error)) from None


def _append(path: Path, data: bytes, durable: bool, header: bytes = b"") -> None:
    """Append data to a file; a new one gets the header first."""
    try:
        file = opener(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            before = os.fstat(file).st_size
            try:
                _write(file, data if before else header + data)
                if durable:
                    os.fsync(file)
            except OSError:
                os.ftruncate(file, before)  # a full disk takes part of it, which must not join the next line
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


@dataclass(frozen=True)
class Recorded:
    """Readable records of a process, in order of rounds, each round once.

    `rows`: index of a round's sketch in the sketches' file, where that is certain. `problems`: a line for each damaged
    file.
    """

    rounds: list[RoundRecord] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_rounds(peer_dir: Path) -> list[RoundRecord]:
    """Readable records of a peer's finished rounds, oldest first."""
    return read_recorded(peer_dir).rounds


def read_recorded(
    peer_dir: Path, last: float = math.inf, complete: bool | None = None, *, strict: bool = False
) -> Recorded:
    """Read the records of a peer, also from a damaged file.

    A last line cut off by a crash is ignored. Lines that are no records, or of rounds after `last`, are skipped, of
    several of one round the last counts, and all are sorted; `problems` tells this. `complete`: whether no line is
    missing, where that is known. `strict`: raise UnreadableError for a file that cannot be read now.
    """
    path = peer_dir / ROUNDS_FILE
    try:
        lines = read_if_any(path, MAX_RECORD_BYTES).split(b"\n")
    except UnreadableError as error:
        if strict:
            raise
        return Recorded(problems=[str(error)])
    found = [_record_in(line, last) for line in lines]
    if found[-1] is None:  # nothing, or what a crash left of a line
        found.pop()
    damage = _damage(found)
    problems = [f"{path}: {'; '.join(damage)}"] if damage else []
    found_sketches, why = readable_sketches(peer_dir, strict=strict)
    sketches = len(found_sketches)
    problems += [why] if why else []
    if sketches < len(found) and (peer_dir / SKETCHES_FILE).exists():  # not all runs have sketches
        problems.append(f"{peer_dir / SKETCHES_FILE}: too short, {sketches} sketches for {len(found)} rounds")
    elif sketches > len(found) + 1:  # a crash leaves one at most
        problems.append(f"{peer_dir / SKETCHES_FILE}: too long, {sketches} sketches for {len(found)} rounds")
    rounds = {record.round: record for record in found if record is not None}
    return Recorded([rounds[number] for number in sorted(rounds)], _rows(found, sketches, complete), problems)


def _record_in(line: bytes, last: float) -> RoundRecord | None:
    """Record in a line; None if it cannot be of this run."""
    try:
        record = decode_record(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    counts = (record.steps, record.samples, record.bytes_sent, record.bytes_received)
    return record if 1 <= record.round <= last and all(0 <= count < 2**63 for count in counts) else None


def _damage(found: Sequence[RoundRecord | None]) -> list[str]:
    """Problems of a file's lines, in words."""
    order = [record.round for record in found if record is not None]
    bad = [number for number, record in enumerate(found, start=1) if record is None]
    twice = sorted(round for round, count in Counter(order).items() if count > 1)
    said = []
    if bad:
        said.append(f"no round record in line{'s' * (len(bad) > 1)} {spans(bad)}")
    if twice:
        said.append(f"more than one record of round{'s' * (len(twice) > 1)} {spans(twice)}")
    elif order != sorted(order):
        said.append("rounds out of order")
    return said


def _rows(found: Sequence[RoundRecord | None], sketches: int, complete: bool | None) -> dict[int, int]:
    """Indices of the recorded rounds' sketches, where they are certain.

    Sketches are written with the lines, so if no line is missing, a sketch has its line's index. Else, if there is one
    sketch for every round up to the newest, they are in order of rounds. Else only those before the first gap are
    certain.
    """
    order = [(record.round, place) for place, record in enumerate(found) if record is not None]
    numbers = [number for number, _ in order]
    rising = all(a < b for a, b in pairwise(numbers))
    if rising and (sketches <= len(found) if complete is None else complete):
        return {number: place for number, place in order if place < sketches}
    if not (rising and complete is None) and sketches in (max(numbers, default=0), max(numbers, default=0) + 1):
        return {number: number - 1 for number in numbers if number <= sketches}
    ranked = enumerate(sorted(set(numbers)))
    return {number: place for place, number in ranked if number == place + 1 <= sketches}


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers in words, such as 1–3, 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in found)
