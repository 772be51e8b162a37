"""Mirror of a run's files: growth, replacement and removal, in small pieces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pfl.errors import P2PFLError
from p2pfl.run.mirror import PIECE_BYTES, Incoming, Outgoing, Piece


class Pair:
    """Two folders, the second of which follows the first."""

    def __init__(self, folder: Path) -> None:
        self.here, self.there = folder / "here", folder / "there"
        self.here.mkdir()
        self.outgoing, self.incoming = Outgoing(self.here, [self.here]), Incoming(self.there)

    def replace(self, name: str, content: bytes) -> None:
        path = self.here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)

    def grow(self, name: str, content: bytes) -> None:
        with open(self.here / name, "ab") as file:
            file.write(content)

    def follow(self) -> int:
        """Pass on all changes; returns the bytes that this took."""
        count = 0
        while pieces := self.outgoing.take():
            assert sum(len(piece.content) for piece in pieces) <= PIECE_BYTES
            for piece in pieces:
                self.incoming.put(piece)
                count += len(piece.content)
        return count

    def step(self) -> None:
        """Pass on one batch of changes."""
        for piece in self.outgoing.take():
            self.incoming.put(piece)

    def there_is(self) -> dict[str, bytes]:
        found = sorted(path for path in self.there.rglob("*") if path.is_file())
        return {path.relative_to(self.there).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_files_arrive_whole_and_what_grows_is_sent_once(pair: Pair) -> None:
    large = os.urandom(3 * PIECE_BYTES + 17)
    pair.replace("peers/a/checkpoint/round-000001.safetensors", large)
    pair.replace("rounds.jsonl", b"one\n")
    assert pair.follow() == len(large) + 4
    pair.grow("rounds.jsonl", b"two\n")
    assert pair.follow() == 4
    assert pair.follow() == 0
    assert pair.there_is() == {"peers/a/checkpoint/round-000001.safetensors": large, "rounds.jsonl": b"one\ntwo\n"}


def test_a_replaced_file_is_the_old_one_until_the_new_one_is_whole(pair: Pair) -> None:
    pair.replace("model", b"old")
    pair.follow()
    pair.replace("model", b"n" * (2 * PIECE_BYTES))
    for piece in pair.outgoing.take():
        pair.incoming.put(piece)
    assert (pair.there / "model").read_bytes() == b"old"
    pair.incoming.forget_parts(pair.there)
    assert pair.there_is() == {"model": b"old"}
    pair.outgoing = Outgoing(pair.here, [pair.here])
    pair.replace("model", b"n" * (2 * PIECE_BYTES))
    pair.follow()
    assert pair.there_is() == {"model": b"n" * (2 * PIECE_BYTES)}


def test_records_that_are_cut_and_grow_again_are_sent_again(pair: Pair) -> None:
    pair.replace("rounds.jsonl", b"1\n2\n3\n")
    pair.follow()
    pair.replace("rounds.jsonl", b"1\n")
    pair.grow("rounds.jsonl", b"two\nthree\n")
    pair.follow()
    assert pair.there_is() == {"rounds.jsonl": b"1\ntwo\nthree\n"}


def test_removed_files_go_and_hidden_ones_never_come(pair: Pair) -> None:
    pair.replace("old", b"old")
    pair.replace(".temporary", b"half")
    pair.follow()
    (pair.here / "old").unlink()
    pair.replace("new", b"new")
    pair.follow()
    assert pair.there_is() == {"new": b"new"}


def test_a_file_that_is_replaced_amid_its_sending_arrives_whole_and_then_as_the_new_one(pair: Pair) -> None:
    pair.replace("model", b"o" * (2 * PIECE_BYTES))
    pair.step()
    pair.replace("model", b"n" * (PIECE_BYTES + 1))
    pair.step()
    assert pair.there_is() == {"model": b"o" * (2 * PIECE_BYTES)}
    pair.follow()
    assert pair.there_is() == {"model": b"n" * (PIECE_BYTES + 1)}


def test_records_overtake_large_files(pair: Pair) -> None:
    pair.replace("a-checkpoint", b"c" * (3 * PIECE_BYTES))
    pair.step()
    pair.grow("rounds.jsonl", b"one\n")
    pair.step()
    assert pair.there_is()["rounds.jsonl"] == b"one\n"


def test_of_files_that_are_replaced_faster_than_they_are_sent_one_always_arrives_and_stays(pair: Pair) -> None:
    size, seen = 5 * PIECE_BYTES, 0
    for number in range(40):  # each is removed before so much could be sent
        if number > 1:
            (pair.here / f"round-{number - 2:02}").unlink()
        pair.replace(f"round-{number:02}", bytes([number]) * size)
        os.utime(pair.here / f"round-{number:02}", ns=(number, number))
        for _ in range(2):
            pair.step()
        there = [name for name in pair.there_is() if not name.startswith(".")]
        assert len(there) <= 2, "removed files do not pile up"
        assert len(there) >= (1 if seen else 0), "the last whole one stays until another has come"
        seen = max([seen, *(int(name[-2:]) for name in there)])
    assert seen > 30, "the newest is begun first"
    pair.follow()
    assert pair.there_is() == {f"round-{number}": bytes([number]) * size for number in (38, 39)}, "no part is left"


def test_a_record_file_that_is_emptied_is_empty_there(pair: Pair) -> None:
    pair.replace("rounds.jsonl", b"1\n")
    pair.follow()
    pair.replace("rounds.jsonl", b"")
    pair.follow()
    assert pair.there_is() == {"rounds.jsonl": b""}


def test_a_removed_file_leaves_no_part_of_it(tmp_path: Path) -> None:
    incoming = Incoming(tmp_path)
    incoming.put(Piece("round-000001", 0, b"half", 8))
    incoming.put(Piece("round-000001", is_removed=True))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_sent(pair: Pair) -> None:
    pair.replace("rounds.jsonl", b"1\n")
    pair.outgoing.skip_present()
    pair.there.mkdir()
    (pair.there / "rounds.jsonl").write_bytes(b"1\n")
    pair.grow("rounds.jsonl", b"2\n")
    assert pair.follow() == 2
    assert pair.there_is() == {"rounds.jsonl": b"1\n2\n"}


@pytest.mark.parametrize("path", ["../settings", "/etc/passwd", "a/../../b", ""])
def test_a_path_outside_the_folder_is_refused(pair: Pair, path: str) -> None:
    with pytest.raises(P2PFLError):
        pair.incoming.put(Piece(path, content=b"x", size=1))
