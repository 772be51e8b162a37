"""Rounds and bytes to consensus, by topology, on simulated swarms.

`python -m benchmarks.topologies`. Every peer starts with a random vector, and the swarm only mixes: local training has
no effect. Each swarm runs in the simulator, with the protocol, wire format and records of real processes. The figures
are the rounds until the consensus distance has shrunk by the factor `shrink`, once with plain mixing, as in training
rounds, and once in the consensus phase, which is accelerated where W is symmetric; beside them stand the bounds that
follow from the spectral gap. The distance is estimated from the recorded sketches (to about 1.1 %). Bytes are counted
by the protocol and stated in vectors, so that they hold for a model of any size. The figures do not depend on the speed
of the machine.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks.common import Bar, Report
from p2pfl.algorithms.base import Algorithm, Outgoing, RoundContext
from p2pfl.config import RunConfig
from p2pfl.payload import LocalTraining, Payload
from p2pfl.report.load import RecordedRun, load_run
from p2pfl.sim.swarm import Simulation
from p2pfl.topology import NeighborhoodSchedule, Topology, make_topology, mixing_matrix
from p2pfl.topology.spectrum import Convergence, convergence

CLASSES = 10
VGG11_BYTES = 39_050_000  # of a float32 vector of VGG-11 at full width, for the last column
NAMES = {"complete": "full mesh", "random-regular": "random regular", "small-world": "small world"}


@dataclass(frozen=True)
class Settings:
    """Rounds and bytes to consensus, by topology."""

    quick: bool = False
    """Tiny, to see that everything works; figures mean nothing, and there are no bars."""
    kinds: tuple[str, ...] = (
        *("path", "ring", "tree", "star", "small-world", "torus", "random-regular", "hypercube", "exponential"),
        "complete",
    )
    """Topologies, as `p2pfl topology make` names them."""
    peers: tuple[int, ...] = (16,)
    """Numbers of peers."""
    degree: int = 4
    """Neighbors of a peer of small-world and random-regular."""
    shrink: float = 100.0
    """Factor by which the consensus distance has to shrink."""
    most_rounds: int = 400
    """Plain mixing that needs more rounds by its bound is not run."""
    output: Path | None = None
    """Where the JSON goes; default: benchmarks/results/topologies.json."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        return replace(self, kinds=("ring", "exponential"), peers=(4,), shrink=4.0) if self.quick else self


class Mixing(Algorithm[SimpleNamespace]):
    """Plain mixing, x⁺ = W x: `--algorithm benchmarks.topologies:Mixing`.

    The first round sets the start, a random vector, and does not mix. What training does to x is undone.
    """

    def init(self, x: Tensor, schedule: NeighborhoodSchedule) -> SimpleNamespace:
        return SimpleNamespace(x=x)

    def request(self, state: SimpleNamespace, ctx: RoundContext, asked: LocalTraining) -> LocalTraining:
        state.before = state.x.clone()
        return asked

    def outgoing(self, state: SimpleNamespace, ctx: RoundContext) -> Outgoing:
        me = ctx.neighborhood.me
        draw = torch.Generator().manual_seed(me)
        state.x.copy_(torch.randn(state.x.shape, generator=draw) if ctx.round == 1 else state.before)
        state.weights = {me: ctx.neighborhood.self_weight, **ctx.neighborhood.incoming}
        state.mixed = torch.zeros_like(state.x)
        return dict.fromkeys(ctx.neighborhood.outgoing, self.own(state))

    def own(self, state: SimpleNamespace) -> Payload:
        return Payload({"x": [state.x]})

    def accumulate(self, state: SimpleNamespace, sender: int, part: Payload) -> None:
        state.mixed.add_(torch.cat(list(part.vectors["x"])), alpha=state.weights[sender])

    def finish(self, state: SimpleNamespace, ctx: RoundContext) -> Tensor:
        # Another vector in any case: neighbors may still be taking the old one while the next round trains.
        state.x = state.mixed if ctx.round > 1 else state.x.clone()
        return torch.as_tensor(state.x)


def model(num_classes: int) -> nn.Module:
    """Small model, whose weights the peers mix: `--model benchmarks.topologies:model`."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


def data() -> dict[str, Any]:
    """Data set for up to 64 peers: `--dataset benchmarks.topologies:data`."""
    draw = np.random.default_rng(0)
    entries: dict[str, Any] = {}
    for split, count in (("train", 640), ("test", CLASSES)):
        entries[f"{split}_images"] = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
        entries[f"{split}_labels"] = np.arange(count) % CLASSES
    return entries


@dataclass(frozen=True)
class Measured:
    """Rounds until the distance has shrunk.

    Vectors sent by a peer until then: mean, and busiest peer.
    """

    rounds: int
    vectors: float
    vectors_busiest: float


def main(settings: Settings) -> None:
    """Simulate all swarms, and report."""
    torch.set_num_threads(1)  # vectors are short
    settings = settings.shrunk()
    report = Report("topologies", asdict(settings))
    within = []
    for peers in settings.peers:
        for kind in settings.kinds:
            topology = make_topology(kind, peers, degree=min(settings.degree, peers - 1))
            bound = convergence(mixing_matrix(topology, _mixing(topology)), 1 / settings.shrink)
            plain = _measure(topology, settings, bound.plain) if bound.plain <= settings.most_rounds else None
            phase = _measure(topology, settings, 0)
            report.rows.append(_row(kind, topology, bound, plain, phase))
            within.append((plain is None or plain.rounds <= bound.plain) and phase.rounds <= bound.accelerated)
            print(f"{kind} of {peers}: {plain and plain.rounds}, {phase.rounds} rounds", file=sys.stderr, flush=True)
    if not settings.quick:
        report.bars.append(Bar("topologies whose rounds are within their bounds", sum(within), at_least=len(within)))
    report.finish(settings.output)


def _mixing(topology: Topology) -> str:
    return "uniform" if topology.graph.is_directed() else "metropolis-hastings"


def _measure(topology: Topology, settings: Settings, plain: int) -> Measured:
    """Run one swarm: `plain` rounds of plain mixing; 0: the consensus phase alone."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.of(
            model="benchmarks.topologies:model",
            dataset="benchmarks.topologies:data",
            data_dir=f"{folder}/data",
            run_dir=f"{folder}/run",
            algorithm="benchmarks.topologies:Mixing",
            mixing=_mixing(topology),
            rounds=1 + plain,
            local_steps=1,
            batch_size=1,
            lr=1e-6,
            schedule="constant",
            eval_every=1_000_000,
            checkpoint=False,
            threads=1,
            consensus_tolerance=0.99 if plain else 1 / settings.shrink,
        )
        simulation = Simulation(topology, config)
        simulation.run()
        return _measured(load_run(simulation.run_dir), settings.shrink)


def _measured(run: RecordedRun, shrink: float) -> Measured:
    """Rounds and vectors of a run; its first round is the start."""
    last = next(number for number, distance in run.distances.items() if distance <= run.distances[1] / shrink)
    size = 4 * sum(parameter.numel() for parameter in model(CLASSES).parameters())
    sent = [sum(record.bytes_sent for record in own if 1 < record.round <= last) / size for own in run.records]
    return Measured(last - 1, sum(sent) / len(sent), max(sent))


def _row(kind: str, topology: Topology, bound: Convergence, plain: Measured | None, phase: Measured) -> dict[str, Any]:
    degrees = (
        sorted(degree for _, degree in topology.graph.out_degree())
        if topology.graph.is_directed()
        else sorted(degree for _, degree in topology.graph.degree())
    )
    return {
        "topology": NAMES.get(kind, kind),
        "peers": topology.n,
        "neighbors": f"{degrees[0]}–{degrees[-1]}" if degrees[0] < degrees[-1] else str(degrees[0]),
        "spectral gap": round(bound.gap, 4),
        "rounds, plain": plain and plain.rounds,
        "bound, plain": bound.plain,
        "rounds, phase": phase.rounds,
        "bound, phase": bound.accelerated,
        "vectors a peer, plain": plain and round(plain.vectors, 1),
        "vectors a peer, phase": round(phase.vectors, 1),
        "busiest, phase": round(phase.vectors_busiest, 1),
        "VGG-11 GB a peer, phase": round(phase.vectors * VGG11_BYTES / 1e9, 2),
    }


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.topologies", description=__doc__))
