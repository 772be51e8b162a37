"""Real swarms for the benchmarks, run one after the other, and their records."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from benchmarks import parts, probe

ROOT = Path(__file__).parent.parent
SECONDS = 300.0  # that a run may take
END_SECONDS = 20.0  # that the launcher gets to end
_LOG = "log.txt"

Kind = Literal["ring", "exponential", "mesh"]
Order = Literal["atc", "overlapped"]
Precision = Literal["fp32", "bf16"]
Transport = Literal["shm", "ipc", "tcp"]


@dataclass(frozen=True)
class Swarm:
    """Swarm to run.

    The first round starts it and the last one evaluates; the rounds between are measured.
    """

    kind: Kind
    peers: int
    rounds: int
    local_steps: int
    batch_size: int
    width: float
    precision: Precision = "bf16"
    mode: Literal["gossip", "local"] = "gossip"
    order: Order = "atc"
    transport: Transport = "ipc"
    link_delay: float = 0.0  # seconds every message is under way
    train_samples: int = 8000
    test_samples: int = 100
    checkpoint: bool = True
    checkpoint_every: int = 1
    norm: str = "group"
    gossip_steps: int = 1
    parts: bool = False  # measure the parts of a round

    @property
    def samples(self) -> int:
        """Samples of one peer in one round."""
        return self.local_steps * self.batch_size

    @property
    def degree(self) -> int:
        """Number of neighbors to which a peer sends."""
        if self.kind == "mesh" or self.peers == 2:
            return self.peers - 1
        return 2 if self.kind == "ring" else (self.peers - 1).bit_length()

    def options(self) -> dict[str, Any]:
        """The settings of the run by option name, all others at their defaults."""
        # Enough for the mixing after the last round to be short: it is not what is measured.
        exchange: dict[str, Any] = {"order": self.order, "consensus_tolerance": 0.99, "transport": self.transport}
        if self.kind == "exponential" and self.peers > 2:
            exchange["mixing"] = "uniform"  # it is directed, with equal degrees
        if self.gossip_steps > 1:
            exchange["gossip_steps"] = self.gossip_steps
        return {
            "model": "benchmarks.probe:model",
            "dataset": "benchmarks.images:random",
            "width": self.width,
            "norm": self.norm,
            "rounds": self.rounds,
            "local_steps": self.local_steps,
            "batch_size": self.batch_size,
            "lr": 0.001,
            "precision": self.precision,
            "device": "cpu",
            "eval_every": 1_000_000,
            **({"checkpoint_every": self.checkpoint_every} if self.checkpoint else {"checkpoint": False}),
            **(exchange if self.mode == "gossip" else {}),
        }

    def orders(self, stamps: Path, first: Literal["clock", "age", "memory"] = "clock") -> probe.Order:
        """Instructions for the model and the data set of this run."""
        stamps.mkdir()
        parts = (2, self.rounds) if self.parts else ()
        return probe.Order(str(stamps), self.local_steps, self.train_samples, self.test_samples, first, parts)


@dataclass(frozen=True)
class Figures:
    """Mean costs of a round, over the peers and the measured rounds."""

    seconds: float
    cpu: float  # seconds a peer, all threads
    cpu_training: float  # of these, those of the thread that trains and saves
    cpu_between: float  # of `cpu`, from the end of a round's last step to the beginning of the next round's first
    samples_per_second: float  # of the whole swarm
    train: float  # seconds; the parts of a round
    exchange: float
    wait: float
    evaluate: float
    last_evaluation: float  # seconds that a peer's evaluation after the last round takes
    bytes_sent: float  # a peer
    bytes_sent_busiest: int
    parts: dict[str, float]  # CPU milliseconds of a peer by part, if they were measured (`benchmarks.parts`)


class Launcher:
    """Process that runs swarms one after the other, and the folder of their records.

    A separate fork server for each swarm would import torch again: that takes seconds, and `start` measures it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0
        self._busy = False
        # `-c`, because the processes of a swarm import the module that was started with `-m`, and what it imports.
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from benchmarks.swarms import main; main()", str(folder)],
            cwd=ROOT,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def measure(self, swarm: Swarm) -> Figures:
        """Run a swarm; return the costs of its measured rounds.

        Raises RuntimeError, with its output, if it fails.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._runs += 1
        run_dir, stamps = (self._folder / f"{what}-{self._runs}" for what in ("run", "stamps"))
        probe.write_order(self._folder, swarm.orders(stamps))
        options = {**swarm.options(), "data_dir": str(self._folder / "data"), "run_dir": str(run_dir)}
        self._busy = True
        self._process.stdin.write(json.dumps({"swarm": asdict(swarm), "options": options}) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        if not ready or self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"{swarm} failed:\n{(self._folder / _LOG).read_text()}")
        self._busy = False
        figures = _figures(swarm, run_dir, probe.read_stamps(stamps))
        shutil.rmtree(run_dir)  # many peers' checkpoints are gigabytes
        return figures

    def close(self) -> None:
        """End the process and its children."""
        if self._busy:
            self._process.terminate()
        try:
            self._process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


@contextlib.contextmanager
def launcher() -> Iterator[Launcher]:
    """Launcher with a new temporary folder; both end with the context."""
    with tempfile.TemporaryDirectory(prefix="p2pfl-bench-") as name:
        started = Launcher(Path(name))
        try:
            yield started
        finally:
            started.close()


def end_cleanly() -> None:
    """Let SIGTERM end this process as an error would, together with its children."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def environment(folder: Path) -> dict[str, str]:
    """Environment of a swarm whose order lies in `folder`."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), probe.FOLDER: str(folder)}


def main() -> None:
    """Process of the launcher: runs a swarm for each input line, and answers."""
    answers = os.fdopen(os.dup(1), "w")
    with open(Path(sys.argv[1]) / _LOG, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import p2pfl.experiment.run
    from p2pfl.launch import fork_server

    with (
        fork_server(),  # one for all runs
        mock.patch.object(p2pfl.experiment.run, "write_report"),  # its pictures take seconds, and nobody looks at them
    ):
        for line in sys.stdin:
            _run(**json.loads(line))
            print("done", file=answers, flush=True)


def _run(swarm: dict[str, Any], options: dict[str, Any]) -> None:
    from p2pfl.config import RunConfig
    from p2pfl.experiment.run import run

    wanted = Swarm(**swarm)
    config = RunConfig.of("topology.graphml", mode=wanted.mode, **options)
    run(config, topology(wanted.kind, wanted.peers), link_delay=wanted.link_delay)


def topology(kind: Kind, peers: int) -> Any:
    """Graph of the swarm; with two peers all kinds are the same."""
    from p2pfl.topology import make_topology

    names = {"ring": "ring", "exponential": "exponential", "mesh": "complete"}
    return make_topology("complete" if peers == 2 else names[kind], peers)


def _figures(swarm: Swarm, run_dir: Path, stamps: list[list[probe.Stamp]]) -> Figures:
    from p2pfl.run.records import RoundRecord, read_rounds

    assert swarm.rounds >= 3
    middle: list[RoundRecord] = []
    last: list[RoundRecord] = []
    for folder in sorted((run_dir / "peers").iterdir()):
        records = read_rounds(folder)
        middle += records[1 : swarm.rounds - 1]
        last.append(records[swarm.rounds - 1])
    # From the beginning of the second round to that of the last one.
    spans = [(rounds[1], rounds[-1]) for rounds in stamps if len(rounds) == swarm.rounds]
    assert len(spans) == swarm.peers
    seconds = _mean([record.seconds for record in middle])
    return Figures(
        seconds=seconds,
        cpu=_mean([(end.cpu - begin.cpu) / (swarm.rounds - 2) for begin, end in spans]),
        cpu_training=_mean([(end.cpu_training - begin.cpu_training) / (swarm.rounds - 2) for begin, end in spans]),
        cpu_between=_mean([stamp.cpu - stamp.cpu_stepped for rounds in stamps for stamp in rounds[2:]]),
        samples_per_second=swarm.peers * swarm.samples / seconds,
        train=_mean([record.train_seconds for record in middle]),
        exchange=_mean([record.exchange_seconds for record in middle]),
        wait=_mean([record.wait_seconds for record in middle]),
        evaluate=_mean([record.evaluate_seconds for record in middle]),
        last_evaluation=_mean([record.evaluate_seconds for record in last]),
        bytes_sent=_mean([record.bytes_sent for record in middle]),
        bytes_sent_busiest=max(record.bytes_sent for record in middle),
        parts=_parts(swarm, spans),
    )


def _parts(swarm: Swarm, spans: Sequence[tuple[probe.Stamp, probe.Stamp]]) -> dict[str, float]:
    """Mean of each part over the peers and the measured rounds.

    The launcher's is divided among the peers.
    """
    if not swarm.parts:
        return {}
    found = [(begin.parts or {}, end.parts or {}) for begin, end in spans]
    names = sorted({name for _, end in found for name in end})
    used = {name: _mean([end.get(name, 0.0) - begin.get(name, 0.0) for begin, end in found]) for name in names}
    shared = {parts.LAUNCHER: swarm.peers}
    return {name: value / (swarm.rounds - 2) / shared.get(name, 1) for name, value in used.items()}


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
