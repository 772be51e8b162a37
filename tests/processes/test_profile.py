"""`--profile`: the trace of one process's round, from a real run."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.support.paths import MODELS, ROOT

from p2pfl.cli import main
from p2pfl.errors import CheckpointError
from p2pfl.node.profile import RoundProfile

FAST = ["--dataset", "digits", "--model", "user_models:linear", "--rounds", "3", "--local-steps", "2", "--threads", "1"]


def spans(path: Path) -> Counter[str]:
    events: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


@pytest.mark.processes
def test_one_round_of_one_peer_is_traced_in_both_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(MODELS)
    ring = str(ROOT / "topologies" / "ring-4.graphml")
    run_dir = tmp_path / "run"
    assert main(["gossip", ring, *FAST, "--run-dir", str(run_dir), "--profile", "2:2"]) == 0
    (trace,) = run_dir.glob("peers/*/profile-*")
    assert trace == run_dir / "peers" / "2" / "profile-round-2.json.gz"
    assert str(trace) in capsys.readouterr().out
    found = spans(trace)
    assert found["train"] == found["sketch"] == found["checkpoint"] == 1, "one round, and one only"
    assert found["Optimizer.step#SGD.step"] == 2, "what the training thread does is in it"
    assert found["exchange and mix"] >= 1
    lines = (run_dir / "peers" / "2" / "rounds.jsonl").read_text().splitlines()
    assert all(json.loads(line)["exchange_seconds"] >= 0 for line in lines), "writing the trace is counted nowhere"


@pytest.mark.processes
def test_a_client_that_was_not_drawn_has_no_trace_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(MODELS)
    run_dir = tmp_path / "run"
    words = ["centralized", "--num-clients", "2", "--num-selected", "1", *FAST, "--run-dir", str(run_dir)]
    assert main([*words, "--seed", "0"]) == 0
    record = json.loads((run_dir / "peers/coordinator/rounds.jsonl").read_text().splitlines()[1])
    (idle,) = {"0", "1"} - set(record["selected"])
    again = tmp_path / "again"
    words = ["centralized", "--num-clients", "2", "--num-selected", "1", *FAST, "--run-dir", str(again)]
    capsys.readouterr()
    assert main([*words, "--seed", "0", "--profile", f"{idle}:2"]) == 0
    captured = capsys.readouterr()
    assert f"--profile {idle}:2: {idle} had no part in that round" in captured.out + captured.err
    assert not list(again.glob("peers/*/profile-*"))


def test_a_trace_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    profile = RoundProfile(gone / "profile-round-1.json.gz", 1)
    profile.begin(1)
    with pytest.raises(CheckpointError, match=re.escape(f"{gone / 'profile-round-1.json.gz'}: cannot be written")):
        profile.end(1)
    profile.close()  # as the driver does at its end: the profiler has been stopped, and is not stopped again
    assert not profile.written
