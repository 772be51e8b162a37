"""Every benchmark runs at a tiny size and writes what it printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests.support import commands
from tests.support.paths import ROOT

NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "class Settings" in path.read_text())


def test_benchmarks_are_found() -> None:
    assert " ".join(NAMES) == "bookkeeping exchange headline mix ring_accuracy round scale start step topologies"


@pytest.mark.processes
@pytest.mark.parametrize("name", [name for name in NAMES if name != "headline"])  # see test_headline
def test_a_benchmark_runs_and_writes_its_rows(name: str, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    program = (sys.executable, "-m", f"benchmarks.{name}")
    ended = commands.run("--quick", "--output", str(output), program=program, cwd=ROOT, timeout=240)
    assert ended.returncode == 0, ended.stderr[-2000:]
    result = json.loads(output.read_text())
    assert result["benchmark"].split(",")[0] == name  # exchange has two tables, this is of its pairs
    assert result["rows"]
    assert result["bars"] == [], "tiny sizes reach no bar and miss none"
    assert result["machine"]["cores"] >= 1
    if name == "exchange":
        groups = json.loads(output.with_stem("result-group").read_text())
        assert {row["who"] for row in groups["rows"]} == {"bare", "shm", "ipc", "tcp", "ipc CURVE", "tcp CURVE"}
        assert groups["bars"] == []
        encrypted = {row["pair"].removesuffix(" CURVE") for row in result["rows"] if row["pair"].endswith(" CURVE")}
        assert encrypted == {"VGG-11 ipc fp32", "VGG-11 ipc bf16", "VGG-11 tcp fp32", "VGG-11 tcp bf16"}
    if name == "round":
        assert {column for row in result["rows"] for column in row} >= {
            "of plain",
            "of undelayed",
            "of unsaved",
            "of local",
        }
