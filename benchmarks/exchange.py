"""Cost of exchanging weights through p2pfl and through bare sockets, side by side.

Pair: two processes swap the weights of a VGG, both directions at once, round after round. p2pfl is the real `Peer` with
D-PSGD (adapt-then-combine) on `ZmqTransport`, driven by a loop without training and records: greeting, credit,
headers, checks, conversion, weighted average, acknowledgement. The bare version is what one would write with pyzmq
alone: one ROUTER bound, one DEALER connected, the same buffer sent again and again with `copy=False`, whole or in
chunks of 1 MiB, and what comes in added into a float32 array in place (bfloat16 converted in the cache first). Both end
a swap at the same point: all of the other's vector is added, and ZeroMQ has released its own. The bare version sends
a vector that never changes, and has no weights. Its better way of sending is the reference. Beside it, without a bar,
stand the same bare sockets with what an exchange of changing weights needs ("mixing": a copy or conversion and a
weighted average a round, in place), and one memory copy of the vector. All ways have the same malloc settings, a
worker's: whole frames are twice as fast with them. Rows with CURVE, without a bar, are of p2pfl with key pairs, whose
sockets are encrypted and authenticated, beside the same bare sockets, which are not.

Swarm: processes that take one training step of batch 2 a round and average VGG-11 with their neighbors over ipc. p2pfl
is its own command, `p2pfl gossip`, with everything that a run has (records, sketches, reports to the launcher;
checkpoints apart). The bare version is one PyTorch process a peer with the same model, memory format, optimizer and one
thread, the same malloc settings, raw float32 chunks of 1 MiB, and averaging in place, of which one copies what is sent,
in the order in which chunks come in. p2pfl's CPU is that of its workers: the launcher's, which shows the run, is not in
it, but what time that takes from the workers is in their seconds. Peak is resident memory without files: imported
libraries are mapped once in one way of starting a process and once each in the other. A worker's counts since it was
forked, with its start; a bare process's since its turn began, with what malloc has kept of earlier turns.

Group: processes on a graph that average VGG-11 with their neighbors round after round and train nothing, through p2pfl
over each transport, shared memory among them, beside the bare version's averaging over ipc. CURVE is as in a pair.

p2pfl and reference take turns, each first every other time; a ratio is taken within one turn, and figures are medians
over the turns.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.common import RESULTS, Bar, Report, Spread, ratios, spread
from benchmarks.exchange_group import Group
from benchmarks.exchange_pair import Swap, Transport, Way, layout_of, make_key_pairs
from benchmarks.exchange_pool import Cost, Pool, average, pool
from benchmarks.exchange_swarm import Figures, Swarm

LEAST_SHARE = 0.8  # of the bytes a second of the better bare way
MOST_COST = 1.25  # times the bare processes' seconds and CPU seconds
# Most CPU seconds and seconds of a round in shared memory, times those of bare sockets with float32; None: no bar.
_GROUP_BARS: dict[str, tuple[float, float | None]] = {
    "ring:4": (0.5, 0.6),
    "complete:8": (0.35, None),
    "complete:16": (0.35, None),
}
_PAIRS = 6  # processes: of bare sockets, of p2pfl, and of p2pfl with CURVE
_BARE: tuple[Way, ...] = ("chunks", "whole", "mixing", "copy")


@dataclass(frozen=True)
class Settings:
    """Cost of exchanging weights."""

    parts: tuple[Literal["swarm", "pair", "group"], ...] = ("swarm", "pair", "group")
    """Swarms, pairs, groups."""
    depths: tuple[int, ...] = (11, 19)
    """VGGs whose weights a pair swaps."""
    transports: tuple[Transport, ...] = ("ipc", "tcp", "shm")
    """Sockets of a pair and of a group, or shared memory, beside which bare sockets are ipc."""
    codecs: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    """Number formats of a pair's messages."""
    width: float = 1.0
    """Scale of the models' channels."""
    swaps: int = 10
    """Swaps in a turn."""
    repeats: int = 5
    """Turns of a pair."""
    topologies: tuple[str, ...] = ("ring", "complete")
    """Swarms."""
    peers: int = 4
    """Processes of a swarm."""
    rounds: int = 16
    """Rounds of a swarm in a turn."""
    swarm_repeats: int = 3
    """Turns of a swarm."""
    groups: tuple[str, ...] = ("ring:4", "complete:8", "complete:16")
    """Graphs and sizes of groups that exchange VGG-11 and train nothing."""
    curve: tuple[str, ...] = ("pair", "ring:4")
    """What is measured with CURVE, too, over sockets: pairs, and groups by name."""
    warm: int = 4
    """Swaps and rounds before those that are measured."""
    quick: bool = False
    """Tiny sizes, every path once: a smoke test, whose figures say nothing."""
    output: Path | None = None
    """Where the JSON goes; benchmarks/results/exchange.json unless given, and -swarm beside it."""


def quick(settings: Settings) -> Settings:
    """These settings with tiny sizes, and two processes for a swarm."""
    tiny: dict[str, Any] = {"width": 0.125, "swaps": 2, "repeats": 1, "rounds": 20, "swarm_repeats": 1, "warm": 1}
    return dataclasses.replace(
        settings, **tiny, depths=(11,), topologies=("path",), peers=2, groups=("path:2",), curve=("pair", "path:2")
    )


def main(settings: Settings) -> None:
    """Measure the swarms and pairs that were asked for.

    The swarms come first, while the bare processes still hold no memory of pairs.
    """
    settings = quick(settings) if settings.quick else settings
    output = settings.output or RESULTS / "exchange.json"
    reports = []
    groups = [int(group.rpartition(":")[2]) for group in settings.groups] if "group" in settings.parts else []
    pairs = _PAIRS if "pair" in settings.parts and not settings.quick else 0
    with pool(max([settings.peers, *groups, pairs])) as processes:
        if "swarm" in settings.parts:
            report = Report("exchange, swarms", dataclasses.asdict(settings))
            _swarms(settings, Pool(processes.links[: settings.peers]), report)
            reports.append((report, output.with_stem(output.stem + "-swarm")))
        if "pair" in settings.parts:
            report = Report("exchange, pairs", dataclasses.asdict(settings))
            _pairs(settings, processes, report)
            reports.append((report, output))
        if "group" in settings.parts:
            report = Report("exchange, groups", dataclasses.asdict(settings))
            _groups(settings, processes, report)
            reports.append((report, output.with_stem(output.stem + "-group")))
    for report, path in reports:
        report.finish(path)


def _pairs(settings: Settings, processes: Pool[Any], report: Report) -> None:
    links = processes.links  # where there are enough, no way finds the heap as another kind of sockets leaves it
    bare, ours, encrypted = Pool[Cost](links[:2]), Pool[Cost](links[-2:]), Pool[Cost](links[-4:][:2])
    for name, swap in _swaps(settings):
        works = {"p2pfl": (ours, swap)} | {way: (bare, dataclasses.replace(swap, way=way)) for way in _BARE}
        if "pair" in settings.curve and swap.transport != "shm":
            works["CURVE"] = encrypted, dataclasses.replace(swap, key_pairs=make_key_pairs(2))
        costs: dict[str, list[Cost]] = {way: [] for way in works}
        for turn in range(settings.repeats):
            _say(f"{name}, turn {turn + 1} of {settings.repeats}")
            for way, (pair, work) in list(works.items())[:: -1 if turn % 2 else 1]:
                costs[way].append(average(pair.do(work)))
        speeds = {way: [swap.bytes / 1e9 / cost.seconds for cost in those] for way, those in costs.items()}
        best = max(("chunks", "whole"), key=lambda way: spread(speeds[way]).median)
        cpu = {way: 1000 * spread([cost.cpu for cost in those]).median for way, those in costs.items()}
        for way in [way for way in works if way not in _BARE]:
            row: dict[str, Any] = {"pair": f"{name} CURVE" if way == "CURVE" else name, "p2pfl": spread(speeds[way])}
            row |= {other: spread(speeds[other]) for other in ("chunks", "whole")}
            row |= {other: spread(speeds[other]).median for other in ("mixing", "copy")}
            share, mixing = ratios(speeds[way], speeds[best]), ratios(speeds[way], speeds["mixing"])
            row |= {"p2pfl / better bare": share, "p2pfl / mixing": mixing}
            report.rows.append(row | {"p2pfl CPU ms": cpu[way], "bare CPU ms": cpu[best]})
            if way == "p2pfl" and not settings.quick:
                report.bars.append(Bar(f"{name}: share of the better bare pair's bytes/s", share.median, LEAST_SHARE))
                report.bars.append(Bar(f"{name}: share of the mixing pair's bytes/s", mixing.median, LEAST_SHARE))
    report.notes.append("GB/s that one process sends (and at the same time receives); CPU: of one process in a swap.")
    if "pair" in settings.curve:
        report.notes.append("CURVE: p2pfl with keys; the bare sockets beside it neither encrypt nor authenticate.")


def _swaps(settings: Settings) -> Iterator[tuple[str, Swap]]:
    for depth in settings.depths:
        layout = layout_of(depth, settings.width)
        for transport in settings.transports:
            for codec in settings.codecs:
                swap = Swap("p2pfl", transport, codec, layout.size, layout.digest, settings.swaps, settings.warm)
                yield f"VGG-{depth} {transport} {codec}", swap


def _groups(settings: Settings, processes: Pool[Any], report: Report) -> None:
    layout = layout_of(11, settings.width)
    for name in settings.groups:
        kind, _, size = name.rpartition(":")
        pool_ = Pool[Cost](processes.links[: int(size)])
        for codec in settings.codecs:
            sizes = layout.size, layout.digest, settings.rounds, settings.warm
            bare = Group("bare", kind, int(size), "ipc", codec, *sizes)
            works = {"bare": bare}
            for transport in settings.transports:
                works[transport] = ours = dataclasses.replace(bare, who="p2pfl", transport=transport)
                if name in settings.curve and transport != "shm":
                    works[f"{transport} CURVE"] = dataclasses.replace(ours, key_pairs=make_key_pairs(int(size)))
            costs: dict[str, list[Cost]] = {way: [] for way in works}
            for turn in range(settings.swarm_repeats):
                _say(f"{name} {codec}, turn {turn + 1} of {settings.swarm_repeats}")
                for way, work in list(works.items())[:: -1 if turn % 2 else 1]:
                    costs[way].append(average(pool_.do(work)))
            report.rows += [_group_row(f"{name} {codec}", way, those, costs["bare"]) for way, those in costs.items()]
            if not settings.quick and codec == "fp32" and "shm" in costs:
                report.bars += _group_bars(name, costs["shm"], costs["bare"])
    report.notes.append(
        "Seconds and CPU seconds: of a round, a process. Bare: chunks of 1 MiB over ipc, averaged in place."
    )


def _group_bars(name: str, shared: Sequence[Cost], bare: Sequence[Cost]) -> list[Bar]:
    cpu, seconds = _GROUP_BARS.get(name, (None, None))
    limits = {"CPU": ("cpu", cpu), "wall": ("seconds", seconds)}
    return [
        Bar(
            f"{name} in shared memory: {label} beside bare sockets",
            ratios([getattr(cost, what) for cost in shared], [getattr(cost, what) for cost in bare]).median,
            at_most=limit,
        )
        for label, (what, limit) in limits.items()
        if limit is not None
    ]


def _group_row(name: str, who: str, costs: Sequence[Cost], bare: Sequence[Cost]) -> dict[str, Any]:
    row: dict[str, Any] = {"group": name, "who": who}
    for label, what in (("seconds", "seconds"), ("CPU s", "cpu")):
        values, references = ([getattr(cost, what) for cost in those] for those in (costs, bare))
        row |= {label: spread(values), f"{label} / bare": ratios(values, references)}
    return row


def _swarms(settings: Settings, processes: Pool[Any], report: Report) -> None:
    for kind in settings.topologies:
        swarm = Swarm(kind, settings.peers, settings.width, settings.rounds, settings.warm)
        idle = dataclasses.replace(swarm, train=False)
        bare: list[Figures] = []
        ours: list[Figures] = []
        for turn in range(settings.swarm_repeats):
            _say(f"{kind} of {settings.peers}, turn {turn + 1} of {settings.swarm_repeats}")
            for who in ("p2pfl", "bare") if turn % 2 else ("bare", "p2pfl"):
                if who == "bare":
                    bare.append(Figures.mean(processes.do(swarm)))
                else:
                    ours.append(swarm.through_p2pfl())
        name = f"{kind} of {settings.peers}"
        _say(f"{name}, for orientation")
        rows = {
            "bare": bare,
            "p2pfl": ours,
            "bare, no training": [Figures.mean(processes.do(idle))],
        }
        if not settings.quick:
            rows["p2pfl, checkpoints"] = [swarm.through_p2pfl(checkpoint=True)]
        report.rows += [_swarm_row(name, who, figures, bare) for who, figures in rows.items()]
        if not settings.quick:
            for what in ("seconds", "cpu"):
                ratio = ratios([getattr(one.cost, what) for one in ours], [getattr(one.cost, what) for one in bare])
                label = {"seconds": "wall", "cpu": "CPU"}[what]
                report.bars.append(Bar(f"{name}: {label} beside bare processes", ratio.median, at_most=MOST_COST))
    report.notes.append(
        "Seconds and CPU seconds: of a round, a process (mean over the processes), p2pfl's launcher not counted. "
        "Peak: resident memory, a worker's since its fork, a bare process's since its turn began."
    )


def _swarm_row(name: str, who: str, figures: Sequence[Figures], bare: Sequence[Figures]) -> dict[str, Any]:
    def cells(label: str, values: Sequence[float], references: Sequence[float]) -> dict[str, Spread]:
        # Rows with a bar have as many turns as the reference; the others are shown beside its last turn.
        return {label: spread(values), f"{label} / bare": ratios(values, references[-len(values) :])}

    seconds = cells("seconds", [one.cost.seconds for one in figures], [one.cost.seconds for one in bare])
    cpu = cells("CPU s", [one.cost.cpu for one in figures], [one.cost.cpu for one in bare])
    return {"swarm": name, "who": who, **seconds, **cpu, "peak MiB": max(one.peak for one in figures) / 2**20}


def _say(text: str) -> None:
    print(f"exchange: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.exchange", description=__doc__))
