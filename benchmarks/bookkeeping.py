"""CPU time of a peer's round beside its training step, without an exchange.

`python -m benchmarks.bookkeeping`. Peers of a real run in mode local take one step of batch 2 a round (VGG-11 at full
width, no checkpoints), so that what every round costs whatever it trains is seen: the checks that weights are finite,
the sketch, the record, reports and the log. It is measured in two ways over the rounds between the first and the last,
user and system seconds of all threads of a worker:

- *between steps*: from the end of a round's optimizer step to the beginning of the next round's forward pass. It has a
  bar. The next batch is in it.
- *beside plain*: a whole round, less a step of a plain PyTorch process with the same model, memory format, optimizer,
  and malloc settings. It also contains what the rest of the round does to the caches of the step, and much noise.

A second table has the same by part of the process's work (`benchmarks.parts`, Linux only), in modes local and gossip: a
ring of as many peers at --parts-width and --parts-batch-size, bf16, batch normalization, one step a round, and one
exchange a round or four.

The plain processes, as many at once as there are peers, also sketch and check their weights after a step, with the step
in the caches: what these two cost alone.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import tyro

from benchmarks.common import RESULTS, Bar, Report, children, cpu_seconds, gather, spread
from benchmarks.swarms import Figures, Swarm, end_cleanly, launcher

AT_MOST_MS = 10.0
_WARM_STEPS = 3


@dataclass(frozen=True)
class Settings:
    """Cost of a round without an exchange."""

    quick: bool = False
    """Tiny, to see that everything works; figures mean nothing, and there are no bars."""
    repeats: int = 3
    """How often everything is measured, in turns."""
    peers: int = 4
    """Peers, and plain processes at once."""
    rounds: int = 40
    """Measured rounds of a turn, and steps of a plain process."""
    batch_size: int = 2
    """Samples in a step; a round has one."""
    width: float = 1.0
    """Of VGG-11."""
    parts_width: float = 0.25
    """Of VGG-11 in the table of parts."""
    parts_batch_size: int = 32
    """Samples in a step there."""
    output: Path | None = None
    """Where the JSON goes; default: benchmarks/results/bookkeeping.json."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        if not self.quick:
            return self
        return replace(self, repeats=1, peers=2, rounds=2, width=0.125, parts_width=0.125, parts_batch_size=2)

    def swarm(self) -> Swarm:
        return Swarm(
            "ring",
            self.peers,
            self.rounds + 2,
            local_steps=1,
            batch_size=self.batch_size,
            width=self.width,
            precision="fp32",
            mode="local",
            train_samples=512,
            checkpoint=False,
        )

    def swarms_of_parts(self) -> dict[str, Swarm]:
        """Swarms of the table of parts, by name."""
        local = replace(
            self.swarm(),
            batch_size=self.parts_batch_size,
            width=self.parts_width,
            precision="bf16",
            norm="batch",
            train_samples=max(512, self.peers * self.parts_batch_size * (self.rounds + 2)),
            parts=True,
        )
        one = replace(local, mode="gossip")
        return {"no exchange": local, "one exchange": one, "four exchanges": replace(one, gossip_steps=4)}


@dataclass(frozen=True)
class Costs:
    """CPU milliseconds of a plain process: means over its steps."""

    step: float
    sketch: float
    check: float


def main(settings: Settings) -> None:
    """Measure in turns, and report."""
    end_cleanly()
    settings = settings.shrunk()
    report = Report("bookkeeping", asdict(settings))
    swarm = settings.swarm()
    cells: dict[str, list[float]] = defaultdict(list)
    arguments = [(settings, me) for me in range(settings.peers)]
    with launcher() as runs:
        parts = {name: runs.measure(one) for name, one in settings.swarms_of_parts().items()}
    with launcher() as runs, children(_serve, arguments) as links:
        for repeat in range(settings.repeats):
            figures = runs.measure(swarm)
            plain = _together(links)
            step = statistics.fmean(costs.step for costs in plain)
            cells["round ms"].append(1000 * figures.cpu)
            cells["plain step ms"].append(step)
            cells["between steps ms"].append(1000 * figures.cpu_between)
            cells["beside plain ms"].append(1000 * figures.cpu - step)
            cells["a sketch ms"].append(statistics.fmean(costs.sketch for costs in plain))
            cells["a check ms"].append(statistics.fmean(costs.check for costs in plain))
            last = {name: round(values[-1], 2) for name, values in cells.items()}
            print(f"turn {repeat + 1} of {settings.repeats}: {last}", file=sys.stderr, flush=True)
    report.rows.append({"peers": swarm.peers, **{name: spread(values) for name, values in cells.items()}})
    if not settings.quick:
        between = spread(cells["between steps ms"]).median
        report.bars.append(Bar("CPU ms of a round between two steps", between, at_most=AT_MOST_MS))
    report.notes.append("User and system CPU of one worker, all threads; means over the peers and rounds of a turn.")
    report.finish(settings.output)
    table = Report("bookkeeping, parts", asdict(settings), rows=_rows_of(parts))
    table.finish((settings.output or RESULTS / "bookkeeping.json").with_suffix(".parts.json"))


def _rows_of(measured: dict[str, Figures]) -> list[dict[str, float | str]]:
    """CPU milliseconds of a peer and round in each swarm: the whole, then each part."""
    whole: dict[str, float | str] = {"part": "CPU, all threads"}
    whole |= {f"{name} ms": 1000 * figures.cpu for name, figures in measured.items()}
    parts = sorted({part for figures in measured.values() for part in figures.parts})
    first = next(iter(measured.values())).parts
    parts.sort(key=lambda part: -first.get(part, 0.0))
    rows = [whole]
    for part in parts:
        rows.append({"part": part, **{f"{name} ms": one.parts.get(part, 0.0) for name, one in measured.items()}})
    return rows


def _together(links: Sequence[Connection]) -> list[Costs]:
    """Let all plain processes measure at once."""
    for link in links:
        link.send("measure")
    return gather(links)


def _serve(link: Connection, settings: Settings, me: int) -> None:
    """Plain process: measures on request."""
    import torch

    from benchmarks.exchange_swarm import Learner
    from p2pfl.model.sketches import sketch
    from p2pfl.training import check_weights

    torch.set_num_threads(1)
    learner = Learner(settings.width, me, settings.batch_size)
    works: list[Callable[[], object]] = [
        learner.step,
        lambda: sketch(learner.x.numpy(), 0),
        lambda: check_weights(learner.x, "fp32", "now"),
    ]
    with contextlib.suppress(EOFError):
        while True:
            link.recv()
            for _ in range(_WARM_STEPS):
                learner.step()
            spent = [[_cpu_ms(work) for work in works] for _ in range(settings.rounds)]
            link.send(("done", Costs(*(statistics.fmean(values) for values in zip(*spent, strict=True)))))


def _cpu_ms(work: Callable[[], object]) -> float:
    before = cpu_seconds()
    work()
    return 1000 * (cpu_seconds() - before)


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.bookkeeping", description=__doc__))
