"""The headline run resumes from call to call, and writes its figures at the end."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import pytest
from tests.support import commands
from tests.support.paths import ROOT

from benchmarks.headline import Settings, interrupted_after, plan

PROGRAM = (sys.executable, "-m", "benchmarks.headline")
SECONDS = 250.0  # for one call: on a busy machine a tiny run and its report take minutes


@pytest.mark.processes
@pytest.mark.timeout(2 * SECONDS + 100)
def test_an_interrupted_call_is_resumed_and_the_last_one_writes_the_figures(tmp_path: Path) -> None:
    words = ("--quick", "--out", str(tmp_path / "out"))
    with commands.start(*words, program=PROGRAM, cwd=ROOT) as first:
        assert first.stdout is not None
        seen = next((line for line in first.stdout if line.startswith("round 1/")), "")
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=SECONDS)
    assert (seen != "", first.returncode) == (True, 130), err
    assert "rounds done" in out
    assert "resume with: python -m benchmarks.headline --quick" in err

    ended = commands.run(*words, program=PROGRAM, cwd=ROOT, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert "resuming after round" in ended.stdout
    result = json.loads((tmp_path / "out" / "headline.json").read_text())
    assert result["rows"][0]["samples"] == plan(Settings(quick=True).shrunk()).samples
    assert result["bars"] == [], "a tiny run reaches no bar and misses none"
    assert list((tmp_path / "out").glob("*/report.html"))


def test_a_block_is_interrupted_after_its_seconds() -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.001):
        threading.Event().wait(SECONDS)


def test_peers_average_exactly_after_each_training() -> None:
    planned = plan(Settings(dataset="digits"))
    assert planned.config.gossip.gossip_steps == 10, "a ring of 20 has ten distinct eigenvalues below 1"
    one = plan(Settings(dataset="digits", local_steps=1))
    assert one.config.training.rounds == 225 * (1500 // (20 * 32))
