"""A run directory of any mode read back: settings, topology and what every process recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2pfl import records
from p2pfl.config import Mode, RunConfig, load_toml
from p2pfl.errors import ConfigError
from p2pfl.records import RoundRecord
from p2pfl.roles import COORDINATOR
from p2pfl.topology import Topology, load_topology

CONFIG_FILE = "config.toml"
TOPOLOGY_FILE = "topology.graphml"
PEERS_FOLDER = "peers"


@dataclass(frozen=True)
class Run:
    """What a run directory holds.

    A round is finished when every peer that was not lost has recorded it; in centralized mode, when the coordinator
    has: clients record only the rounds in which they took part.
    """

    path: Path
    config: RunConfig
    topology: Topology
    records: tuple[tuple[RoundRecord, ...], ...]  # by process, oldest first; lost ones and the coordinator included
    survivors: tuple[int, ...]  # processes that were not lost, in their order
    rounds: Mapping[int, tuple[RoundRecord, ...]]  # finished round -> the survivors' records; or the coordinator's
    distances: Mapping[int, float]  # finished round -> consensus distance of the survivors, estimated

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

    def finished(self, phase: str) -> list[int]:
        """The finished rounds of a phase, in order."""
        return [number for number, row in self.rounds.items() if row[0].phase == phase]

    def elapsed(self, number: int) -> float:
        """Seconds until the last surviving peer, or the coordinator, had finished a round."""
        return max(record.elapsed for record in self.rounds[number])

    def bytes_sent(self, number: int) -> int:
        """Bytes that all processes together had sent by the end of a round."""
        return sum(record.bytes_sent for own in self.records for record in own if record.round <= number)


def of_phase(records: Sequence[RoundRecord], phase: str) -> list[RoundRecord]:
    """A peer's records of one phase."""
    return [record for record in records if record.phase == phase]


def bytes_by_process(run: Run) -> list[int]:
    """Bytes that each process sent in the training rounds, in their order."""
    return [sum(record.bytes_sent for record in of_phase(own, "train")) for own in run.records]


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

    `lost_peers` are peers' names. Raises ConfigError where the folder, its settings or a record cannot be
    read.
    """
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(f"{run_dir}: not a run directory (it has no {CONFIG_FILE})")
    config = load_toml(run_dir / CONFIG_FILE)
    topology = load_topology(run_dir / TOPOLOGY_FILE, least=1 if config.mode == "sgd" else 2)
    if config.mode == "centralized" and topology.names[-1] != COORDINATOR:
        raise ConfigError(f"{run_dir / TOPOLOGY_FILE}: its last node must be the {COORDINATOR!r} of a centralized run")
    unknown = sorted(set(lost_peers) - set(topology.names))
    if unknown:
        raise ConfigError(f"{run_dir}: lost peer {unknown[0]!r} is not in {TOPOLOGY_FILE}")
    folders = [run_dir / PEERS_FOLDER / topology.node_path(peer) for peer in range(topology.n)]
    recorded = tuple(tuple(records.read_rounds(folder)) for folder in folders)
    survivors = tuple(peer for peer in range(topology.n) if topology.names[peer] not in set(lost_peers))
    if config.mode == "centralized":
        return Run(run_dir, config, topology, recorded, survivors, _finished(recorded[-1:]), {})
    rounds = _finished([recorded[peer] for peer in survivors])
    distances = _distances([folders[p] for p in survivors], [recorded[p] for p in survivors], rounds)
    return Run(run_dir, config, topology, recorded, survivors, rounds, distances if config.mode != "sgd" else {})


def _finished(recorded: Sequence[Sequence[RoundRecord]]) -> dict[int, tuple[RoundRecord, ...]]:
    by_round = [{record.round: record for record in own} for own in recorded]
    common = set.intersection(*(set(own) for own in by_round)) if by_round else set()
    return {number: tuple(own[number] for own in by_round) for number in sorted(common)}


def _distances(
    folders: Sequence[Path], recorded: Sequence[Sequence[RoundRecord]], rounds: Iterable[int]
) -> dict[int, float]:
    sketches = [records.read_sketches(folder) for folder in folders]
    places = [{record.round: place for place, record in enumerate(own)} for own in recorded]
    distances = {}
    for number in rounds:
        rows = [where[number] for where in places]
        if any(row >= len(own) for row, own in zip(rows, sketches, strict=True)):
            continue  # the sketches' file was removed or cut
        with np.errstate(all="ignore"):  # weights that diverged are no reason to complain here
            distance = records.consensus_distance([own[row] for row, own in zip(rows, sketches, strict=True)])
        if math.isfinite(distance):
            distances[number] = distance
    return distances
