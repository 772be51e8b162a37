"""Checkpoints come back whole or are refused by name, and the one before is used."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.errors import CheckpointError, UnreadableError
from p2pfl.run import checkpoint
from p2pfl.run.checkpoint import Checkpoint, load, newest, save

SHARED = torch.arange(6, dtype=torch.bfloat16)


def made(round: int = 3, **changes: object) -> Checkpoint:
    fields = {
        "round": round,
        "steps": 10 * round,
        "layout": "0123456789abcdef",
        "settings": "fedcba",
        "x": torch.arange(6.0) + round,
        "momentum": -torch.arange(6.0),
        "buffers": {"1.num_batches_tracked": torch.tensor(7)},
        "sent": {0: {"x": SHARED}, 11: {"x": SHARED}},
        "scalars": {0: {"weight": 0.5}, 11: {}},
    }
    return Checkpoint(**{**fields, **changes})  # type: ignore[arg-type]


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    assert (a.round, a.steps, a.layout, a.settings) == (b.round, b.steps, b.layout, b.settings)
    assert a.scalars == b.scalars
    assert a.algorithm.keys() == b.algorithm.keys()
    assert a.sent.keys() == b.sent.keys()
    assert a.optimizer.keys() == b.optimizer.keys()
    pairs = [(a.x, b.x), (a.momentum, b.momentum)]
    pairs += [(a.optimizer[name], b.optimizer[name]) for name in a.optimizer]
    pairs += [(a.buffers[name], b.buffers[name]) for name in a.buffers.keys() | b.buffers.keys()]
    pairs += [(a.sent[k][name], b.sent[k][name]) for k in a.sent for name in a.sent[k].keys() | b.sent[k].keys()]
    for name, value in a.algorithm.items():
        if isinstance(value, torch.Tensor):
            pairs.append((value, b.algorithm[name]))  # type: ignore[arg-type]
        else:
            assert value == b.algorithm[name]
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


CASES = {
    "shared": made(),
    "first round": made(round=1, sent={}, scalars={}, buffers={}),
    "different for each neighbor": made(
        sent={1: {"x": torch.ones(6)}, 2: {"x": torch.zeros(6)}}, scalars={1: {}, 2: {}}
    ),
    "several vectors": made(sent={1: {"x": torch.ones(6), "y": torch.zeros(6)}}, scalars={1: {"weight": 0.1 + 0.2}}),
    "state of an algorithm": made(
        algorithm={"inner.weight": 0.1 + 0.2, "never": float("inf"), "y": torch.ones(2, 3), "none": torch.zeros(0)}
    ),
    "state of AdamW": made(optimizer={"second_moment": torch.arange(6.0), "steps": torch.tensor([3.0, 0.0])}),
    "own vector sent": made(x=SHARED.float(), sent={1: {"x": SHARED}}, scalars={1: {}}),
}


@pytest.mark.parametrize("name", CASES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "made on demand", CASES[name])
    assert path.name == f"round-{CASES[name].round:06d}.safetensors"
    assert_same(load(path), CASES[name])


def test_what_all_neighbors_were_sent_is_stored_once(tmp_path: Path) -> None:
    big = torch.zeros(10_000)
    path = save(tmp_path, made(sent={peer: {"x": big} for peer in range(20)}))
    assert path.stat().st_size < 2 * big.nbytes


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, made())
    tensors = safetensors.torch.load_file(path)
    assert sorted(tensors) == ["buffer/1.num_batches_tracked", "momentum", "sent/0/x", "x"]
    source = Path(checkpoint.__file__).read_text()
    assert "torch.load" not in source
    assert "import pickle" not in source


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for round in (8, 9, 10, 11):
        save(tmp_path, made(round=round))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt",
        "round-000010.safetensors",
        "round-000011.safetensors",
    ]
    found, refused = newest(tmp_path)
    assert found is not None
    assert (found.round, refused) == (11, [])


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    save(tmp_path, made(round=1))
    (tmp_path / ".round-000002.safetensors.4711").write_bytes(b"half")
    (tmp_path / ".notes").write_text("mine")
    found, refused = newest(tmp_path)
    assert found is not None
    assert (found.round, refused) == (1, [])
    save(tmp_path, made(round=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".notes",
        "round-000001.safetensors",
        "round-000003.safetensors",
    ]


def test_rounds_are_ordered_as_numbers(tmp_path: Path) -> None:
    save(tmp_path, made(round=999_999))
    save(tmp_path, made(round=1_000_000))
    found, _ = newest(tmp_path)
    assert found is not None
    assert found.round == 1_000_000


def test_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    assert newest(tmp_path / "nothing") == (None, [])


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    save(tmp_path, made(round=1))
    save(tmp_path, made(round=2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(
        CheckpointError, match=r"round-000003\.safetensors: cannot be written \(.*No space left"
    ) as caught:
        save(tmp_path, made(round=3))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-000001.safetensors", "round-000002.safetensors"]
    found, refused = newest(tmp_path)
    assert found is not None
    assert (found.round, refused) == (2, [])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"round-000003\.safetensors: cannot be written") as caught:
        save(tmp_path / "file", made())
    assert "\n" not in str(caught.value)


def test_a_path_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "round-000003.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path, made())
    found, refused = newest(tmp_path)
    assert found is None
    assert "round-000003.safetensors" in refused[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(tmp_path_factory.mktemp("whole"), made()).read_bytes()


def refused(folder: Path, data: bytes) -> bool:
    """Whether a file is refused in one line that names it.

    Otherwise it must hold what was saved.
    """
    path = folder / "round-000003.safetensors"
    path.write_bytes(data)
    try:
        found = load(path)
    except CheckpointError as error:
        return str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert_same(found, made())
    return False


@settings(max_examples=200, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, place: float, bit: int
) -> None:
    data = bytearray(whole)
    data[int(place * len(data))] ^= 1 << bit
    assert refused(tmp_path_factory.getbasetemp(), bytes(data))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_cut_is_refused(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    assert refused(tmp_path_factory.getbasetemp(), whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"\x80\x04K\x01.", b"\xff" * 8 + b"{}"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    assert refused(tmp_path, data)


def test_safetensors_of_others_are_refused(tmp_path: Path) -> None:
    for about in (None, {"p2pfl": "[]"}, {"p2pfl": '"digest"'}, {"p2pfl": "{}"}, {"p2pfl": "nothing"}, {"other": "{}"}):
        safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "round-000003.safetensors", metadata=about)
        with pytest.raises(CheckpointError, match=r"round-000003\.safetensors: not an intact checkpoint"):
            load(tmp_path / "round-000003.safetensors")


def test_checkpoints_of_another_version_say_so(tmp_path: Path) -> None:
    about = {"p2pfl": '{"digest": "0", "round": 3}'}
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "round-000003.safetensors", metadata=about)
    with pytest.raises(CheckpointError, match=r"round-000003\.safetensors: written by another version of p2pfl"):
        load(tmp_path / "round-000003.safetensors")


def test_the_one_before_a_damaged_one_is_used(tmp_path: Path) -> None:
    save(tmp_path, made(round=1))
    newer = save(tmp_path, made(round=2))
    newer.write_bytes(newer.read_bytes()[:-3])
    found, lines = newest(tmp_path)
    assert found is not None
    assert_same(found, made(round=1))
    assert len(lines) == 1
    assert lines[0].startswith(f"{newer}: not an intact checkpoint")


@contextlib.contextmanager
def descriptors_left(free: int) -> Iterator[None]:
    """A process that can open so many files more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 20, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(held.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in held:
            os.close(file)


@pytest.mark.parametrize("free", [0, 1])
def test_too_many_open_files_are_no_damage(tmp_path: Path, free: int) -> None:
    """The limit may be met anywhere in reading, which takes two files at a time.

    Libraries report it as a missing file.
    """
    path = save(tmp_path, made())
    with descriptors_left(free), pytest.raises(UnreadableError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: cannot be read (")
    assert "Too many open files" in str(caught.value)
    assert str(caught.value).endswith("; raise the limit of open files (ulimit -n)")
    assert load(path).round == 3
