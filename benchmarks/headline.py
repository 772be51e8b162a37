"""Headline accuracy: ring of 20, VGG-19, CIFAR-10, 225 data-set epochs.

`python -m benchmarks.headline --dataset imagefolder:DIR --out DIR`, where `imagefolder:DIR` is CIFAR-10 as JPEG files;
or `--dataset cifar10 --data-dir DIR`, where DIR has the download. It needs a GPU; the small sizes of --peers, --model,
--width, --epochs and --dataset are for trying it elsewhere.

**Compute.** That of the tutorial's federated run: 150 rounds in which 6 of 20 clients train 5 local epochs on their
20th of the training set, 150 · 6 · 5 / 20 = 225 data-set epochs. Here all 20 peers train, 1.5 local epochs a round:
150 rounds of 117 steps of batch size 32, 11,232,000 samples in all.

**Exchange.** --mixing finite-time with as many --gossip-steps as the ring's mixing matrix has distinct eigenvalues
below 1 (10 on a ring of 20), so that all peers have the exact mean after every local training, over the ring's own
links.

**Calls.** A call runs for at most --minutes, then interrupts the run as Ctrl-C does, says how far it is, and ends with
status 130. The same command again resumes from the checkpoints in --out. The call in which the run ends writes
headline.json there, beside the run's report, and ends with status 0. `while COMMAND; [ $? = 130 ]; do :; done` runs it
to its end.

**Why rounds are long.** Resuming needs checkpoints, and each round writes one: a peer's weights, its momentum, and what
it has sent in each exchange, which is 12 vectors of 82 MB, 20 GB for 20 peers; the newest two are kept, so that 60 GB
of disk are needed. The exchange is 33 GB a round, 4.9 TB in all. With a round for each step both would be 117 times
that, and take far longer than the training; no option saves fewer checkpoints, except --no-checkpoint of p2pfl, which
saves none.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import tyro

from benchmarks.common import Bar, Report, exit_status
from p2pfl import data
from p2pfl.config import RunConfig, check_together, replace_options
from p2pfl.errors import Interrupted
from p2pfl.experiment.checks import state_of
from p2pfl.experiment.plan import Planned
from p2pfl.experiment.run import run
from p2pfl.report import known_facts, read_summary
from p2pfl.topology import finite_time_weights, make_topology
from p2pfl.util.units import seconds_text

RESULTS = Path(__file__).parent / "results"
GOAL = 94.0  # percent; the tutorial: FedAvg 89.8, SGD 94


@dataclass(frozen=True)
class Settings:
    """A ring of 20, VGG-19 and CIFAR-10, resumed from call to call."""

    quick: bool = False
    """Tiny, on the bundled digits, to see that everything works; figures mean nothing, and there are no bars."""
    minutes: float = 9.0
    """Minutes after which a call stops the run; the next one resumes it."""
    out: Path = RESULTS / "headline"
    """Folder of the run; with the same one, it is resumed."""
    output: Path | None = None
    """Where the JSON goes; default: headline.json in --out."""
    peers: int = 20
    """Peers of the ring."""
    model: str = "vgg19"
    """Model."""
    width: float = 1.0
    """Width of the model."""
    dataset: str = "cifar10"
    """Data set, as p2pfl gossip names it."""
    data_dir: str | None = None
    """Folder of decoded data sets; default: that of p2pfl."""
    epochs: float = 225.0
    """Data-set epochs: passes of all peers together over the training set."""
    local_steps: int = 117
    """Steps of a peer between two averages, which is a round; fewer cost more bytes and checkpoints."""
    gossip_steps: int | None = None
    """Exchanges after each local training; default: as many as the exact mean needs."""
    batch_size: int = 32
    """Samples in a step of one peer."""
    lr: float = 0.1
    """Learning rate, the peak of the one-cycle schedule."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 0.0005
    """Weight decay."""
    precision: str = "bf16"
    """Precision of training."""
    device: str = "auto"
    """Device of the peers."""
    seed: int = 0
    """Seed."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        if not self.quick:
            return self
        return replace(
            self, peers=3, model="vgg11", width=0.0625, dataset="digits", epochs=0.6, local_steps=1, precision="fp32"
        )  # fmt: skip


def main(settings: Settings) -> None:
    """Run or resume, for at most --minutes; report when the run has ended.

    Raises Interrupted where it has not, ConfigError and P2PFLError as `p2pfl gossip` does.
    """
    settings = settings.shrunk()
    planned = plan(settings)
    folder = settings.out / planned.name
    state = state_of(folder, planned)
    config = planned.config if state else replace_options(planned.config, run_dir=str(folder))
    print(_described(planned), flush=True)
    again = shlex.join(["python", "-m", "benchmarks.headline", *sys.argv[1:]])
    try:
        with interrupted_after(60 * settings.minutes):
            result = run(config, planned.topology, resume=folder if state else None, again=again)
    except Interrupted:
        print(_progress(folder, planned), flush=True)
        raise
    _report(settings, result.summary).finish(settings.output or settings.out / "headline.json")
    print(f"report: {folder / 'report.html'}")


def plan(settings: Settings) -> Planned:
    """Plan the run. Raises ConfigError for settings that do not fit each other."""
    topology = make_topology("ring", settings.peers)
    same = ("model", "width", "dataset", "data_dir", "batch_size", "lr", "momentum", "weight_decay")
    config = RunConfig.of(
        **{name: getattr(settings, name) for name in (*same, "local_steps", "precision", "device", "seed")},
        schedule="onecycle",
        local_epochs=None,
        mixing="finite-time",
        gossip_steps=settings.gossip_steps or finite_time_weights(topology).rounds,
        rounds=1,
    )
    samples = data.describe(settings.dataset, settings.data_dir, config.data.pictures).train_samples
    steps = settings.epochs * (samples // (topology.n * settings.batch_size))
    config = replace_options(config, rounds=max(1, round(steps / settings.local_steps)))
    check_together(config)
    return Planned(f"ring-{topology.n}-seed-{settings.seed}", config, topology, settings.local_steps)


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt the block after some seconds, as Ctrl-C does; in the main thread."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _described(planned: Planned) -> str:
    config = planned.config
    return (
        f"ring of {planned.topology.n}: {config.training.rounds:,} rounds of {config.training.local_steps} steps and "
        f"{config.gossip.gossip_steps} exchanges, {planned.samples:,} samples in all"
    )


def _progress(folder: Path, planned: Planned) -> str:
    """Progress of an interrupted run, and the time left at its speed so far."""
    rounds = planned.config.training.rounds
    facts = known_facts(folder)
    done = read_summary(folder)["rounds_completed"] if facts else 0
    if not done:
        return f"stopped before the first of {rounds:,} rounds was done; give a call more --minutes"
    left = (rounds - done) * facts["seconds"] / done
    return f"{done:,} of {rounds:,} rounds done, {done / rounds:.1%}; about {seconds_text(left)} left"


def _report(settings: Settings, summary: Mapping[str, Any]) -> Report:
    """Report of the finished run: bytes of all peers, seconds of all calls."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    report = Report("headline", {**asdict(settings), "gpus": gpus})
    accuracies = {
        name: round(100 * summary[f"{name.replace(' ', '_')}_accuracy"], 2)
        for name in ("consensus", "mean peer", "worst peer")
    }
    report.rows.append(
        {
            "run": f"{settings.model}, {settings.width:g}, {settings.peers} peers",
            **accuracies,
            "GB sent": (summary["bytes_sent_total"] + summary["consensus_bytes"]) / 1e9,
            "seconds": summary["seconds"],
            "samples": summary["samples_total"],
            "samples/s": summary["samples_per_second"],
        }
    )
    if not settings.quick:
        report.bars.append(Bar("consensus model, %", accuracies["consensus"], at_least=GOAL))
    return report


if __name__ == "__main__":
    asked = tyro.cli(Settings, prog="python -m benchmarks.headline", description=__doc__)
    sys.exit(exit_status(lambda: main(asked)))
