"""Swarm of p2pfl, and bare processes with the same training and traffic.

The swarm is started by its command. CPU and memory of p2pfl are its workers' only. The launcher, which shows the run,
costs them time, which counts, but its CPU seconds do not. The peaks differ in method: a worker's is since its fork, a
bare process's since `reset_peak` at the beginning of its turn. The bare processes have the same malloc settings
(`common.children`).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.nn import functional

from benchmarks import exchange_bare as bare
from benchmarks.common import reset_peak
from benchmarks.exchange_pool import SECONDS, Cost, Mark, Place, mean_cost
from p2pfl.model.networks import build_vgg
from p2pfl.model.vector import Layout, aligned_vector
from p2pfl.run.paths import ROUNDS_FILE
from p2pfl.run.records import read_rounds
from p2pfl.topology import make_topology, mixing_matrix, neighborhood, save_topology

BATCH = 2
LR = 1e-3
SAMPLES = 256  # training samples of all peers
CLASSES = 10
FIND_SECONDS = 0.2  # between looks for the workers, before they train
LOOK_SECONDS = 0.02  # between looks at their records


@dataclass(frozen=True)
class Figures:
    """Cost of a round for a process, and its peak of memory.

    Seconds are the median of the rounds, CPU seconds their mean.
    """

    cost: Cost
    peak: float

    @classmethod
    def mean(cls, figures: Sequence[Figures]) -> Figures:
        """Mean over the processes of a swarm."""
        seconds = statistics.fmean(one.cost.seconds for one in figures)
        cpu = statistics.fmean(one.cost.cpu for one in figures)
        return cls(Cost(seconds, cpu), statistics.fmean(one.peak for one in figures))


@dataclass(frozen=True)
class Swarm:
    """Swarm of `peers` of VGG-11 that take one step of batch 2 a round.

    The rounds up to `warm` and the last one are not measured.
    """

    kind: str
    peers: int
    width: float
    rounds: int
    warm: int
    train: bool = True  # False is possible for the bare processes only

    @property
    def total(self) -> int:
        """Number of training rounds."""
        return self.warm + self.rounds + 1

    def run(self, place: Place) -> Figures:
        """Bare version, in one of its processes."""
        reset_peak()
        learner = Learner(self.width, place.me)
        neighbors = neighborhood(mixing_matrix(make_topology(self.kind, self.peers)), place.me)
        marks = []
        with bare.Sockets(place.bind("ipc"), place.me) as sockets:
            mixer = bare.Mixer(sockets, learner.x, neighbors.self_weight, neighbors.incoming)
            endpoints = place.meet(sockets.endpoint)
            sockets.connect({neighbor: endpoints[neighbor] for neighbor in neighbors.outgoing})
            for _ in range(self.total):
                if self.train:
                    learner.step()
                mixer.mix()
                marks.append(Mark.now())
            sockets.flush()
        marks = marks[self.warm - 1 : self.warm + self.rounds]
        seconds = [after.wall - before.wall for before, after in pairwise(marks)]
        return Figures(Cost(statistics.median(seconds), mean_cost(marks).cpu), _peak(os.getpid()))

    def through_p2pfl(self, checkpoint: bool = False) -> Figures:
        """Figures of p2pfl, whose peers are started by a separate process."""
        with tempfile.TemporaryDirectory(prefix="p2pfl-") as folder:
            command = self._command(Path(folder), checkpoint)
            output = Path(folder) / "output.txt"
            with output.open("w") as file:
                process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=file, stderr=file)
                try:
                    figures = _Watch(self, Path(folder) / "run", process).figures()
                    status = process.wait(SECONDS)
                finally:
                    process.terminate()
                    process.wait(SECONDS)
            if status:
                raise RuntimeError(output.read_text())
            return figures

    def _command(self, folder: Path, checkpoint: bool) -> list[str]:
        topology = folder / "topology.graphml"
        save_topology(make_topology(self.kind, self.peers), topology)
        options = {
            "run-dir": folder / "run",
            "data-dir": folder,
            "dataset": "benchmarks.exchange_swarm:random_images",
            "model": "vgg11",
            "width": self.width,
            "rounds": self.total,
            "local-steps": 1,
            "batch-size": BATCH,
            "lr": LR,
            "eval-every": 10**6,
            "consensus-tolerance": 0.9,
            "device": "cpu",
            "threads": 1,
            "transport": "ipc",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        saving = "--checkpoint" if checkpoint else "--no-checkpoint"
        return [sys.executable, "-m", "p2pfl", "gossip", str(topology), *words, saving]


def random_images() -> dict[str, Any]:
    """Data set of random images; its test set is too small to take time."""
    draw = np.random.default_rng(0)
    entries: dict[str, Any] = {"classes": [str(label) for label in range(CLASSES)]}
    for split, count in (("train", SAMPLES), ("test", CLASSES)):
        entries[f"{split}_images"] = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
        entries[f"{split}_labels"] = np.arange(count) % CLASSES
    return entries


class Learner:
    """Training of one peer in plain PyTorch: channels-last, fused Nesterov SGD.

    `x` is the model as one float32 vector, of which its tensors are views.
    """

    def __init__(self, width: float, me: int, batch: int = BATCH, precision: str = "fp32") -> None:
        torch.manual_seed(0)
        model = build_vgg(11, width=width)
        layout = Layout.of(model)
        self.x = aligned_vector(layout.size)
        layout.bind(model, self.x)  # parameters are views of one vector, convolutions channels-last
        self._model: nn.Module = model.train()
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        torch.manual_seed(me)
        self._images = torch.randn(32, batch, 32, 32, 3).permute(0, 1, 4, 2, 3)
        self._labels = torch.randint(CLASSES, (32, batch))
        self._bf16 = precision == "bf16"
        self._steps = 0

    def step(self) -> None:
        batch = self._steps % len(self._images)
        self._steps += 1
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            scores = self._model(self._images[batch])
        loss = functional.cross_entropy(scores.float(), self._labels[batch])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


class _Watch:
    """Watch over a running swarm's processes and records."""

    def __init__(self, swarm: Swarm, run_dir: Path, process: subprocess.Popen[bytes]) -> None:
        self._swarm = swarm
        self._peers = [run_dir / "peers" / str(peer) for peer in range(swarm.peers)]
        self._process = process
        self._deadline = time.monotonic() + SECONDS
        self._cpu: dict[Path, dict[int, float]] = {peer: {} for peer in self._peers}  # seconds after a round
        self._peak: dict[Path, int] = {}

    def figures(self) -> Figures:
        """Figures of the measured rounds, once they are over.

        Raises RuntimeError, TimeoutError.
        """
        first, last = self._swarm.warm, self._swarm.warm + self._swarm.rounds
        workers: dict[Path, psutil.Process] = {}
        while not all(max(self._cpu[peer], default=0) >= last for peer in self._peers):
            if self._process.poll() is not None or time.monotonic() > self._deadline:
                break
            if len(workers) < len(self._peers):
                time.sleep(FIND_SECONDS)
                workers = self._find()
                continue
            time.sleep(LOOK_SECONDS)
            for peer, worker in workers.items():
                self._look(peer, worker)
        return Figures.mean([self._of_peer(peer, first, last) for peer in self._peers])

    def _find(self) -> dict[Path, psutil.Process]:
        """Worker of each peer, found by its standard output, which is the peer's log."""
        found = {}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                found[Path(os.readlink(f"/proc/{process.pid}/fd/1")).parent] = process
            except OSError:
                continue
        return {peer: found[peer.resolve()] for peer in self._peers if peer.resolve() in found}

    def _look(self, peer: Path, worker: psutil.Process) -> None:
        rounds = (peer / ROUNDS_FILE).read_bytes().count(b"\n") if (peer / ROUNDS_FILE).exists() else 0
        if rounds == max(self._cpu[peer], default=0):
            return
        try:
            times = worker.cpu_times()
            self._cpu[peer][rounds] = times.user + times.system
            self._peak[peer] = _peak(worker.pid)
        except (psutil.NoSuchProcess, OSError):
            return

    def _of_peer(self, peer: Path, first: int, last: int) -> Figures:
        seen = {rounds: cpu for rounds, cpu in self._cpu[peer].items() if first <= rounds <= last}
        if len(seen) < 2:
            raise RuntimeError(f"the run was over before it could be looked at: {read_rounds(peer)}")
        begin, end = min(seen), max(seen)
        seconds = [record.seconds for record in read_rounds(peer) if first < record.round <= last]
        cpu = (seen[end] - seen[begin]) / (end - begin)
        return Figures(Cost(statistics.median(seconds), cpu), self._peak[peer])


def _peak(pid: int) -> int:
    """Peak of a process's resident memory without mapped files (libraries, data).

    The mapped files are taken to have been the same size then as now: Linux keeps no peak of each kind.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return (kib["VmHWM"] - kib["RssFile"] - kib["RssShmem"]) * 1024
