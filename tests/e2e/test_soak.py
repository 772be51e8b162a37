"""Small versions of `make soak`: random cuts, kills, and bad links."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support import commands
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes


@pytest.fixture
def folder() -> Iterator[Path]:
    """Folder with a short path, since paths of sockets are limited to some 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="t-") as name:
        yield Path(name)


def soak(folder: Path, name: str, *options: str) -> tuple[dict[str, Any], str]:
    """Its figures and its verdict; skips where it does."""
    program, environment = (sys.executable, "-m", f"soak.{name}"), {"TMPDIR": str(folder)}
    ended = commands.run(*options, program=program, cwd=ROOT, environment=environment, timeout=280)
    lines = ended.stdout.splitlines()
    if lines and lines[0].startswith("skipped: "):
        pytest.skip(lines[0].removeprefix("skipped: "))
    assert ended.returncode == 0, (ended.stdout, ended.stderr[-2000:])
    left = [path.name for path in folder.iterdir()]
    # Where even the launcher is killed, nobody is left to remove the folders of its sockets; torch has its own.
    assert [name for name in left if not name.startswith(("p2pfl-", "pymp-", "torchinductor"))] == [], "left behind"
    return json.loads(lines[-2]), lines[-1]


def test_cuts(folder: Path) -> None:
    figures, verdict = soak(folder, "cuts", "--cuts", "12", "--command-line", "0", "--keep", str(folder))
    assert sum(part["cuts"] for part in figures.values()) >= 10
    assert figures["threads"]["hits"], "some cuts hit something"
    assert verdict == "every one resumed, none differs"


def test_kills(folder: Path) -> None:
    figures, verdict = soak(folder, "kills", "--kills", "3", "--rounds", "70", "--every", "0.7")
    assert figures["kills"] >= 3
    assert figures["restarts"] >= 1
    assert verdict == "all promises held"


def test_bad_links_between_network_namespaces(folder: Path) -> None:
    figures, verdict = soak(folder, "network", "--rounds", "24", "--cut", "6", "--loss", "0.02")
    assert figures["rounds_without_somebody"]["1"] >= 1
    assert verdict == "the swarm learned on"


def test_peers_in_network_namespaces_find_each_other(folder: Path) -> None:
    figures, verdict = soak(folder, "meeting", "--spread", "1")
    assert all(sorted(order) == [0, 1, 2, 3] for order in figures["orders"].values())
    assert verdict == "all found each other"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_namespaces_end_with_who_made_them(folder: Path, number: signal.Signals) -> None:
    process = commands.start(
        program=(sys.executable, "-m", "soak.network"),
        cwd=ROOT,
        environment={"TMPDIR": str(folder)},
        stderr=None,
        start_new_session=True,
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/good/3.txt")):
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            pytest.skip(process.stdout.read().strip())
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 5, "unshare, the one inside, and peers"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    process.communicate(timeout=60)
    assert psutil.wait_procs(family, timeout=60)[1] == []
    assert number == signal.SIGKILL or list(folder.glob("p2pfl-*")) == []
