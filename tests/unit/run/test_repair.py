"""Damaged records: read as far as possible, and repaired from checkpoints."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.support.runs import train_record

from p2pfl import make_topology
from p2pfl.errors import CheckpointError, UnreadableError
from p2pfl.model.sketches import SKETCH_BUCKETS
from p2pfl.run.paths import ROUNDS_FILE, SKETCHES_FILE
from p2pfl.run.records import RoundRecord, append_round, encode_record, read_recorded, read_rounds
from p2pfl.run.repair import RecordBackup, repair
from p2pfl.run.sketch_file import HEADER, read_sketches

RING = make_topology("ring", 3)
ROUNDS = 6


def record(number: int) -> RoundRecord:
    return train_record(RING, 0, number, ROUNDS, 100)


def sketch_of(number: int) -> np.ndarray:
    return np.full(SKETCH_BUCKETS, number, np.float32)


def filled(folder: Path, rounds: list[int] | None = None) -> list[RoundRecord]:
    made = [record(number) for number in rounds or range(1, ROUNDS + 1)]
    for own in made:
        append_round(folder, own, sketch_of(own.round))
    return made


BACKUPS = {n: RecordBackup(record(n), lambda n=n: sketch_of(n)) for n in (ROUNDS - 1, ROUNDS)}  # type: ignore[misc]


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / ROUNDS_FILE
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))

    return damage


def replaced(number: int, by: bytes) -> Callable[[Path], None]:
    return lines(lambda all: [*all[: number - 1], by, *all[number:]])


def of_sketches(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / SKETCHES_FILE).write_bytes(change((folder / SKETCHES_FILE).read_bytes()))

    return damage


def altered(number: int, **changes: object) -> bytes:
    return encode_record(msgspec.structs.replace(record(number), **changes)) + b"\n"


ROW = SKETCH_BUCKETS * 4
WHOLE = set(range(1, ROUNDS + 1))
# What happens -> the rounds whose record is there afterwards, those whose sketch is, and what is said.
DAMAGE: dict[str, tuple[Callable[[Path], None], set[int], set[int], str]] = {
    "file missing": (lambda f: (f / ROUNDS_FILE).unlink(), {5, 6}, {5, 6}, "rounds 5–6 rebuilt from the checkpoints"),
    "file empty": (lines(lambda all: []), {5, 6}, {5, 6}, "4 of 6 records are lost"),
    "all garbage": (lines(lambda all: [bytes(range(256)) * 9]), {5, 6}, {5, 6}, "4 of 6 records are lost"),
    "last line cut": (lines(lambda all: [*all[:-1], all[-1][:40]]), WHOLE, WHOLE, "record of round 6 rebuilt"),
    "last lines gone": (lines(lambda all: all[:3]), WHOLE - {4}, {1, 2, 3, 5, 6}, "1 of 6 records are lost"),
    "line gone": (lines(lambda all: [*all[:2], *all[3:]]), WHOLE - {3}, WHOLE - {3}, "1 of 6 records are lost"),
    "line garbage": (replaced(2, b"\xff\x00\xfe{\n"), WHOLE - {2}, WHOLE - {2}, "no round record in line 2"),
    "line empty": (replaced(2, b"\n"), WHOLE - {2}, WHOLE - {2}, "no round record in line 2"),
    "line cut": (replaced(3, altered(3)[:90] + b"\n"), WHOLE - {3}, WHOLE - {3}, "no round record in line 3"),
    "lines joined": (lines(lambda all: [all[0], all[1][:-1], *all[2:]]), WHOLE - {2, 3}, WHOLE - {2, 3}, "line 2;"),
    "deeply nested": (replaced(2, b"[" * 100_000 + b"\n"), WHOLE - {2}, WHOLE - {2}, "no round record in line 2"),
    "other type": (replaced(4, b'{"round": "4"}\n'), WHOLE - {4}, WHOLE - {4}, "no round record in line 4"),
    "number of no round": (replaced(3, altered(3, round=-3)), WHOLE - {3}, WHOLE - {3}, "no round record in line 3"),
    "far later round": (replaced(3, altered(3, round=10**12)), WHOLE - {3}, WHOLE - {3}, "no round record in line 3"),
    "another round": (replaced(3, altered(3, round=5)), WHOLE - {3}, WHOLE - {3}, "more than one record of round 5"),
    "altered": (replaced(6, altered(6, steps=1)), WHOLE, WHOLE, "record of round 6 rebuilt from the checkpoint"),
    "duplicated": (lines(lambda all: [*all[:3], *all[2:]]), WHOLE, WHOLE, "more than one record of round 3"),
    "out of order": (lines(lambda all: [all[3], *all[:3], *all[4:]]), WHOLE, WHOLE, "rounds out of order"),
    "sketches missing": (lambda f: (f / SKETCHES_FILE).unlink(), WHOLE, {5, 6}, "no sketch of rounds 1–4"),
    "sketches empty": (of_sketches(lambda all: b""), WHOLE, {5, 6}, "no sketch of rounds 1–4"),
    "sketches of another version": (
        of_sketches(lambda all: b"x" + all[1:]),
        WHOLE,
        {5, 6},
        "no sketch of rounds 1–4",
    ),
    "sketches cut": (
        of_sketches(lambda all: all[: len(HEADER) + 3 * ROW + 7]),
        WHOLE,
        {1, 2, 3, 5, 6},
        "no sketch of round 4",
    ),
    "sketches too long": (
        of_sketches(lambda all: all + all[len(HEADER) :]),
        WHOLE,
        WHOLE,
        "too long, 12 sketches for 6 rounds",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_records_are_mended_and_that_is_said_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, recorded, sketched, said = DAMAGE[kind]
    filled(tmp_path)
    damage(tmp_path)
    read_rounds(tmp_path)  # as a report does, which nothing may stop
    repaired = repair(tmp_path, ROUNDS, BACKUPS, expected=ROUNDS)
    assert len(repaired.lines) == 1, repaired.lines
    assert said in repaired.lines[0]
    assert repaired.lines[0].startswith(str(tmp_path))
    assert repaired.rounds == read_rounds(tmp_path) == [record(number) for number in sorted(recorded)]
    append_round(tmp_path, record(ROUNDS + 1), sketch_of(ROUNDS + 1))
    rows, now = read_sketches(tmp_path), read_recorded(tmp_path)
    assert now.problems == []
    found = {number: rows[row] for number, row in now.rows.items() if not np.isnan(rows[row]).any()}
    assert set(found) == sketched | {ROUNDS + 1}
    assert all(np.array_equal(row, sketch_of(number)) for number, row in found.items()), "each has its own sketch"
    again = repair(tmp_path, ROUNDS, BACKUPS, expected=len(recorded))
    assert again.lines == [], "what was repaired is not said again"


@pytest.mark.parametrize("kept", [0, 2, 6, 9])
def test_what_a_crash_leaves_is_cut_without_a_word(tmp_path: Path, kept: int) -> None:
    made = filled(tmp_path)
    with open(tmp_path / ROUNDS_FILE, "ab") as file:
        file.write(b'{"round": 7, "pha')
    with open(tmp_path / SKETCHES_FILE, "ab") as file:
        file.write(b"\1" * (ROW + 7))
    repaired = repair(tmp_path, kept, {}, expected=min(kept, ROUNDS))
    assert (repaired.rounds, repaired.lines) == (made[:kept], [])
    assert read_rounds(tmp_path) == made[:kept]
    assert read_sketches(tmp_path)[:, 0].tolist() == [own.round for own in made[:kept]]
    append_round(tmp_path, record(kept + 1), sketch_of(7))
    assert read_rounds(tmp_path) == [*made[:kept], record(kept + 1)]


def test_a_last_record_without_its_line_end_counts(tmp_path: Path) -> None:
    made = filled(tmp_path)
    lines(lambda all: [*all[:-1], all[-1][:-1]])(tmp_path)
    assert read_rounds(tmp_path) == made


@pytest.mark.parametrize("crash", [False, True])
def test_a_peer_that_was_away_keeps_its_sketches(tmp_path: Path, crash: bool) -> None:
    """A gap in the rounds is no damage where the checkpoint has as many records."""
    made = filled(tmp_path, [1, 2, 5, 6])
    if crash:
        with open(tmp_path / SKETCHES_FILE, "ab") as file:
            file.write(sketch_of(7).tobytes())
    repaired = repair(tmp_path, ROUNDS, BACKUPS, expected=4)
    assert (repaired.rounds, repaired.lines) == (made, [])
    np.testing.assert_array_equal(read_sketches(tmp_path), [sketch_of(own.round) for own in made])


def test_nothing_that_stands_in_the_file_stops_a_reader(tmp_path: Path) -> None:
    """Readers of random bytes, cuts, copies and swaps return only written records.

    In order of rounds.
    """
    draw = random.Random(0)
    for number in range(60):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = {own.round: own for own in filled(folder)}
        data = bytearray((folder / ROUNDS_FILE).read_bytes())
        for _ in range(draw.randrange(1, 4)):
            place = draw.randrange(len(data))
            end = place + draw.choice([1, 40, 1000])
            data[place:end] = draw.choice([b"", b"\n", draw.randbytes(30), bytes(data[:end]), b"}" * 5])
        (folder / ROUNDS_FILE).write_bytes(data)
        found = read_recorded(folder, last=ROUNDS)
        assert [own.round for own in found.rounds] == sorted({own.round for own in found.rounds})
        repaired = repair(folder, ROUNDS, BACKUPS, expected=ROUNDS)
        assert repaired.rounds[-2:] == [made[ROUNDS - 1], made[ROUNDS]]
        assert read_rounds(folder) == repaired.rounds
        assert len(read_sketches(folder)) == len(repaired.rounds)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / ROUNDS_FILE).mkdir()
    found = read_recorded(tmp_path)
    assert found.rounds == []
    path = tmp_path / ROUNDS_FILE
    assert found.problems == [f"{path}: cannot be read (Is a directory); it is a folder, and a file is needed there"]


@pytest.mark.parametrize("target", ["itself", "nowhere"])
@pytest.mark.parametrize("name", [ROUNDS_FILE, SKETCHES_FILE])
def test_what_cannot_be_read_now_is_never_replaced(tmp_path: Path, name: str, target: str) -> None:
    filled(tmp_path)
    path, kept = tmp_path / name, tmp_path / "kept"
    path.rename(kept)
    path.symlink_to(name if target == "itself" else "missing")
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    for last in (0, ROUNDS):
        with pytest.raises(UnreadableError, match=rf"^{path}: cannot be read \("):
            repair(tmp_path, last, BACKUPS, expected=last)
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
    path.unlink()
    kept.rename(path)
    assert repair(tmp_path, ROUNDS, BACKUPS, expected=ROUNDS).lines == []


def test_what_is_whole_is_not_written(tmp_path: Path) -> None:
    filled(tmp_path)
    paths = [tmp_path / name for name in (ROUNDS_FILE, SKETCHES_FILE)]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths]
    repair(tmp_path, ROUNDS, BACKUPS, expected=ROUNDS)
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in paths] == before


@pytest.mark.parametrize("kind", ["file missing", "sketches missing", "line gone"])
def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    filled(tmp_path)
    DAMAGE[kind][0](tmp_path)
    done: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        done.append(("fsync", os.fstat(file).st_ino))
        fsync(file)

    def replaced(source: Path, target: Path) -> None:
        done.append(("replace", source.stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    repair(tmp_path, ROUNDS, BACKUPS, expected=ROUNDS)
    places = [place for place, (what, _) in enumerate(done) if what == "replace"]
    assert places
    for place in places:
        assert done[place - 1] == ("fsync", done[place][1])
        assert done[place + 1] == ("fsync", tmp_path.stat().st_ino)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("expected", [ROUNDS, None])
def test_stopped_between_the_two_files_no_sketch_becomes_another_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, expected: int | None
) -> None:
    filled(tmp_path)
    DAMAGE[kind][0](tmp_path)
    replace, done = os.replace, []

    def once(source: Path, target: Path) -> None:
        if done:
            raise OSError(28, "No space left on device")
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", once)
        with contextlib.suppress(CheckpointError):
            repair(tmp_path, ROUNDS, BACKUPS, expected=expected)
    repaired = repair(tmp_path, ROUNDS, BACKUPS, expected=expected)
    for own, row in zip(repaired.rounds, read_sketches(tmp_path), strict=True):
        assert np.isnan(row).all() or np.array_equal(row, sketch_of(own.round)), own.round
