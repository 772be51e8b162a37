"""Tools of all benchmarks: repeats, child processes, bars, table and JSON file."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchvision", "numpy", "pyzmq", "msgspec", "networkx")

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Median of some repeats, with the lowest and the highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Spread of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], references: Sequence[float]) -> Spread:
    """Ratios of values to references that were measured in turns.

    Each pair was measured close together in time, as the machine is noisy.
    """
    return spread([value / reference for value, reference in zip(values, references, strict=True)])


@dataclass(frozen=True)
class Bar:
    """Target of a figure: `at_least` or `at_most` the limit."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        limit = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{'met   ' if self.met else 'MISSED'}  {self.name}: {self.value:.3g} ({limit})"


@dataclass
class Report:
    """Figures of one benchmark.

    `rows`: one flat mapping for each line of the table; a Spread is one cell.
    """

    name: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def finish(self, output: Path | None = None) -> Path:
        """Print the table and the bars, and write the figures as JSON.

        Returns the path of the JSON file: `output`, or `results/NAME.json`.
        """
        path = output or RESULTS / f"{self.name}.json"
        console = Console(width=None if os.isatty(1) else 160, highlight=False, markup=False)
        console.print(_table(self))
        for line in [*map(str, self.bars), *self.notes]:
            console.print(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"benchmark": self.name, "machine": machine(), "settings": self.settings, "notes": self.notes}
        bars = [{**asdict(bar), "met": bar.met} for bar in self.bars]
        path.write_text(json.dumps({**about, "rows": self.rows, "bars": bars}, indent=1, default=_plain) + "\n")
        console.print(f"written to {os.path.relpath(path)}")
        return path


def _table(report: Report) -> Table:
    columns = list(dict.fromkeys(key for row in report.rows for key in row))
    table = Table(title=report.name, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if isinstance(report.rows[0].get(column), str) else "right")
    for row in report.rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    if isinstance(value, Spread):
        return asdict(value)
    return str(value)


def machine() -> dict[str, Any]:
    """Description of the machine that the figures were measured on."""
    about: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }
    about |= {name: version(name) for name in LIBRARIES}
    return about


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def exit_status(work: Callable[[], None]) -> int:
    """Exit status of a benchmark that is a run of p2pfl, as that of the command.

    0 done, 1 failed, 2 bad input, 130 interrupted; an error of p2pfl is printed as one line.
    """
    from p2pfl.errors import ConfigError, Interrupted, P2PFLError  # not at the top: few benchmarks need it

    try:
        work()
    except P2PFLError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 130 if isinstance(error, Interrupted) else 1
    except KeyboardInterrupt:  # between two runs
        return 130
    return 0


def cpu_seconds() -> float:
    """User and system seconds of this process, all of its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_bytes() -> int:
    """Peak of this process's resident memory since `reset_peak` or its start.

    Linux only.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def reset_peak() -> None:
    """Count `peak_bytes` from now on; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def children(target: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[list[Connection]]:
    """Run `target(link, *arguments[k])` in child processes; yields the links to them.

    No child outlives the context. They have a worker's malloc settings, so that a reference gives no memory back that a
    peer would keep. A target's return value is the last item sent over its link; `gather` reads it.
    """
    context = multiprocessing.get_context("spawn")
    processes, links = [], []
    try:
        for words in arguments:
            ours, theirs = context.Pipe()
            process = context.Process(target=_child, args=(target, theirs, words), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            links.append(ours)
        yield links
    finally:
        for process in processes:
            process.kill()
            process.join()


def _child(target: Callable[..., Any], link: Connection, words: tuple[Any, ...]) -> None:
    try:
        from p2pfl.node.worker import keep_freed_memory  # not at the top: the parent may not need torch

        keep_freed_memory()
        link.send(("done", target(link, *words)))
    except BaseException:
        link.send(("failed", traceback.format_exc()))


def gather(links: Sequence[Connection], seconds: float = 600.0) -> list[Any]:
    """Return values of all children.

    Raises RuntimeError with a failed child's traceback, and TimeoutError.
    """
    deadline = time.monotonic() + seconds
    results = []
    for link in links:
        if not link.poll(max(deadline - time.monotonic(), 0.0)):
            raise TimeoutError(f"a child said nothing for {seconds:.0f} s")
        state, value = link.recv()
        if state == "failed":
            raise RuntimeError(value)
        results.append(value)
    return results
