"""Reference of a swarm: the fastest training of one process in plain PyTorch."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.common import children, gather
from benchmarks.swarms import Swarm

SECONDS = 120.0  # that one answer may take
_WARM_STEPS = 3


@dataclass(frozen=True)
class Plain:
    """Process with the plain loop, and the number of its threads."""

    link: Connection
    threads: int = 1

    def rate(self, seconds: float, threads: int | None = None) -> float:
        """Samples per second, measured over `seconds`."""
        self.link.send((threads or self.threads, seconds))
        [rate] = gather([self.link], SECONDS)
        return float(rate)

    def fastest(self, seconds: float) -> tuple[Plain, dict[int, float]]:
        """Find the best number of threads, trying each twice.

        Returns the loop with that number, and the samples per second with each.
        """
        rates: dict[int, float] = {}
        for threads in _thread_counts() * 2:
            rates[threads] = max(rates.get(threads, 0.0), self.rate(seconds, threads))
        return Plain(self.link, max(rates, key=lambda count: rates[count])), rates


@contextlib.contextmanager
def plain(swarm: Swarm) -> Iterator[Plain]:
    """Start the process with the model and batch of a swarm."""
    with tempfile.TemporaryDirectory(prefix="p2pfl-bench-") as name, children(_serve, [(swarm, Path(name))]) as [link]:
        yield Plain(link)


def _thread_counts() -> list[int]:
    """Numbers of threads to try: 1, 2, 4, … and all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({cores, *(1 << k for k in range(cores.bit_length()) if 1 << k <= cores)})


def _serve(link: Connection, swarm: Swarm, folder: Path) -> None:
    """Process with the plain loop: measures on request."""
    import torch

    loop = _Loop(swarm, folder)
    with contextlib.suppress(EOFError):
        while True:
            threads, seconds = link.recv()
            torch.set_num_threads(threads)
            link.send(("done", loop.rate(seconds)))


class _Loop:
    """Training loop with a peer's means: channels-last, bf16 autocast, fused SGD.

    Batches come from uint8 images in memory.
    """

    def __init__(self, swarm: Swarm, folder: Path) -> None:
        import numpy as np
        import torch

        from benchmarks import probe
        from p2pfl import data
        from p2pfl.model.networks import build_vgg

        self._swarm = swarm
        os.environ[probe.FOLDER] = str(folder)
        probe.write_order(folder, swarm.orders(folder / "none"))
        dataset = data.load(data.prepare("benchmarks.images:random", folder / "data", lambda *_: None))
        everything = np.arange(swarm.train_samples)
        self._batches = data.Batches(dataset, everything, swarm.batch_size, torch.device("cpu"), seed=0, peer=0)
        self._model = build_vgg(11, width=swarm.width).to(memory_format=torch.channels_last).train()
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
        )
        self._steps = 0

    def rate(self, seconds: float) -> float:
        for _ in range(_WARM_STEPS):
            self._step()
        began, before = time.monotonic(), self._steps
        while time.monotonic() - began < seconds:
            self._step()
        return (self._steps - before) * self._swarm.batch_size / (time.monotonic() - began)

    def _step(self) -> None:
        import torch
        from torch.nn import functional

        x, y = self._batches.batch(self._steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._swarm.precision == "bf16"):
            scores = self._model(x)
        loss = functional.cross_entropy(scores.float(), y)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._steps += 1
