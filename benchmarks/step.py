"""Speed of a peer's training step beside the tutorial's, lever by lever.

The reference is the loop of the classic CIFAR-10 tutorials: float32, NCHW, eager, `torch.optim.SGD` as it comes, and a
DataLoader (in the process on the CPU; two workers and pinned memory for a GPU) over PIL images that torchvision's
transforms crop, flip and normalize. It is timed on the same model, optimizer settings, batch, threads and random
images, held in memory, so no file is read and no download is needed, and with the same malloc settings: all run in
processes whose malloc keeps freed memory, as a worker's does. Between it and p2pfl's real `Trainer` stand loops that
have one lever more each. All loops of a model take turns, with the same samples in every turn, and a figure is the
median over the turns of the ratio to the tutorial's loop in the same turn.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks import step_processes
from benchmarks.common import Bar, Report, ratios, spread
from benchmarks.step_loops import BY_HAND, CHAIN, COMPILED, Levers, Turn, Work, can_compile, loop, peer, rounds
from p2pfl.node.worker import keep_freed_memory

QUICK_WIDTH = 0.0625


@dataclass(frozen=True)
class Settings:
    """Speed of one peer's training step."""

    model: str = "vgg11"
    """Network of the levers' table."""
    widths: tuple[float, ...] = (1.0, 0.25)
    """Scales of its channels."""
    batch_size: int = 64
    """Batch of all loops but those of --batch-sizes."""
    batch_sizes: tuple[int, ...] = (32, 128)
    """Further batches, for the tutorial's loop and the trainer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    threads: int = 1
    """CPU threads: a peer has its share of the cores."""
    seconds: float = 1.0
    """Length of a turn of the tutorial's loop, about."""
    repeats: int = 5
    """Turns of every loop."""
    compile: bool = False
    """Also measure torch.compile, which takes minutes on a CPU."""
    processes: int = 0
    """Also run this many peers at once on the device (16 for the bar on a GPU); 0: none."""
    process_model: str = "vgg19"
    """Their network."""
    process_steps: int = 50
    """Optimizer steps in one of their rounds."""
    quick: bool = False
    """Tiny sizes, every path once: a smoke test, whose figures say nothing."""
    output: Path | None = None
    """Where the JSON goes; benchmarks/results/step.json unless given."""

    @property
    def place(self) -> str:
        """The device's name."""
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.device


def quick(settings: Settings) -> Settings:
    """These settings with tiny sizes."""
    tiny: dict[str, Any] = {
        "widths": (QUICK_WIDTH,),
        "batch_size": 8,
        "batch_sizes": (16,),
        "seconds": 0.01,
        "repeats": 2,
    }
    return dataclasses.replace(settings, **tiny, processes=2, process_model="vgg11", process_steps=1)


def main(settings: Settings) -> Report:
    """Measure, and report all tables."""
    if settings.quick:
        settings = quick(settings)
    keep_freed_memory()  # as a worker does: for the tutorial's loop as well as for the trainer
    torch.set_num_threads(settings.threads)
    report = Report("step", dataclasses.asdict(settings) | {"device": settings.place})
    if settings.place == "cuda":
        report.notes.append(f"GPU: {torch.cuda.get_device_name()}")
    if settings.compile and (why := can_compile(settings.place)):
        report.notes.append(why)
    for width in settings.widths:
        _levers(settings, width, report)
    if settings.processes:
        _processes(settings, report)
    report.finish(settings.output)
    return report


def _levers(settings: Settings, width: float, report: Report) -> None:
    """Measure every loop on one model, in turns."""
    title = f"{settings.model} ×{width:g}"
    work = _calibrated(settings, width)
    print(f"{title}: {work.samples} samples a turn", file=sys.stderr)
    turns = _turns(settings, work)
    seconds = _in_turns(turns, settings.repeats, title)
    tutorial = seconds[("tutorial", work.batch_size)]
    before = tutorial
    for (name, batch), values in seconds.items():
        rate = work.samples / spread(values).median
        row: dict[str, Any] = {"model": title, "batch": batch, "loop": name, "samples/s": round(rate)}
        row |= {"ms/step": 1000 * batch / rate, "× tutorial": ratios(tutorial, values)}
        if batch == work.batch_size:
            row["× line before"] = ratios(before, values)
            before = values
        report.rows.append(row)
    if not settings.quick:
        own, by_hand = (seconds[(name, work.batch_size)] for name in ("Trainer", BY_HAND))
        value = ratios(by_hand, own).median
        report.bars.append(Bar(f"{title}: Trainer beside the same levers by hand", value, at_least=0.95))


def _turns(settings: Settings, work: Work) -> dict[tuple[str, int], Turn]:
    """Every loop, by name and batch size; all have the same samples in a turn."""
    named: dict[str, Levers] = dict(CHAIN)
    if settings.compile and not can_compile(work.device):
        named["+ torch.compile"] = COMPILED
    size = work.batch_size
    turns: dict[tuple[str, int], Turn] = {(name, size): loop(work, levers) for name, levers in named.items()}
    if work.device == "cuda":
        turns["Trainer without its CUDA graph", size] = rounds(peer(work, captured=False))
    turns["Trainer", size] = rounds(peer(work))
    turns["Trainer, fp32", size] = rounds(peer(work, "fp32"))
    for other in settings.batch_sizes:
        if other != size:
            changed = dataclasses.replace(work, batch_size=other, steps=work.samples // other)
            turns["tutorial", other] = loop(changed, Levers())
            turns["Trainer", other] = rounds(peer(changed))
    return turns


def _calibrated(settings: Settings, width: float) -> Work:
    """Work that takes the tutorial's loop about `seconds` a turn.

    A turn is a whole number of steps of every batch size.
    """
    one = Work(settings.model, width, settings.batch_size, 1, settings.place, settings.threads)
    samples = _per_second(one) * settings.seconds
    unit = math.lcm(settings.batch_size, *settings.batch_sizes)
    return dataclasses.replace(one, steps=max(1, round(samples / unit)) * unit // settings.batch_size)


def _per_second(one: Work) -> float:
    """Rough samples a second of the tutorial's loop; `one` has one step a turn."""
    turn = loop(one, Levers())
    turn()
    count, began = 0, time.perf_counter()
    while count < 2 or (time.perf_counter() - began < 1.0 and count < 50):
        turn()
        count += 1
    return count * one.samples / (time.perf_counter() - began)


def _in_turns(turns: Mapping[tuple[str, int], Turn], repeats: int, title: str) -> dict[tuple[str, int], list[float]]:
    """Seconds of each turn of each loop, after one turn of each that does not count."""
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in turns}
    for number in range(repeats + 1):
        print(f"{title}: {f'repeat {number} of {repeats}' if number else 'warming up'}", file=sys.stderr)
        for key, turn in turns.items():
            began = time.perf_counter()
            turn()
            if number:
                seconds[key].append(time.perf_counter() - began)
    return seconds


def _processes(settings: Settings, report: Report) -> None:
    """Measure many peers on one device."""
    width = QUICK_WIDTH if settings.quick else 1.0
    title = f"{settings.process_model} ×{width:g}"
    size, steps = settings.batch_size, settings.process_steps
    work = Work(settings.process_model, width, size, steps, settings.place, settings.threads)
    seconds = settings.seconds if settings.quick else max(settings.seconds, 5.0)
    shared = step_processes.measure(work, settings.processes, settings.repeats, seconds)
    report.rows += shared.rows(title, work, settings.processes)
    if shared.gpu_bytes:
        report.notes.append(f"{settings.processes} peers and the tutorial's loop hold {shared.gpu_bytes / 1e9:.1f} GB")
    if settings.place == "cuda" and not settings.quick:
        together, alone = shared.together_to_alone.median, shared.alone_to_tutorial.median
        name = f"{settings.processes} peers of {title} together beside one alone"
        report.bars.append(Bar(name, together, at_least=0.8))
        report.bars.append(Bar(f"one peer of {title} beside the tutorial's loop", alone, at_least=3.0))


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.step", description=__doc__))
