"""What `make soak` does at length, in small: random cuts, kills, and bad links between network namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


def soak(folder: Path, name: str, *options: str) -> tuple[dict[str, Any], str]:
    """Its figures and its verdict; skips where it does."""
    ended = subprocess.run(
        [sys.executable, "-m", f"soak.{name}", *options],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    lines = ended.stdout.splitlines()
    if lines and lines[0].startswith("skipped: "):
        pytest.skip(lines[0].removeprefix("skipped: "))
    assert ended.returncode == 0, (ended.stdout, ended.stderr[-2000:])
    assert list(folder.iterdir()) == [], "left behind"
    return json.loads(lines[-2]), lines[-1]


def test_cuts(tmp_path: Path) -> None:
    figures, verdict = soak(tmp_path, "cuts", "--cuts", "10", "--command-line", "1", "--keep", str(tmp_path))
    assert sum(part["cuts"] for part in figures.values()) >= 10
    assert figures["threads"]["hits"], "some cuts hit something"
    assert verdict == "every one resumed, none differs"


def test_kills(tmp_path: Path) -> None:
    figures, verdict = soak(tmp_path, "kills", "--kills", "4", "--rounds", "200", "--every", "1")
    assert figures["kills"] >= 4
    assert figures["restarts"] >= 1
    assert verdict == "all promises held"


def test_bad_links_between_network_namespaces(tmp_path: Path) -> None:
    figures, verdict = soak(tmp_path, "network", "--rounds", "60", "--cut", "8", "--loss", "0.02")
    assert figures["rounds_without_somebody"]["1"] >= 1
    assert verdict == "the swarm learned on"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_namespaces_end_with_who_made_them(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "soak.network"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while not list(tmp_path.glob("*/good/3.txt")):
        if process.poll() is not None:
            pytest.skip(process.stdout.read().strip())
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 5, "unshare, the one inside, and peers"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    process.communicate(timeout=60)
    assert psutil.wait_procs(family, timeout=20)[1] == []
    assert not list(Path("/run").glob("netns/peer*"))
    assert number == signal.SIGKILL or list(tmp_path.iterdir()) == []
