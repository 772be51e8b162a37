"""Swarms started as a user starts them, and ended with the test."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.support import commands

from p2pfl import make_topology
from p2pfl.topology import save_topology

FAST = shlex.split(
    "--dataset digits --model user_models:linear --batch-size 8 --lr 0.01 --eval-every 1000000 --threads 1"
)


class Swarm:
    """`run_peers.py gossip` as a user starts it, in its own process group."""

    def __init__(self, folder: Path, *options: str, program: tuple[str, ...], **environment: str) -> None:
        self.run_dir = folder / "run"
        self._folder = tempfile.TemporaryDirectory(prefix="t-")  # a socket's path must be short
        self.temporary = Path(self._folder.name)
        environment = {"TMPDIR": str(self.temporary), **environment}
        self.process = commands.start(
            "gossip", *options, start_new_session=True, environment=environment, program=program
        )
        self.lines: list[str] = []

    def until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        raise AssertionError(f"ended before {text!r}: {self.lines} {self.process.stderr.read()}")  # type: ignore[union-attr]

    def family(self) -> list[psutil.Process]:
        """The launcher's descendants: fork server, resource tracker, peers."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def peers(self) -> list[psutil.Process]:
        grandchildren = [p for child in psutil.Process(self.process.pid).children() for p in child.children()]
        return sorted(grandchildren, key=lambda process: process.pid)

    def end(self, seconds: float = 60.0) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=seconds)
        self.lines += out.splitlines()
        return self.process.returncode, err


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Swarm]]:
    swarms: list[Swarm] = []

    def begin(*options: str, program: tuple[str, ...] = commands.PROGRAM, **environment: str) -> Swarm:
        swarms.append(Swarm(tmp_path, *options, program=program, **environment))
        return swarms[-1]

    yield begin
    for swarm in swarms:
        if swarm.process.poll() is None:
            os.killpg(swarm.process.pid, signal.SIGKILL)
            swarm.process.communicate()


def ring(folder: Path, n: int = 3) -> str:
    save_topology(make_topology("ring", n), folder / "ring.graphml")
    return str(folder / "ring.graphml")


def nobody_left(swarm: Swarm, family: list[psutil.Process]) -> None:
    _gone, alive = psutil.wait_procs(family, timeout=60.0)  # on a machine that others use, an end may take long
    assert not alive, f"orphans: {alive}"
    assert list(swarm.temporary.glob("p2pfl-*")) == [], "socket files left behind"
