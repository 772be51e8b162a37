"""Accuracy of a ring of peers against pooled SGD, at equal samples.

`python -m benchmarks.ring_accuracy --dataset imagefolder:DIR --out DIR`, where `imagefolder:DIR` is CIFAR-10 as JPEG
files, `DIR/train/CLASS/*.jpg` and `DIR/test/CLASS/*.jpg`. Ten data-set epochs on a ring of 8 at batch size 32 a peer
are 1,950 steps of 256 samples, 499,200 samples in all; pooled SGD processes as many in one process, in 15,600 steps of
32 or 3,900 of 128. The recipes:

- `finite-time`: --mixing finite-time with as many --gossip-steps as the ring's mixing matrix has distinct eigenvalues
  below 1 (4 on a ring of 8), so that the peers have the exact mean after every training, over the ring's own links.
- `plain`: one exchange by Metropolis-Hastings weights after every training, adapt-then-combine.
- `sgd`: pooled SGD, once for each of --sgd-batches.

Each has the learning rate that is most accurate on a validation set (one trial for each rate, with the first seed; none
where there is one rate), and is then trained with each seed on the whole training set; the test set is read once, after
the last round. Every run has its own folder below --out. The same command again keeps the runs that are complete. Runs
save no checkpoints, as a round of one step would write more than it trains; an interrupted one begins again.

--out gets table.md and ring_accuracy.json: means over the seeds, with standard deviations. The difference to pooled SGD
is to the batch size that is more accurate on the test set, which favors pooled SGD.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.accuracy_table import bars, markdown, row_of
from benchmarks.common import Report, exit_status
from p2pfl import data
from p2pfl.config import RunConfig, check_together, replace_options
from p2pfl.errors import ConfigError, Interrupted, P2PFLError
from p2pfl.experiment.grid import GridPlan, describe_grid, run_grid
from p2pfl.experiment.plan import Cell, Planned
from p2pfl.experiment.tune import TuneOptions, plan_tuning
from p2pfl.launch import fork_server
from p2pfl.modes import topology_of
from p2pfl.report import complete_summary
from p2pfl.report.compare.tuning import read_tuning, run_name
from p2pfl.topology import Topology, finite_time_weights, load_topology

ROOT = Path(__file__).parent.parent
SGD_ROUNDS = 50  # at most: the loss of plain SGD is recorded so often


@dataclass(frozen=True)
class Settings:
    """Accuracy of a ring of peers against pooled SGD, at equal samples."""

    quick: bool = False
    """Tiny, on the bundled digits, to see that everything works; figures mean nothing, and there are no bars."""
    dry_run: bool = False
    """List the runs and stop."""
    out: Path = ROOT / "benchmarks" / "results" / "ring-accuracy"
    """Folder of the runs and of table.md; with the same one, runs that are complete are kept."""
    output: Path | None = None
    """Where the JSON goes; default: ring_accuracy.json in --out."""
    recipes: tuple[Literal["finite-time", "plain", "sgd"], ...] = ("finite-time", "sgd")
    """Recipes, in the order of running."""
    ring_lr: tuple[float, ...] = (0.1, 0.2, 0.4)
    """Learning rates of the ring; of several the best on the validation set."""
    sgd_lr: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2)
    """Learning rates of pooled SGD, tried at each of its batch sizes."""
    sgd_batches: tuple[int, ...] = (32, 128)
    """Batch sizes of pooled SGD."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the final runs; the first is that of the trials."""
    epochs: float = 10.0
    """Data-set epochs: passes of all peers together over the training set."""
    trial_epochs: float | None = None
    """Data-set epochs of a trial; default: those of a run."""
    validation: float = 0.1
    """Fraction of the training set that trials hold back."""
    topology: Path = ROOT / "topologies" / "ring-8.graphml"
    """Graph of the peers."""
    dataset: str = "cifar10"
    """Data set, as p2pfl gossip names it."""
    data_dir: str | None = None
    """Folder of decoded data sets; default: that of p2pfl."""
    partition: str = "iid"
    """Partition of the training set among the ring's peers, as p2pfl gossip names it; pooled SGD has none."""
    model: str = "vgg11"
    """Model."""
    width: float = 0.25
    """Width of the model."""
    norm: str = "batch"
    """Normalization: batch, group or none."""
    batch_size: int = 32
    """Samples in a step of one peer."""
    local_steps: int = 1
    """Steps of a peer between two exchanges."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 0.0005
    """Weight decay."""
    precision: str = "bf16"
    """Precision of training."""
    device: str = "auto"
    """Device of the peers."""
    threads: int | None = None
    """CPU threads of a process; default: its share of the cores. On a machine with other work 1 may be faster."""
    checkpoint: bool = False
    """Save checkpoints after every round, from which interrupted runs resume."""

    def shrunk(self) -> Settings:
        """These settings, or the tiny ones of --quick."""
        if not self.quick:
            return self
        ring = ROOT / "topologies" / "ring-4.graphml"
        return replace(
            self, dataset="digits", topology=ring, width=0.0625, epochs=0.1, batch_size=16, precision="fp32",
            ring_lr=(0.02,), sgd_lr=(0.01, 0.02), sgd_batches=(32,), seeds=(0,),
        )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One recipe: its cell of the comparison, and its learning rates."""

    cell: Cell
    rates: tuple[float, ...]


def main(settings: Settings) -> None:
    """Run what is missing, recipe by recipe, and report after each.

    A recipe that fails, such as one of which all trials diverge, is left out, and the others continue. Raises
    ConfigError and Interrupted.
    """
    settings = settings.shrunk()
    recipes = list(_recipes(settings))
    for recipe in recipes:
        check_together(recipe.cell.config)
    if settings.dry_run:
        print("\n\n".join(f"{one.cell.name}:\n{describe_grid(_plan(one, settings))}" for one in recipes))
        return
    lost = []
    with fork_server():  # one for all recipes
        for recipe in recipes:
            print(f"\n== {recipe.cell.name}", flush=True)
            try:
                run_grid(settings.out / recipe.cell.name, _plan(recipe, settings), _say, again=_command())
            except (ConfigError, Interrupted):
                raise
            except P2PFLError as error:
                lost.append(f"{recipe.cell.name}: {error}")
                _say(lost[-1])
            _report(settings, recipes, lost)


def _say(text: str) -> None:
    print(text, flush=True)


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks.ring_accuracy", *sys.argv[1:]])


def _recipes(settings: Settings) -> Iterator[Recipe]:
    """The recipes in the order of running."""
    topology = load_topology(settings.topology)
    for name in settings.recipes:
        if name == "sgd":
            for batch in settings.sgd_batches:
                yield Recipe(_pooled(settings, topology, batch), settings.sgd_lr)
        else:
            yield Recipe(_ring(settings, topology, name), settings.ring_lr)


def _rounds(settings: Settings, topology: Topology) -> int:
    """Rounds of the ring: whole steps of all peers in the data-set epochs."""
    pictures = RunConfig.of(dataset=settings.dataset).data.pictures
    samples = data.describe(settings.dataset, settings.data_dir, pictures).train_samples
    steps = settings.epochs * (samples // (topology.n * settings.batch_size))
    return max(1, round(steps / settings.local_steps))


def _ring(settings: Settings, topology: Topology, name: str) -> Cell:
    exact = name == "finite-time"
    config = RunConfig.of(
        **_common(settings),
        mixing="finite-time" if exact else "metropolis-hastings",
        gossip_steps=finite_time_weights(topology).rounds if exact else 1,
        partition=settings.partition,
        rounds=_rounds(settings, topology),
        local_steps=settings.local_steps,
        batch_size=settings.batch_size,
    )
    return Cell(f"ring-{name}", _evaluated_last(config), topology, settings.local_steps)


def _pooled(settings: Settings, topology: Topology, batch: int) -> Cell:
    """Plain SGD with as many samples as the ring.

    Its rounds are parts of equal length, which change nothing.
    """
    ring = _rounds(settings, topology) * settings.local_steps * settings.batch_size * topology.n
    steps = max(1, round(ring / batch))
    rounds = max(number for number in range(1, SGD_ROUNDS + 1) if steps % number == 0)
    config = RunConfig.of(
        mode="sgd", **_common(settings), rounds=rounds, local_steps=steps // rounds, batch_size=batch
    )  # fmt: skip
    alone = topology_of(config)
    assert alone is not None
    return Cell(f"sgd-batch-{batch}", _evaluated_last(config), alone, steps // rounds)


def _common(settings: Settings) -> dict[str, Any]:
    same = (
        "model",
        "width",
        "norm",
        "dataset",
        "data_dir",
        "momentum",
        "weight_decay",
        "precision",
        "device",
        "threads",
    )
    return {name: getattr(settings, name) for name in (*same, "checkpoint")} | {"schedule": "onecycle"}


def _evaluated_last(config: RunConfig) -> RunConfig:
    return replace_options(config, local_epochs=None, eval_every=config.training.rounds)


def _plan(recipe: Recipe, settings: Settings) -> GridPlan:
    """Trials and final runs of a recipe; trials only of several learning rates."""
    if len(recipe.rates) == 1:
        values = {"lr": recipe.rates[0]}
        cell = dataclasses.replace(
            recipe.cell, name=run_name(recipe.cell.name, values), config=replace_options(recipe.cell.config, **values)
        )
        return GridPlan([cell], settings.seeds)
    share = 1.0 if settings.trial_epochs is None else min(1.0, settings.trial_epochs / settings.epochs)
    tune = TuneOptions({"lr": recipe.rates}, share, settings.validation)
    return GridPlan([recipe.cell], settings.seeds, plan_tuning([recipe.cell], tune, settings.seeds[0]))


# Results


def _finals(recipe: Recipe, settings: Settings) -> tuple[float | None, list[Mapping[str, Any]]]:
    """Learning rate of a recipe's final runs, and summaries of the complete ones."""
    folder, rate = settings.out / recipe.cell.name, recipe.rates[0]
    if len(recipe.rates) > 1:
        tuning = read_tuning(folder)
        chosen = None if tuning is None else tuning.cells[0].chosen
        if tuning is None or chosen is None or not tuning.cells[0].is_complete:
            return None, []
        rate = chosen.values["lr"]
    cell = dataclasses.replace(recipe.cell, name=run_name(recipe.cell.name, {"lr": rate}))
    runs: list[Planned] = [cell.with_seed(seed) for seed in settings.seeds]
    found = [complete_summary(folder / one.name) for one in runs]
    return rate, [summary for summary in found if summary is not None]


def _report(settings: Settings, recipes: Sequence[Recipe], lost: Sequence[str]) -> None:
    """Print and write the results of all runs that are complete."""
    report = Report("ring_accuracy", asdict(settings), notes=list(lost))
    for recipe in recipes:
        rate, summaries = _finals(recipe, settings)
        if summaries:
            report.rows.append(row_of(recipe.cell.name, rate, summaries))
    pooled = [row["consensus"] for row in report.rows if row["recipe"].startswith("sgd")]
    for row in report.rows:
        row["to pooled SGD"] = round(row["consensus"] - max(pooled), 2) if pooled else None
    if not settings.quick and pooled and all(row["seeds"] == len(settings.seeds) for row in report.rows):
        report.bars += bars(report.rows, max(pooled))
    if report.rows:
        report.finish(settings.output or settings.out / "ring_accuracy.json")
        (settings.out / "table.md").write_text(markdown(report.rows), encoding="utf-8")


if __name__ == "__main__":
    asked = tyro.cli(Settings, prog="python -m benchmarks.ring_accuracy", description=__doc__)
    sys.exit(exit_status(lambda: main(asked)))
