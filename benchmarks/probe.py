"""VGG-11 that records the start of each round, and its process's use until then."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import optimizer

from benchmarks import parts
from benchmarks.memory import age, mapping_bytes, private_bytes
from p2pfl.model.networks import build_model

FOLDER = "P2PFL_BENCH"  # environment variable, which reaches every process of a swarm: where the order lies
_FILE = "order.json"


@dataclass(frozen=True)
class Order:
    """Instructions of a benchmark for the processes of a swarm.

    They come from the environment, since a user's model or data set gets no arguments.
    """

    stamps: str  # folder to write to
    local_steps: int
    train_samples: int
    test_samples: int
    first: Literal["clock", "age", "memory"] = "clock"  # what a process looks at before its first step; Linux only
    parts: tuple[int, ...] = ()  # rounds before which it looks at its parts (`benchmarks.parts`); Linux only


def write_order(folder: Path, order: Order) -> None:
    """Write the order for the next swarm with `folder` in its environment."""
    (folder / _FILE).write_text(json.dumps(vars(order)))


def read_order() -> Order:
    return Order(**json.loads((Path(os.environ[FOLDER]) / _FILE).read_text()))


@dataclass(frozen=True)
class Stamp:
    """Start of a round's first training step in one process; -1 if not measured."""

    process: int
    round: int
    time: float  # of time.monotonic, which all processes of a machine share
    cpu: float  # seconds of all threads since the process began
    cpu_training: float  # of these, those of the thread that trains, evaluates and saves
    cpu_stepped: float  # what `cpu` was at the end of the optimizer step before this one; 0 before the first
    age: float = -1.0  # seconds since the process was forked
    model: int = -1  # bytes of its parameters and buffers
    private: int = -1  # bytes of pages that no other process has
    data_copied: int = -1  # pages of the data set that the process has a copy of
    data_alone: int = -1  # pages of the data set's file that only this process has mapped
    data_share: int = -1  # of the data set's pages, each divided by the number of processes that have it mapped
    parts: dict[str, float] | None = None  # CPU milliseconds by part since the process began


def model(num_classes: int, norm: str, width: float) -> nn.Module:
    """VGG-11 with a hook that reads the clock before a round's first step.

    For `--model benchmarks.probe:model`.
    """
    vgg = build_model("vgg11", num_classes=num_classes, norm=norm, width=width)
    vgg.register_forward_pre_hook(_Probe(read_order()))
    return vgg


class _Probe:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._count = 0
        self._stepped = 0.0
        self._parts = parts.install() if order.parts else None
        optimizer.register_optimizer_step_post_hook(self._after_step)

    def _after_step(self, *_: Any) -> None:
        self._stepped = time.process_time()

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        # What tries the model out before the run, in the process that prepares the data, is no peer.
        if not module.training or multiprocessing.current_process().name == "data":
            return
        number, step = divmod(self._count, self._order.local_steps)
        self._count += 1
        if step == 0:
            stamp = self._look(module, number + 1)
            with open(Path(self._order.stamps) / str(os.getpid()), "a") as file:
                file.write(json.dumps(vars(stamp)) + "\n")

    def _look(self, module: nn.Module, round: int) -> Stamp:
        cpu = time.process_time()
        stamp = Stamp(os.getpid(), round, time.monotonic(), cpu, time.thread_time(), self._stepped)
        if self._parts is not None and round in self._order.parts:
            return replace(stamp, parts=self._parts.read())
        if self._order.first == "clock" or round > 1:
            return stamp
        stamp = replace(stamp, age=age())
        if self._order.first == "age":
            return stamp
        model = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        mapped: dict[str, Any] = mapping_bytes(".safetensors")
        return replace(stamp, model=model, private=private_bytes(), **mapped)


def read_stamps(folder: Path) -> list[list[Stamp]]:
    """Stamps of each process's rounds, oldest first."""
    return [[Stamp(**json.loads(line)) for line in path.read_text().splitlines()] for path in sorted(folder.iterdir())]
