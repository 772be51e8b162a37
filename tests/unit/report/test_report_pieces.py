"""A run in several run directories, one of each peer's, in one report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support.pieces import make_pieces
from tests.support.runs import make_run

from p2pfl.cli import main
from p2pfl.report import summarize
from p2pfl.run.identity import write_run_id
from p2pfl.run.paths import ROUNDS_FILE
from p2pfl.topology import make_topology

pytestmark = pytest.mark.usefixtures("blank_plots")

RING = make_topology("ring", 3)


def reported(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in found.items() if name != "versions"}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["report", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_pieces_give_the_report_of_the_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, pieces = make_pieces(tmp_path, RING)
    assert main(["report", *map(str, pieces), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'report.html'}\n"
    expected = {name: value for name, value in summarize(whole).items() if name != "versions"}
    assert reported(tmp_path / "out") == expected
    assert expected["status"] == "complete"
    assert not (pieces[0] / "summary.json").exists()
    assert main(["report", *map(str, reversed(pieces))]) == 0
    assert reported(pieces[-1]) == expected, "in the first one named"


def test_missing_peers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, pieces = make_pieces(tmp_path, RING)
    assert main(["report", *map(str, pieces[:2])]) == 0
    assert "p2pfl: warning: no records of 2\n" in capsys.readouterr().err
    found = reported(pieces[0])
    assert (found["uncollected_peers"], found["status"], found["rounds_completed"]) == (["2"], "incomplete", 4)
    page = (pieces[0] / "report.html").read_text(encoding="utf-8")
    assert "No records of 2: all numbers are those of the other peers." in page
    assert "(no records)" in page
    assert found["components"] == []
    assert main(["report", str(pieces[2])]) == 0
    assert reported(pieces[2])["uncollected_peers"] == ["0", "1"], "also of one directory alone"


def test_directories_of_whole_runs_are_reported_one_by_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, RING, rounds=rounds) for name, rounds in (("a", 3), ("b", 4))]
    for run in runs:
        write_run_id(run)
    assert main(["report", *map(str, runs)]) == 0
    assert [reported(run)["rounds"] for run in runs] == [3, 4]


def test_directories_of_different_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, [a, b, c] = make_pieces(tmp_path, RING)
    config = b / "config.toml"
    config.write_text(config.read_text().replace("seed = 7", "seed = 8"))
    assert refused(capsys, str(a), str(b)) == (
        f"p2pfl: {b}: not of the same run as {a} (--seed 8, there 7); name directories of one run only"
    )
    other = make_pieces(tmp_path / "path", make_topology("path", 3))[1][1]
    assert "(links 4 (" in refused(capsys, str(a), str(other))
    write_run_id(c)
    assert "(only one has a run.id)" in refused(capsys, str(a), str(c))


def test_copies_of_a_peer_that_differ_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, [a, b, c] = make_pieces(tmp_path, RING)
    shutil.copytree(b, tmp_path / "copy")
    words = [str(a), str(b), str(tmp_path / "copy"), str(c)]
    assert main(["report", *words]) == 0, "equal ones are the same"
    assert reported(a)["status"] == "complete"
    capsys.readouterr()
    records = tmp_path / "copy" / "peers" / "1" / ROUNDS_FILE
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:-1]))
    assert "peer 1: its records in" in refused(capsys, *words)
    write_run_id(records.parent)
    assert "are of different runs (their run.id differ)" in refused(capsys, *words)


def test_a_directory_without_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, [a, b, c] = make_pieces(tmp_path, RING)
    (c / "config.toml").unlink()
    assert refused(capsys, str(a), str(b), str(c)).endswith(f"{c}: not a run directory (it has no config.toml)")
    (b / "topology.graphml").unlink()
    assert refused(capsys, str(a), str(b)).startswith(f"p2pfl: {b / 'topology.graphml'}: no such file")


def test_out_is_no_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, pieces = make_pieces(tmp_path, RING)
    line = refused(capsys, *map(str, pieces), "--out", str(whole))
    assert line == f"p2pfl: --out {whole}: holds another run or comparison; choose another folder"
