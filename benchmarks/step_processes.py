"""Speed of several peers on one device, beside one peer and the tutorial's loop."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from benchmarks.common import Spread, children, gather, ratios, spread
from benchmarks.step_loops import Levers, Turn, Work, loop, peer, rounds

START_SECONDS = 600.0  # that the children have to be ready
LEAD_SECONDS = 0.2  # between saying when they start and that moment


@dataclass(frozen=True)
class Shared:
    """Samples a second by turn: the tutorial's loop, one peer alone, all peers."""

    tutorial: list[float]
    alone: list[float]
    together: list[float]
    gpu_bytes: int
    """In use on the GPU while all peers are ready; 0 on the CPU."""

    @property
    def alone_to_tutorial(self) -> Spread:
        return ratios(self.alone, self.tutorial)

    @property
    def together_to_alone(self) -> Spread:
        return ratios(self.together, self.alone)

    def rows(self, title: str, work: Work, processes: int) -> list[dict[str, object]]:
        """Rows of the table."""
        made: list[dict[str, object]] = []
        for name, rates, count in (
            ("tutorial", self.tutorial, 1),
            ("Trainer, 1 process", self.alone, 1),
            (f"Trainer, {processes} processes", self.together, processes),
        ):
            rate = spread(rates).median
            row = {"model": title, "batch": work.batch_size, "loop": name, "samples/s": round(rate)}
            row |= {"ms/step": 1000 * work.batch_size * count / rate, "× tutorial": ratios(rates, self.tutorial)}
            made.append(row | {"× one alone": ratios(rates, self.alone)})
        return made


def measure(work: Work, processes: int, repeats: int, seconds: float) -> Shared:
    """Time the tutorial's loop, one peer, and all peers at once, in each repeat.

    Each takes `seconds`, while the others wait.
    """
    torch.set_num_threads(work.threads)
    with children(_peer, [(work, index) for index in range(processes)]) as links:
        tutorial = loop(work, Levers())
        tutorial()
        gather(links, START_SECONDS)
        print(f"{processes} processes are ready", file=sys.stderr)
        gpu_bytes = 0
        if work.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            gpu_bytes = total - free
        shared = Shared([], [], [], gpu_bytes)
        for number in range(repeats):
            print(f"processes: repeat {number + 1} of {repeats}", file=sys.stderr)
            shared.tutorial.append(_rate(tutorial, work.samples, time.monotonic(), seconds))
            shared.alone.append(sum(_ask(links[:1], seconds)))
            shared.together.append(sum(_ask(links, seconds)))
    return shared


def _ask(links: Sequence[Connection], seconds: float) -> list[float]:
    start = time.monotonic() + LEAD_SECONDS  # the same clock in all processes of a machine
    for link in links:
        link.send((start, seconds))
    return gather(links, seconds + START_SECONDS)


def _peer(link: Connection, work: Work, index: int) -> None:
    """Child process: reports that it is ready, then trains on request."""
    turn = rounds(peer(work, index=index))
    turn()
    link.send(("done", None))
    while link.poll(START_SECONDS):
        start, seconds = link.recv()
        time.sleep(max(start - time.monotonic(), 0.0))
        link.send(("done", _rate(turn, work.samples, start, seconds)))


def _rate(turn: Turn, samples: int, start: float, seconds: float) -> float:
    """Samples a second from `start`; the last turn counts up to the end."""
    end = start + seconds
    done = 0.0
    before = start
    while before < end:
        turn()
        after = time.monotonic()
        done += samples * min(1.0, (end - before) / (after - before))
        before = after
    return done / seconds
