"""Peers' run directories are collected into one run directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.pieces import make_pieces
from tests.support.runs import train_record

from p2pfl.cli import main
from p2pfl.errors import ConfigError
from p2pfl.report import summarize
from p2pfl.run.collect import collect
from p2pfl.run.identity import next_incarnation, write_run_id
from p2pfl.run.paths import DATA_FILE
from p2pfl.run.records import encode_record
from p2pfl.topology import make_topology

RING = make_topology("ring", 3)
CHECKPOINT = "checkpoint/round-{:06d}.safetensors"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def own(piece: Path) -> Path:
    """Folder of the only peer of a piece."""
    [found] = [path for path in (piece / "peers").iterdir() if (path / "run.id").exists()]
    return found


def cut_records(piece: Path, lines: int) -> None:
    path = own(piece) / "rounds.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


def test_the_result_is_the_run_directory_of_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, pieces = make_pieces(tmp_path / "shared", RING)
    shutil.rmtree(whole)
    (pieces[0] / "consensus.safetensors").write_bytes(b"weights")
    target = tmp_path / "shared" / "all"
    words = ["collect", str(tmp_path / "shared"), "--run-dir", str(target)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{target}: peers: 3 copied; report with: p2pfl report {target}\n"
    found = summarize(target)
    assert (found["status"], found["uncollected_peers"], found["damaged_records"]) == ("complete", [], [])
    expected = content(pieces[0]) | {
        name: data for piece in pieces[1:] for name, data in content(piece).items() if name.startswith("peers/")
    }
    assert content(target) == expected
    assert main(words) == 0, "the target in the shared folder is no source"
    assert capsys.readouterr().out.startswith(f"{target}: peers: 3 up to date;")


def test_what_is_missing_or_newer_is_brought_by_the_same_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, [a, b, c] = make_pieces(tmp_path, RING)
    full = own(b) / "rounds.jsonl"
    complete = full.read_bytes()
    cut_records(b, 2)
    target = tmp_path / "all"
    assert main(["collect", str(a), str(b), "--run-dir", str(target)]) == 0
    told = capsys.readouterr()
    assert "peers: 2 copied, 1 missing;" in told.out
    assert told.err == "p2pfl: warning: no run directory of 2\n"
    stale = tmp_path / "stale"
    shutil.copytree(b, stale)
    full.write_bytes(complete + b'{"round":')  # a line that is not finished yet
    found = collect([a, stale, b, c], target)
    assert (found.copied, found.up_to_date, found.newer, found.missing) == (("1", "2"), ("0",), (), ())
    before = content(target)
    assert collect([stale], target).newer == ("1",)
    assert content(target) == before, "an older copy replaces nothing"
    expected = {name: value for name, value in summarize(whole).items() if name != "versions"}
    assert {name: value for name, value in summarize(target).items() if name != "versions"} == expected


@pytest.mark.parametrize("is_new", [True, False], ids=["a new target", "an older target"])
def test_sources_where_no_peer_has_run_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_new: bool
) -> None:
    _, pieces = make_pieces(tmp_path, RING)
    target, empty = tmp_path / "all", tmp_path / "empty"
    if not is_new:
        collect(pieces, target)
    shutil.copytree(pieces[0], empty)
    shutil.rmtree(own(empty))
    before = content(target)
    assert main(["collect", str(empty), "--run-dir", str(target)]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == (
        "",
        f"p2pfl: {empty}: no peer has run there; name directories of peers that have started\n",
    )
    assert (content(target), target.exists()) == (before, not is_new), "nothing is written"


def test_a_folder_in_the_place_of_the_data_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, pieces = make_pieces(tmp_path, RING)
    for run_dir, words in (
        (pieces[0], ["collect", str(pieces[0]), "--run-dir", str(tmp_path / "all")]),
        (whole, ["report", str(whole)]),
    ):
        (run_dir / DATA_FILE).unlink(missing_ok=True)
        (run_dir / DATA_FILE).mkdir()
        assert main(words) == 2
        said = "cannot be read (Is a directory); it is a folder, and a file is needed there"
        assert capsys.readouterr().err == f"p2pfl: {run_dir / DATA_FILE}: {said}\n"


def test_a_later_start_is_newer_even_with_fewer_rounds(tmp_path: Path) -> None:
    _, pieces = make_pieces(tmp_path, RING)
    target = tmp_path / "all"
    for number in (3, 4):
        path = own(pieces[1]) / CHECKPOINT.format(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of round %d" % number)
    collect(pieces, target)
    resumed = own(pieces[1])
    cut_records(pieces[1], 3)
    with open(resumed / "rounds.jsonl", "ab") as file:
        file.write(encode_record(train_record(RING, 1, 4, 4, 2_000_000)) + b"\n")
    with pytest.raises(ConfigError, match=r"peer 1: the records in .* exclude each other; name the right directory"):
        collect(pieces, target)
    next_incarnation(resumed)
    (resumed / CHECKPOINT.format(3)).unlink()
    (resumed / "checkpoint" / ".round-000005.safetensors.77").write_bytes(b"not finished")
    assert collect(pieces, target).copied == ("1",)
    assert content(target / "peers" / "1") == {
        name: data for name, data in content(resumed).items() if not name.endswith(".77")
    }


def test_a_collection_that_is_interrupted_anywhere_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pieces = make_pieces(tmp_path, RING)
    collect(pieces, tmp_path / "reference")
    expected = content(tmp_path / "reference")
    (tmp_path / "reference").rename(tmp_path / "elsewhere")
    done, limit, replace = 0, 0, os.replace

    def interrupted(source: Any, target: Any) -> None:
        nonlocal done
        done += 1
        if done == limit:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    for limit in range(1, len(expected) + 1):
        done, target = 0, tmp_path / f"all-{limit}"
        with pytest.raises(KeyboardInterrupt):
            collect(pieces, target)
        if (target / "config.toml").exists():
            problems = summarize(target)["damaged_records"]
            assert all("sketches.f32: too long" in line for line in problems), "never a record without its sketch"
        collect(pieces, target)
        assert content(target) == expected


def _other_seed(piece: Path) -> None:
    config = piece / "config.toml"
    config.write_text(config.read_text().replace("seed = 7", "seed = 8"))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "settings": (_other_seed, "not of the same run as .* \\(--seed 8, there 7\\)"),
    "run": (write_run_id, "only one has a run.id"),
    "no run": (shutil.rmtree, "of-1: no such folder$"),
    "no settings": (lambda piece: (piece / "config.toml").unlink(), "no run directory, and no folder of such"),
}


@pytest.mark.parametrize("change", REFUSED)
def test_sources_that_do_not_belong_together_are_refused(tmp_path: Path, change: str) -> None:
    _, pieces = make_pieces(tmp_path, RING)
    REFUSED[change][0](pieces[1])
    with pytest.raises(ConfigError, match=REFUSED[change][1]):
        collect(pieces, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_another_run_of_a_peer_or_other_files_are_not_mixed_in(tmp_path: Path) -> None:
    _, pieces = make_pieces(tmp_path, RING)
    target = tmp_path / "all"
    collect(pieces, target)
    before = content(target)
    write_run_id(own(pieces[2]))
    with pytest.raises(ConfigError, match=r"peer 2: .* are of different runs \(their run.id differ\)"):
        collect(pieces, target)
    assert content(target) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="holds other files and no run; choose another"):
        collect(pieces[:2], tmp_path / "other")
    with pytest.raises(ConfigError, match="is the only source"):
        collect([target], target)


def test_cut_off_sketches_are_mended_by_a_whole_copy(tmp_path: Path) -> None:
    """As after an interrupted copy, which is newer than its original."""
    _, [a, b, c] = make_pieces(tmp_path, RING)
    broken = tmp_path / "broken"
    shutil.copytree(b, broken)
    os.truncate(own(broken) / "sketches.f32", 50)
    assert summarize(broken)["damaged_records"] == [
        f"{own(broken) / 'sketches.f32'}: too short, 0 sketches for 7 rounds"
    ]
    target = tmp_path / "all"
    assert collect([a, broken, c], target).copied == ("0", "1", "2")
    assert collect([b], target).copied == ("1",)
    assert summarize(target)["damaged_records"] == []
    assert collect([broken], target).newer == ("1",)
    collect([a, broken, b, c], tmp_path / "both")
    assert content(tmp_path / "both") == content(target)


def test_a_target_in_a_source_is_refused(tmp_path: Path) -> None:
    _, [a, b, _] = make_pieces(tmp_path, RING)
    before = content(a)
    with pytest.raises(ConfigError, match=r"inside of .*, which is collected; choose another"):
        collect([a, b], a / "all")
    assert content(a) == before
