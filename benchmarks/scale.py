"""Cost of a round for a peer in swarms of 2 to 64 peers, by topology.

`python -m benchmarks.scale`. The figures are seconds, CPU seconds and bytes. Every swarm is a real run of p2pfl with a
small model and few local steps, so that the exchange is not lost beside training. More peers than cores share the
cores: seconds a round grow with the peers even where nothing is lost. So the figure to look at is the CPU seconds that
a round costs one peer: on the ring, where every peer has two neighbors however many there are, it should stay flat. All
rounds between the first and the last count; the sizes are measured in turns.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import tyro

from benchmarks.common import Bar, Report, ratios, spread
from benchmarks.swarms import Figures, Kind, Swarm, end_cleanly, launcher

FLAT_AT_MOST = 1.25
NAMES = {"ring": "ring", "exponential": "exponential", "mesh": "full mesh"}


@dataclass(frozen=True)
class Settings:
    """Cost of a round in swarms of many sizes."""

    quick: bool = False
    """Tiny, to see that everything works; figures mean nothing, and there are no bars."""
    repeats: int = 2
    """How often everything is measured, in turns."""
    peers: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Sizes of the swarms; the first one above 2 and the last one are compared."""
    mesh_peers: int = 32
    """Largest full mesh: one of 64 sends 4,032 vectors a round."""
    local_steps: int = 4
    """Optimizer steps of a round."""
    batch_size: int = 16
    """Samples in a step."""
    width: float = 0.125
    """Of VGG-11."""
    rounds: int = 160
    """Measured rounds of all peers together: more peers get fewer rounds, at least four."""
    output: Path | None = None
    """Where the JSON goes; default: benchmarks/results/scale.json."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        if not self.quick:
            return self
        return replace(self, repeats=1, peers=(2, 3), mesh_peers=2, rounds=1, local_steps=1, batch_size=4)

    def swarms(self) -> list[Swarm]:
        """Swarms to measure, ordered by size; with two peers all topologies are the same."""
        found = []
        for peers in self.peers:
            rounds = max(1 if self.quick else 4, self.rounds // peers)
            for kind in get_args(Kind):
                if (kind == "mesh" and peers > self.mesh_peers) or (peers == 2 and kind != "ring"):
                    continue
                steps, batch = self.local_steps, self.batch_size
                found.append(Swarm(kind, peers, rounds + 2, steps, batch, self.width, train_samples=4096))
        return found


def main(settings: Settings) -> None:
    """Measure in turns, and report."""
    end_cleanly()
    settings = settings.shrunk()
    report = Report("scale", asdict(settings))
    found: dict[Swarm, list[Figures]] = defaultdict(list)
    with launcher() as runs:
        for repeat in range(settings.repeats):
            for swarm in settings.swarms():
                figures = runs.measure(swarm)
                found[swarm].append(figures)
                text = f"{figures.seconds:.3g} s a round, {1000 * figures.cpu:.3g} ms CPU a peer"
                print(f"{repeat + 1}: {NAMES[swarm.kind]} of {swarm.peers}: {text}", file=sys.stderr, flush=True)
    for swarm in sorted(found, key=lambda swarm: (list(NAMES).index(swarm.kind), swarm.peers)):
        report.rows.append(_row(swarm, found[swarm]))
    if not settings.quick:
        report.bars.append(_bar(found))
    report.finish(settings.output)


def _row(swarm: Swarm, measured: list[Figures]) -> dict[str, object]:
    return {
        "topology": NAMES[swarm.kind],
        "peers": swarm.peers,
        "degree": swarm.degree,
        "s/round": spread([figures.seconds for figures in measured]),
        "s/round/peer": statistics.median(figures.seconds / swarm.peers for figures in measured),
        "CPU ms/round/peer": spread([1000 * figures.cpu for figures in measured]),
        "outside training ms": spread([1000 * (figures.cpu - figures.cpu_training) for figures in measured]),
        "MB/round/peer": statistics.median(figures.bytes_sent / 1e6 for figures in measured),
        "busiest MB": max(figures.bytes_sent_busiest for figures in measured) / 1e6,
    }


def _bar(found: dict[Swarm, list[Figures]]) -> Bar:
    rings = sorted((swarm for swarm in found if swarm.kind == "ring"), key=lambda swarm: swarm.peers)
    small, large = next(swarm for swarm in rings if swarm.peers > 2), rings[-1]
    growth = ratios([figures.cpu for figures in found[large]], [figures.cpu for figures in found[small]])
    name = f"ring: CPU a round a peer of {large.peers} to that of {small.peers}"
    return Bar(name, growth.median, at_most=FLAT_AT_MOST)


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.scale", description=__doc__))
