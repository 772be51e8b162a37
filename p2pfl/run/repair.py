"""Repair of a resumed process's records, to agree with its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from p2pfl.errors import CheckpointError, unwritable
from p2pfl.model.sketches import SKETCH_BUCKETS, Vector, to_bytes
from p2pfl.run.paths import ROUNDS_FILE, SKETCHES_FILE
from p2pfl.run.records import MAX_RECORD_BYTES, Recorded, RoundRecord, encode_record, read_recorded, spans
from p2pfl.run.sketch_file import HEADER, MAX_BYTES, file_size, readable_sketches
from p2pfl.util.files import read_if_any, replace_file, truncate_file

_AHEAD = 100_000  # rounds after a checkpoint, more than are ever recorded; beyond it a line is no record


@dataclass(frozen=True)
class RecordBackup:
    """Record in a checkpoint, and a function that computes its sketch, if it has one."""

    record: RoundRecord
    sketch: Callable[[], Vector] | None = None


@dataclass(frozen=True)
class RepairedRecords:
    """Repaired records, and a line for the user about each file with a problem."""

    rounds: list[RoundRecord]
    lines: list[str]


def repair(
    peer_dir: Path,
    last: int,
    backups: Mapping[int, RecordBackup] | None = None,
    *,
    expected: int | None = None,
    sketched: bool = True,
) -> RepairedRecords:
    """Cut a peer's records and sketches after round `last`, and repair the others.

    Records that differ from those in checkpoints (`backups`, by round) are replaced by these. `expected`: the number of
    records that there should be. A lost sketch is replaced by NaN, so that each record keeps its own. `sketched`:
    whether the process writes sketches.

    Raises CheckpointError naming the folder if it cannot be written, and UnreadableError, before anything is changed,
    naming the file that cannot be read: its content is not lost.
    """
    found, backups = read_recorded(peer_dir, last + _AHEAD, strict=True), backups or {}
    if expected is not None:
        complete = sum(record.round <= last for record in found.rounds) == expected
        found = read_recorded(peer_dir, last + _AHEAD, complete, strict=True)
    kept = {record.round: record for record in found.rounds if record.round <= last}
    rebuilt = [n for n, backup in sorted(backups.items()) if n <= last and kept.get(n) != backup.record]
    kept |= {number: backups[number].record for number in rebuilt}
    rounds = [record for _, record in sorted(kept.items())]
    lines = _said(peer_dir, found, rebuilt, expected, len(rounds))
    resketched: dict[int, Vector] = {}
    if sketched:
        lost = [record.round for record in rounds if record.round not in found.rows]
        resketched = {n: sketch() for n in lost if n in backups and (sketch := backups[n].sketch) is not None}
        too_long = [line for line in found.problems if ": too long" in line]
        lines += too_long if not lines else []  # else it follows from that
        if blank := [number for number in lost if number not in resketched]:
            word = f"round{'s' * (len(blank) > 1)} {spans(blank)}"
            lines.append(f"{peer_dir / SKETCHES_FILE}: no sketch of {word}, whose consensus distance is not known")
    try:
        _write(peer_dir, rounds, found.rows, resketched, sketched)
    except OSError as error:
        raise CheckpointError(unwritable(peer_dir, error)) from None
    return RepairedRecords(rounds, lines)


def _said(peer_dir: Path, found: Recorded, rebuilt: list[int], expected: int | None, kept: int) -> list[str]:
    """One line about the records' file, or none; sketches are reported by round."""
    path = peer_dir / ROUNDS_FILE
    said = [line.removeprefix(f"{path}: ") for line in found.problems if line.startswith(f"{path}: ")]
    if rebuilt:
        word = f"record{'s' * (len(rebuilt) > 1)} of round{'s' * (len(rebuilt) > 1)} {spans(rebuilt)}"
        said.append(f"{word} rebuilt from the checkpoint{'s' * (len(rebuilt) > 1)}")
    if expected is not None and kept < expected:
        said.append(f"{expected - kept} of {expected} records are lost")
    return [f"{path}: {'; '.join(said)}"] if said else []


def _write(
    peer_dir: Path,
    rounds: list[RoundRecord],
    rows: Mapping[int, int],
    resketched: Mapping[int, Vector],
    sketched: bool,
) -> None:
    """Replace either file if its content changes, each atomically.

    Records come first: with fewer lines than sketches no sketch is taken for another round's (see `read_recorded`).
    """
    text = b"".join(encode_record(record) + b"\n" for record in rounds)
    if read_if_any(peer_dir / ROUNDS_FILE, MAX_RECORD_BYTES) != text:
        replace_file(peer_dir / ROUNDS_FILE, text)
    if not sketched:
        return
    path = peer_dir / SKETCHES_FILE
    before, _ = readable_sketches(peer_dir, strict=True)
    if [rows.get(record.round) for record in rounds] != list(range(len(rounds))):
        blank = np.full(SKETCH_BUCKETS, np.nan, np.float32)
        now = [before[rows[r.round]] if r.round in rows else resketched.get(r.round, blank) for r in rounds]
        replace_file(path, HEADER + b"".join(to_bytes(row) for row in now))
        return
    size = file_size(len(rounds)) if rounds else 0
    if path.exists() and path.stat().st_size != size:
        truncate_file(path, size)


def set_aside(peer_dir: Path) -> Path | None:
    """Copy a peer's records and sketches to numbered files beside them.

    Returns the path of the copied records, or None if there are none. Raises CheckpointError naming the folder that
    cannot be written, or the file that cannot be read.
    """
    free = next(n for n in count(1) if not any(os.path.lexists(path) for path in _aside(peer_dir, n)))
    kept = None
    try:
        for name, path in zip((SKETCHES_FILE, ROUNDS_FILE), _aside(peer_dir, free), strict=True):
            if data := read_if_any(peer_dir / name, MAX_BYTES):
                replace_file(path, data)
                kept = path
    except OSError as error:
        raise CheckpointError(unwritable(peer_dir, error)) from None
    return kept


def _aside(peer_dir: Path, number: int) -> list[Path]:
    return [peer_dir / f"{name}.{number}" for name in (SKETCHES_FILE, ROUNDS_FILE)]
