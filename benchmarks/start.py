"""Start time of a swarm, and memory of a peer before its first training step.

`python -m benchmarks.start`. Each swarm is the real command, `python run_peers.py gossip …`, with a data set that has
been decoded before. The clock runs from the launch of the command to the moment at which the last peer is about to
begin its first training step: the model's forward hook writes that down (`benchmarks.probe`). On the way there are
imports and data (until the first peer's process is forked), forking (until the last one is), and getting ready.

Memory is looked at there, too, in runs that are not timed: the pages that no other process has (USS), without the
model and its momentum and without the data set. The data set is one file that all peers map; what a peer has copied of
it should be nothing, and the peers' shares of its pages (PSS) should add up to no more than the file. Linux only.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import probe
from benchmarks.common import Bar, Report, spread
from benchmarks.swarms import ROOT, Swarm, end_cleanly, environment, topology

SECONDS_AT_MOST = 20.0
OVERHEAD_MB_AT_MOST = 60.0
LIMIT_SECONDS = 300.0  # for one run
MB = 1e6


@dataclass(frozen=True)
class Settings:
    """Start time and memory of swarms."""

    quick: bool = False
    """Tiny, to see that everything works; figures mean nothing, and there are no bars."""
    repeats: int = 3
    """How often every start is timed, in turns; memory is looked at once. With 0 that run's times are shown."""
    peers: tuple[int, ...] = (4, 16, 64)
    """Sizes of the swarms; the bars are for the last one."""
    width: float = 0.25
    """Of VGG-11."""
    batch_size: int = 16
    """Samples in a step."""
    output: Path | None = None
    """Where the JSON goes; default: benchmarks/results/start.json."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        return replace(self, repeats=0, peers=(4,), width=0.125) if self.quick else self

    def swarm(self, peers: int) -> Swarm:
        return Swarm("ring", peers, 1, 1, self.batch_size, self.width, train_samples=8192)


@dataclass(frozen=True)
class Start:
    """Moments of a start, in seconds from the launch of the command."""

    forked: float  # the first peer's process is there
    all_forked: float
    first_step: float  # the first peer begins its first step
    last_step: float
    ended: float  # the command has ended: one round, mixing, and the report
    cpu: float  # seconds a peer until its first step


def main(settings: Settings) -> None:
    """Time in turns, measure memory once, and report."""
    end_cleanly()
    settings = settings.shrunk()
    report = Report("start", asdict(settings))
    starts: dict[int, list[Start]] = {peers: [] for peers in settings.peers}
    with tempfile.TemporaryDirectory(prefix="p2pfl-bench-") as name:
        folder = Path(name)
        # The first run decodes the data set, which is not to be timed.
        looks = {peers: _run(settings.swarm(peers), folder, "memory") for peers in settings.peers}
        for repeat in range(settings.repeats):
            for peers in settings.peers:
                start, _ = _run(settings.swarm(peers), folder, "age")
                starts[peers].append(start)
                text = f"{peers} peers: last first step after {start.last_step:.2f} s"
                print(f"{repeat + 1} of {settings.repeats}: {text}", file=sys.stderr, flush=True)
        [file] = (folder / "data").glob("*.safetensors")
        size = file.stat().st_size
    for peers, (start, stamps) in looks.items():
        report.rows.append({"peers": peers, **_times(starts[peers] or [start]), **_memory(stamps, size)})
    report.notes.append(f"the data set's file has {size / MB:.1f} MB")
    if settings.repeats:
        report.bars += _bars(settings.peers[-1], starts[settings.peers[-1]], looks[settings.peers[-1]][1])
    report.finish(settings.output)


def _run(swarm: Swarm, folder: Path, first: Literal["age", "memory"]) -> tuple[Start, list[probe.Stamp]]:
    """Run the command; return its start times, and its peers' stamps.

    A peer stamps the moment before its first step.
    """
    from p2pfl.topology import save_topology

    with tempfile.TemporaryDirectory(dir=folder) as name:
        here = Path(name)
        probe.write_order(folder, swarm.orders(here / "stamps", first))
        save_topology(topology(swarm.kind, swarm.peers), here / "ring.graphml")
        options = {**swarm.options(), "data_dir": folder / "data", "run_dir": here / "run"}
        flags = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
        command = [sys.executable, str(ROOT / "run_peers.py"), "gossip", str(here / "ring.graphml"), *flags]
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        ended = time.monotonic()
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}:\n{done.stdout}")
        stamps = [rounds[0] for rounds in probe.read_stamps(here / "stamps")]
    assert len(stamps) == swarm.peers
    forked = [stamp.time - stamp.age - began for stamp in stamps]
    steps = [stamp.time - began for stamp in stamps]
    cpu = statistics.fmean(stamp.cpu for stamp in stamps)
    return Start(min(forked), max(forked), min(steps), max(steps), ended - began, cpu), stamps


def _times(starts: list[Start]) -> dict[str, Any]:
    def middle(value: Callable[[Start], float]) -> float:
        return statistics.median(map(value, starts))

    return {
        "last first step s": spread([start.last_step for start in starts]),
        "first forked s": middle(lambda start: start.forked),
        "last forked s": middle(lambda start: start.all_forked),
        "first step s": middle(lambda start: start.first_step),
        "ended s": middle(lambda start: start.ended),
        "CPU s/peer": middle(lambda start: start.cpu),
    }


def _overhead(stamp: probe.Stamp) -> float:
    """Private bytes of a peer beyond its model, its momentum and the data.

    There are no gradients yet.
    """
    return stamp.private - 2 * stamp.model - stamp.data_alone


def _memory(stamps: list[probe.Stamp], size: int) -> dict[str, Any]:
    return {
        "USS MB": spread([stamp.private / MB for stamp in stamps]),
        "overhead MB": max(map(_overhead, stamps)) / MB,
        "data copied MB": max(stamp.data_copied for stamp in stamps) / MB,
        "data's PSS, all MB": sum(stamp.data_share for stamp in stamps) / MB,
        "of the file": sum(stamp.data_share for stamp in stamps) / size,
    }


def _bars(peers: int, starts: list[Start], stamps: list[probe.Stamp]) -> list[Bar]:
    seconds = statistics.median(start.last_step for start in starts)
    overhead = max(map(_overhead, stamps)) / MB
    copied = max(stamp.data_copied for stamp in stamps) / MB
    return [
        Bar(f"{peers} peers: s until the last one's first step", seconds, at_most=SECONDS_AT_MOST),
        Bar(f"{peers} peers: private MB beyond model, optimizer and data", overhead, at_most=OVERHEAD_MB_AT_MOST),
        Bar(f"{peers} peers: MB of the data set copied by a peer", copied, at_most=0.0),
    ]


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.start", description=__doc__))
