"""A run directory of any mode read back: settings, topology and what every process recorded."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from p2pfl.config import Mode, RunConfig
from p2pfl.errors import ConfigError
from p2pfl.faults import FaultScript, load_faults
from p2pfl.model.sketches import consensus_distance
from p2pfl.roles import COORDINATOR
from p2pfl.run import records
from p2pfl.run.data_record import DataRecord, read_data_record
from p2pfl.run.directory import load_run_settings
from p2pfl.run.paths import CONFIG_FILE, ROUNDS_FILE, TOPOLOGY_FILE, peer_dirs
from p2pfl.run.records import RoundRecord
from p2pfl.run.sketch_file import readable_sketches
from p2pfl.topology import Topology, load_topology

_MIXING_LIMIT = 100_000  # more rounds of mixing alone no run has: a record of a later one is none


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    A round is finished when every peer that was not lost has recorded it, or a later one: who was away skips rounds. In
    centralized mode it is when the coordinator has: clients record only the rounds in which they took part.
    """

    path: Path
    config: RunConfig
    topology: Topology
    records: tuple[tuple[RoundRecord, ...], ...]  # by process, oldest first; lost ones and the coordinator included
    survivors: tuple[int, ...]  # processes that were not lost, in their order; all if nobody was left
    rounds: Mapping[int, tuple[RoundRecord, ...]]  # finished round -> the survivors' records of it; the coordinator's
    script: FaultScript | None  # the fault script that it played
    distances: Mapping[int, float]  # finished round -> consensus distance of the survivors, estimated
    problems: tuple[str, ...] = ()  # a line for each file of records that is damaged
    data: DataRecord | None = None  # what it was trained on; None in runs from before that was recorded

    @property
    def name(self) -> str:
        """The run's name: that of the topology file it was started with, unless the user chose another."""
        return self.config.record.name or self.topology.name

    @property
    def mode(self) -> Mode:
        """How it was trained."""
        return self.config.mode

    @property
    def coordinator(self) -> int | None:
        """The coordinator's number, if there is one; it is the last."""
        return self.topology.n - 1 if self.mode == "centralized" else None

    @property
    def trainers(self) -> range:
        """The processes that train: peers or clients."""
        return range(self.topology.n if self.coordinator is None else self.coordinator)

    @property
    def honest(self) -> list[int]:
        """The surviving processes that no fault script makes attack."""
        attackers = [] if self.script is None else self.script.attackers
        return [peer for peer in self.survivors if self.topology.names[peer] not in attackers]

    @property
    def own_models(self) -> bool:
        """Whether every peer has a model of its own, so that there is a spread of peers and a distance between them."""
        return self.mode in ("gossip", "local")

    def finished(self, phase: str) -> list[int]:
        """The finished rounds of a phase, in order."""
        return [number for number, row in self.rounds.items() if row[0].phase == phase]

    def elapsed(self, number: int) -> float:
        """Seconds until the last surviving peer, or the coordinator, had finished a round."""
        return max(record.elapsed for record in self.rounds[number])

    def bytes_sent(self, number: int) -> int:
        """Bytes that all processes together had sent by the end of a round."""
        return self._bytes_by_round[number]

    def samples(self, number: int) -> int:
        """Training samples that all processes together had processed by the end of a round, lost ones included.

        From the records of those who train: a coordinator counts only what it averaged.
        """
        return self._samples_by_round[number]

    @cached_property
    def _bytes_by_round(self) -> list[int]:
        return self._summed((record.round, record.bytes_sent) for own in self.records for record in own)

    @cached_property
    def _samples_by_round(self) -> list[int]:
        """A process records what it has processed so far, and clients only the rounds in which they took part."""
        totals = ([(0, 0), *((record.round, record.samples) for record in self.records[i])] for i in self.trainers)
        return self._summed((number, now - before) for own in totals for (_, before), (number, now) in pairwise(own))

    def _summed(self, parts: Iterable[tuple[int, int]]) -> list[int]:
        """The sum of all parts up to each round, by its number; 0 at 0."""
        by_round = [0] * (max((own[-1].round for own in self.records if own), default=0) + 1)
        for number, part in parts:
            by_round[number] += part
        return list(accumulate(by_round))


def of_phase(records: Sequence[RoundRecord], phase: str) -> list[RoundRecord]:
    """A peer's records of one phase."""
    return [record for record in records if record.phase == phase]


def sent_by_process(run: Run, phase: str | None = None) -> list[int]:
    """Bytes that each process sent, in their order: over the whole run, or in one phase."""
    return [sum(record.bytes_sent for record in own if phase in (None, record.phase)) for own in run.records]


def latest_accuracy(records: Sequence[RoundRecord]) -> float | None:
    """A process's latest test accuracy before a consensus phase; None if it was never measured."""
    measured = (r.test_accuracy for r in reversed(records) if r.phase == "train" and r.test_accuracy is not None)
    return next(measured, None)


def training_distances(run: Run) -> dict[int, float]:
    """Round of training -> consensus distance after it, where that is above 0, as a logarithmic axis needs it."""
    return {n: run.distances[n] for n in run.finished("train") if run.distances.get(n, 0) > 0}


def mixing_distances(run: Run) -> dict[int, float]:
    """The same after k rounds of mixing alone; k = 0 is the last training round. Empty where there is none for that."""
    last = run.config.training.rounds
    numbers = [n for n in (last, *run.finished("consensus")) if run.distances.get(n, 0) > 0]
    return {n - last: run.distances[n] for n in numbers} if last in numbers else {}


def repeat_command(run: Run) -> str:
    """The command that repeats a run."""
    return shlex.join(["python", "run_peers.py", run.mode, "--config", str(run.path / CONFIG_FILE)])


def model_record(run: Run) -> RoundRecord | None:
    """The record that holds the accuracy of the run's final model, or None where the run did not get there.

    That is the consensus model in gossip mode, the coordinator's global model, or plain SGD's model; local peers have
    no common one.
    """
    if run.mode == "local":
        return None
    mixed = run.finished("consensus")
    last = (mixed[-1] if mixed else 0) if run.mode == "gossip" else run.config.training.rounds
    return next((record for record in run.rounds.get(last, ()) if record.test_accuracy is not None), None)


def load_run(run_dir: Path, lost_peers: Sequence[str] = ()) -> Run:
    """Read a run directory, also that of an interrupted run or of one that finished no round.

    `lost_peers` are peers' names. Raises ConfigError where the folder or its settings cannot be read; what cannot be
    read of the records is left out, and said in `problems`.
    """
    config = load_run_settings(run_dir)
    topology = load_topology(run_dir / TOPOLOGY_FILE, least=1 if config.mode == "sgd" else 2, by_ids=True)
    if config.mode == "centralized" and topology.names[-1] != COORDINATOR:
        raise ConfigError(f"{run_dir / TOPOLOGY_FILE}: its last node must be the {COORDINATOR!r} of a centralized run")
    unknown = sorted(set(lost_peers) - set(topology.names))
    if unknown:
        raise ConfigError(f"{run_dir}: lost peer {unknown[0]!r} is not in {TOPOLOGY_FILE}")
    folders = peer_dirs(run_dir, topology)
    read = [records.read_recorded(folder, config.training.rounds + _MIXING_LIMIT) for folder in folders]
    recorded = tuple(_of_this_run(own.rounds, config, topology) for own in read)
    problems = tuple(line for own in read for line in own.problems) + tuple(
        f"{folder / ROUNDS_FILE}: {_counted(len(own.rounds) - len(kept))} not of this run"
        for folder, own, kept in zip(folders, read, recorded, strict=True)
        if len(kept) < len(own.rounds)
    )
    left = tuple(peer for peer in range(topology.n) if topology.names[peer] not in set(lost_peers))
    survivors = left or tuple(range(topology.n))  # where nobody was left, everybody counts
    script = None
    if config.exchange.faults is not None:
        found = load_faults(config.exchange.faults, config.record.seed)
        script = FaultScript(found.faults, found.seed, topology.names)
    data = read_data_record(run_dir)
    if config.mode == "centralized":
        return Run(run_dir, config, topology, recorded, survivors, _finished(recorded[-1:]), script, {}, problems, data)
    rounds = _finished([recorded[peer] for peer in survivors])
    distances = {}
    if config.mode != "sgd":
        distances = _distances([folders[p] for p in survivors], [read[p].rows for p in survivors], rounds)
    return Run(run_dir, config, topology, recorded, survivors, rounds, script, distances, problems, data)


def _counted(count: int) -> str:
    return f"{count} record{'s are' if count > 1 else ' is'}"


def _of_this_run(own: Sequence[RoundRecord], config: RunConfig, topology: Topology) -> tuple[RoundRecord, ...]:
    """The records that can be of this run: of one of its rounds, in the right phase, with names of its nodes."""
    names, rounds = set(topology.names), config.training.rounds

    def fits(record: RoundRecord) -> bool:
        lists = (record.selected, record.missing, record.absent, record.weights_from)
        named = {*record.sent_to, *(name for one in lists for name in one or ())}
        return (record.phase == "train") == (record.round <= rounds) and named <= names

    return tuple(record for record in own if fits(record))


def _finished(recorded: Sequence[Sequence[RoundRecord]]) -> dict[int, tuple[RoundRecord, ...]]:
    by_round = [{record.round: record for record in own} for own in recorded]
    last = min((max(own, default=0) for own in by_round), default=0)
    numbers = sorted({number for own in by_round for number in own if number <= last})
    return {number: tuple(own[number] for own in by_round if number in own) for number in numbers}


def _distances(
    folders: Sequence[Path], places: Sequence[Mapping[int, int]], rounds: Mapping[int, Sequence[RoundRecord]]
) -> dict[int, float]:
    """`places`: by peer, where in its sketches' file each round is."""
    sketches = [readable_sketches(folder)[0] for folder in folders]
    distances = {}
    for number, reported in rounds.items():
        rows = [(where[number], own) for where, own in zip(places, sketches, strict=True) if number in where]
        if len(rows) < len(reported):
            continue  # some sketch was lost
        with np.errstate(all="ignore"):  # weights that diverged are no reason to complain here
            distance = consensus_distance([own[row] for row, own in rows])
        if math.isfinite(distance):
            distances[number] = distance
    return distances
