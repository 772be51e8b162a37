"""Samples per second of a swarm, beside one process with all cores.

`python -m benchmarks.round`. It also shows how a round's time is spent, how much of a slow link overlap hides, and what
checkpoints and averaging after every step cost; `--parts` chooses among these. Every swarm is a real run of p2pfl with
its records, sketches and checkpoints; of its rounds those between the first (start) and the last (evaluation, shown
apart) are measured. The reference is the fastest plain loop that PyTorch allows one process: the same model, precision,
batch and augmentation, uint8 images in memory, channels last, fused SGD, the same malloc settings, and the number of
threads with which that is fastest; it is measured before and after every swarm. It evaluates nothing, records nothing
and saves nothing, and it needs no second process.

A full mesh of many peers moves so many bytes that traffic itself costs CPU. There the CPU seconds of a peer's threads
that do not train, beyond those of the same peers in mode local (no exchange), are compared with what the same traffic
costs processes that train alike and swap raw chunks over bare sockets (`benchmarks.round_bare`, with the same malloc
settings): all that they use beside training. A peer's whole CPU beyond that in mode local is in the table, too: it
contains what the traffic does to the caches of training, and much noise.

A ring that averages after every step is compared with the same peers in mode local. Neither saves checkpoints: their
seconds would be in both, and hide those of the exchange. The ring's peers share memory, as is the default on one
machine; `--each-step-transports` chooses sockets.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.common import Bar, Report, Spread, ratios, spread
from benchmarks.round_bare import bare
from benchmarks.round_plain import Plain, plain
from benchmarks.swarms import Figures, Kind, Launcher, Order, Precision, Swarm, Transport, end_cleanly, launcher

RING_AT_LEAST = 0.95
SMALL_MESH_AT_LEAST = 0.90
SMALL_MESH = 4  # peers; in larger ones traffic itself costs CPU
CPU_AT_MOST = 1.25
OVERLAPPED_AT_MOST = 1.10
SAVED_AT_MOST = 1.30
EACH_STEP_AT_LEAST = 0.85

Part = Literal["speed", "overlap", "saving", "each-step"]


@dataclass(frozen=True)
class Settings:
    """Speed of a swarm's rounds."""

    quick: bool = False
    """Tiny, to see that everything works; figures mean nothing, and there are no bars."""
    parts: tuple[Part, ...] = ("speed", "overlap", "saving", "each-step")
    """Swarms beside a plain loop, the overlapped order, checkpoints of rounds of one step, averaging each step."""
    repeats: int = 3
    """How often everything is measured, in turns."""
    peers: tuple[int, ...] = (4, 8, 16)
    """Sizes of the swarms."""
    local_steps: int = 10
    """Optimizer steps of a round."""
    batch_size: int = 50
    """Samples in a step; with --local-steps 10 a round has 500 samples a peer."""
    width: float = 0.25
    """Of VGG-11."""
    precision: Precision = "bf16"
    """Of training, in swarms and references; on a CPU without AVX-512, fp32 is several times as fast as bf16."""
    samples: int = 8_000
    """Samples of a swarm's measured rounds, all peers together: more peers get fewer rounds, at least three."""
    seconds: float = 2.0
    """How long the plain loop is measured between two swarms."""
    delay: float = 0.4
    """Of the slow link in the overlap's test, as a share of a round's training."""
    each_step_peers: int = 8
    """Size of the ring that averages after each step."""
    each_step_batch_size: int = 32
    """Samples in its steps."""
    each_step_transports: tuple[Transport, ...] = ("shm",)
    """Its transports, each with a row and a bar."""
    output: Path | None = None
    """Where the JSON goes; default: benchmarks/results/round.json."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        if not self.quick:
            return self
        tiny = replace(self, repeats=1, peers=(2,), local_steps=1, batch_size=8, width=0.125, samples=1, seconds=0.1)
        return replace(tiny, each_step_peers=2, each_step_batch_size=8)

    def swarm(self, kind: Kind, peers: int) -> Swarm:
        rounds = max(1 if self.quick else 3, self.samples // (self.local_steps * self.batch_size * peers))
        return Swarm(
            kind,
            peers,
            rounds + 2,
            self.local_steps,
            self.batch_size,
            self.width,
            precision=self.precision,
            test_samples=100,
        )

    def one_step_ring(self, peers: int, batch_size: int) -> Swarm:
        """Ring with rounds of one step, of which at least forty are measured."""
        ring = replace(self, local_steps=1, batch_size=batch_size).swarm("ring", peers)
        return replace(ring, rounds=max(ring.rounds, 3 if self.quick else 42))


@dataclass(frozen=True)
class Turn:
    """Figures of a swarm, and of the plain loop just before and after it."""

    figures: Figures
    plain: float


def main(settings: Settings) -> None:
    """Measure in turns, and report."""
    end_cleanly()
    settings = settings.shrunk()
    report = Report("round", asdict(settings))
    measure = {"speed": _speed, "overlap": _overlap, "saving": _saving, "each-step": _each_step}
    with launcher() as runs:
        for part in settings.parts:
            measure[part](report, settings, runs)
    report.finish(settings.output)


def _speed(report: Report, settings: Settings, runs: Launcher) -> None:
    """Measure swarms beside the plain loop, and full meshes beside bare sockets."""
    swarms = [settings.swarm(kind, peers) for peers in settings.peers for kind in ("ring", "mesh")]
    swarms += [replace(settings.swarm("ring", peers), mode="local") for peers in settings.peers]
    if settings.quick:
        swarms = swarms[1:]
    turns: dict[Swarm, list[Turn]] = defaultdict(list)
    traffic: dict[int, list[float]] = defaultdict(list)
    with bare(max(settings.peers)) as sockets, plain(swarms[0]) as started:
        sockets.wait()
        loop, rates = started.fastest(settings.seconds / 2)
        found = ", ".join(f"{threads}: {rate:.0f}" for threads, rate in rates.items())
        report.notes.append(f"plain loop: samples/s by threads {found}; {loop.threads} it is")
        for repeat in range(settings.repeats):
            _say(f"repeat {repeat + 1} of {settings.repeats}")
            _measure(swarms, runs, loop, settings.seconds, turns)
            for swarm in [swarm for swarm in turns if swarm.kind == "mesh"]:
                traffic[swarm.peers].append(sockets.cpu(swarm, swarm.rounds - 2))
                _say(f"bare full mesh of {swarm.peers}: {1000 * traffic[swarm.peers][-1]:.1f} ms CPU of traffic")
    _tell(report, settings, turns, traffic)


def _measure(
    swarms: Sequence[Swarm], runs: Launcher, loop: Plain, seconds: float, turns: dict[Swarm, list[Turn]]
) -> None:
    before = loop.rate(seconds)
    for swarm in swarms:
        figures = runs.measure(swarm)
        after = loop.rate(seconds)
        turns[swarm].append(Turn(figures, (before + after) / 2))
        before = after
        _say(f"{_called(swarm)} of {swarm.peers}: {figures.samples_per_second:.0f} samples/s, plain {after:.0f}")


def _called(swarm: Swarm) -> str:
    return "no exchange" if swarm.mode == "local" else {"ring": "ring", "mesh": "full mesh"}.get(swarm.kind, swarm.kind)


def _tell(report: Report, settings: Settings, turns: dict[Swarm, list[Turn]], traffic: dict[int, list[float]]) -> None:
    """Add a row for each swarm, and the bars."""
    for swarm, measured in turns.items():
        alone = turns[replace(settings.swarm("ring", swarm.peers), mode="local")]
        share = ratios([turn.figures.samples_per_second for turn in measured], [turn.plain for turn in measured])
        row = {**_row(_called(swarm), swarm, [turn.figures for turn in measured]), "of plain": share}
        report.rows.append(row)
        if swarm.mode == "local":
            continue
        pairs = [(turn.figures, other.figures) for turn, other in zip(measured, alone, strict=True)]
        others = [_others(figures) - _others(local) for figures, local in pairs]
        row["CPU beyond local ms"] = statistics.median(1000 * (figures.cpu - local.cpu) for figures, local in pairs)
        row["of other threads"] = spread([1000 * value for value in others])
        if swarm.kind == "mesh":
            row["bare CPU ms"] = spread([1000 * value for value in traffic[swarm.peers]])
        if not settings.quick:
            report.bars.append(_bar(swarm, share, ratios(others, traffic[swarm.peers])))


def _others(figures: Figures) -> float:
    """CPU seconds of the threads that do not train."""
    return figures.cpu - figures.cpu_training


def _bar(swarm: Swarm, share: Spread, traffic: Spread) -> Bar:
    name = f"{_called(swarm)} of {swarm.peers}"
    if swarm.kind == "mesh" and swarm.peers > SMALL_MESH:
        return Bar(f"{name}, CPU beside training of bare traffic's", traffic.median, at_most=CPU_AT_MOST)
    limit = RING_AT_LEAST if swarm.kind == "ring" else SMALL_MESH_AT_LEAST
    return Bar(f"{name}, samples/s of the plain loop's", share.median, at_least=limit)


def _row(name: str, swarm: Swarm, measured: Sequence[Figures]) -> dict[str, Any]:
    def middle(value: Callable[[Figures], float]) -> float:
        return statistics.median(map(value, measured))

    def rest(figures: Figures) -> float:
        return figures.seconds - figures.train - figures.exchange - figures.wait - figures.evaluate

    return {
        "swarm": name,
        "peers": swarm.peers,
        "s/round": spread([figures.seconds for figures in measured]),
        "train %": middle(lambda figures: 100 * figures.train / figures.seconds),
        "exch. %": middle(lambda figures: 100 * figures.exchange / figures.seconds),
        "wait %": middle(lambda figures: 100 * figures.wait / figures.seconds),
        "rest %": middle(lambda figures: 100 * rest(figures) / figures.seconds),
        "eval s": middle(lambda figures: figures.last_evaluation),
        "CPU ms": middle(lambda figures: 1000 * figures.cpu),
        "samples/s": middle(lambda figures: figures.samples_per_second),
    }


def _overlap(report: Report, settings: Settings, runs: Launcher) -> None:
    """Measure the ring in both orders, on a link without delay and on a slow one."""
    fast = settings.swarm("ring", settings.peers[0])
    training = 0.05 if settings.quick else runs.measure(fast).train
    slow = replace(fast, link_delay=settings.delay * training)
    orders: tuple[Order, ...] = ("overlapped",) if settings.quick else ("atc", "overlapped")
    found: dict[Swarm, list[Figures]] = defaultdict(list)
    for _ in range(settings.repeats):
        for order in orders:
            for swarm in (replace(fast, order=order), replace(slow, order=order)):
                found[swarm].append(runs.measure(swarm))
                _say(f"{order}, delay {swarm.link_delay:.2f} s: {found[swarm][-1].seconds:.3g} s a round")
    for order in orders:
        without, delayed = found[replace(fast, order=order)], found[replace(slow, order=order)]
        longer = ratios([figures.seconds for figures in delayed], [figures.seconds for figures in without])
        report.rows.append(_row(f"ring, {order}", fast, without))
        report.rows.append({**_row(f"… {slow.link_delay:.2f} s link", slow, delayed), "of undelayed": longer})
        if order == "overlapped" and not settings.quick:
            name = f"overlapped ring of {fast.peers}, each message {settings.delay:g} of a training late"
            report.bars.append(Bar(f"{name}: s/round of undelayed", longer.median, at_most=OVERLAPPED_AT_MOST))


def _saving(report: Report, settings: Settings, runs: Launcher) -> None:
    """Measure rounds of one step without checkpoints, with some, and with all."""
    ring = settings.one_step_ring(settings.peers[0], settings.batch_size)  # long enough to save every tenth round
    kinds = {
        "ring, one step, no checkpoints": replace(ring, checkpoint=False),
        "… one every 10 rounds": replace(ring, checkpoint_every=10),
        "… one every round": ring,
    }
    found: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(settings.repeats):
        for name, swarm in kinds.items():
            found[name].append(runs.measure(swarm))
            _say(f"{name}: {found[name][-1].seconds:.3g} s a round")
    without = [figures.seconds for figures in next(iter(found.values()))]
    for name, measured in found.items():
        longer = ratios([figures.seconds for figures in measured], without)
        report.rows.append({**_row(name, ring, measured), "of unsaved": longer})
        if kinds[name] is ring and not settings.quick:
            report.bars.append(
                Bar("ring, one step: s/round with checkpoints of without", longer.median, at_most=SAVED_AT_MOST)
            )


def _each_step(report: Report, settings: Settings, runs: Launcher) -> None:
    """Measure a ring that averages after each step, and its peers without exchange."""
    ring = replace(settings.one_step_ring(settings.each_step_peers, settings.each_step_batch_size), checkpoint=False)
    local = replace(ring, mode="local")
    name = f"ring, averaged after each step, {settings.precision}"
    swarms = {"no exchange, one step": local}
    swarms |= {f"{name}, {way}": replace(ring, transport=way) for way in settings.each_step_transports}
    found: dict[str, list[Figures]] = {name: [] for name in swarms}
    for repeat in range(settings.repeats):
        for name, swarm in list(swarms.items())[:: -1 if repeat % 2 else 1]:
            found[name].append(runs.measure(swarm))
            _say(f"{name}: {found[name][-1].samples_per_second:.0f} samples/s")
    alone = [figures.samples_per_second for figures in found["no exchange, one step"]]
    for name, measured in found.items():
        share = ratios([figures.samples_per_second for figures in measured], alone)
        report.rows.append({**_row(name, ring, measured), "of local": share})
        if swarms[name] is not local and not settings.quick:
            label = f"{name}, {ring.peers} peers: samples/s of no exchange's"
            report.bars.append(Bar(label, share.median, at_least=EACH_STEP_AT_LEAST))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.round", description=__doc__))
