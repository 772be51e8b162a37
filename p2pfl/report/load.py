"""Reading a run directory: settings, topology and the records of all processes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import networkx as nx

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.faults import FaultScript, load_faults
from p2pfl.merge import FinalMerge, final_merge_of
from p2pfl.mixing import Mixing, mixing_of, uses_tree
from p2pfl.modes import COORDINATOR, Mode, mode_of
from p2pfl.protocol.numbering import Numbering
from p2pfl.registry import MIXINGS
from p2pfl.report.rounds import consensus_distances, finished_rounds
from p2pfl.run import records
from p2pfl.run.data_record import DataRecord, read_data_record
from p2pfl.run.directory import load_run_settings
from p2pfl.run.paths import CONFIG_FILE, ROUNDS_FILE, peer_dirs, topology_file
from p2pfl.run.pieces import is_in_pieces
from p2pfl.run.records import RoundRecord
from p2pfl.run.shard_record import ShardRecord, read_shard_record, sizes_of
from p2pfl.topology import Topology, load_topology
from p2pfl.topology.spectrum import Matrix
from p2pfl.util.program import program

_MIXING_LIMIT = 100_000  # of consensus rounds; a record of a later one is damaged


@dataclass(frozen=True)
class RecordedRun:
    """Contents of a run directory.

    A round is finished when every peer that was not lost has recorded it, or a later one: a peer that was away skips
    rounds. In centralized mode the coordinator's record decides: clients record only the rounds in which they took
    part.
    """

    path: Path
    config: RunConfig
    topology: Topology
    records: tuple[tuple[RoundRecord, ...], ...]  # by process, oldest first; including lost ones and the coordinator
    survivors: tuple[int, ...]  # processes that were not lost, in order; all processes if all were lost
    rounds: Mapping[int, tuple[RoundRecord, ...]]  # finished round -> the survivors' records of it; the coordinator's
    script: FaultScript | None  # its fault script
    distances: Mapping[int, float]  # finished round -> consensus distance of the survivors, estimated
    problems: tuple[str, ...] = ()  # one line for each damaged record file
    data: DataRecord | None = None  # description of its data; None in old runs without one
    shards: tuple[ShardRecord | None, ...] = ()  # by process that trains; None where it was not recorded
    uncollected: tuple[str, ...] = ()  # of a run in pieces: peers without any record, which are no survivors

    @property
    def name(self) -> str:
        """Name of the run: the user's, or else that of the topology file."""
        return self.config.record.name or self.topology.name

    @property
    def mode(self) -> Mode:
        """Training mode."""
        return mode_of(self.config)

    @property
    def coordinator(self) -> int | None:
        """Number of the coordinator, which is the last process; None without one."""
        return self.topology.n - 1 if self.mode.has_coordinator else None

    @property
    def trainers(self) -> range:
        """Processes that train: peers or clients."""
        return range(self.topology.n if self.coordinator is None else self.coordinator)

    @property
    def honest(self) -> list[int]:
        """Surviving processes that the fault script does not make attackers."""
        attackers = [] if self.script is None else self.script.attackers
        return [peer for peer in self.survivors if self.topology.names[peer] not in attackers]

    @property
    def has_peer_models(self) -> bool:
        """Whether each peer has its own model, so that peers have a spread and a distance."""
        return self.mode.has_peers

    @cached_property
    def mixing(self) -> Mixing | None:
        """Mixing of the training rounds.

        None where sums are relayed instead, or where it depends on sizes of shards that are not recorded.
        """
        weighs = MIXINGS[self.config.gossip.mixing].weighs_by_samples
        if uses_tree(self.config) or (weighs and sizes_of(self.shards) is None):
            return None
        return mixing_of(self.config, self.topology, sizes_of(self.shards))

    @property
    def matrix(self) -> Matrix | None:
        """Mixing matrix of all training rounds; None where it differs, or is not known."""
        return None if self.mixing is None or self.mixing.convergence is not None else self.mixing.w

    @cached_property
    def merge(self) -> FinalMerge | None:
        """Final merge of peers that mix; shards of unknown sizes count as equal."""
        if not self.mode.mixes:
            return None
        found = self.mixing or mixing_of(self.config, self.topology, sizes_of(self.shards))
        return final_merge_of(self.config, self.topology, found)

    def graphs_of(self, number: int) -> list[nx.Graph]:
        """Graphs of a round's exchanges; on a schedule each has its own."""
        graphs = self.topology.by_round
        numbers = Numbering(self.config.training.rounds, self.config.gossip.gossip_steps)
        before = numbers.exchanges if number > numbers.trainings else 0
        exchanges = range(numbers.first(number) - before, numbers.last(number) - before + 1)
        return [graphs[(exchange - 1) % len(graphs)].graph for exchange in exchanges]

    def finished(self, phase: str) -> list[int]:
        """Finished rounds of a phase, in order."""
        return [number for number, row in self.rounds.items() if row[0].phase == phase]

    def elapsed(self, number: int) -> float:
        """Seconds until the last surviving peer, or the coordinator, finished a round."""
        return max(record.elapsed for record in self.rounds[number])

    def bytes_sent(self, number: int) -> int:
        """Bytes sent by all processes up to the end of a round."""
        return self._bytes_by_round[number]

    def samples(self, number: int) -> int:
        """Training samples processed by all processes up to the end of a round.

        Lost processes included. From the records of peers or clients: a coordinator counts only what it averaged.
        """
        return self._samples_by_round[number]

    @cached_property
    def _bytes_by_round(self) -> list[int]:
        return self._summed((record.round, record.bytes_sent) for own in self.records for record in own)

    @cached_property
    def _samples_by_round(self) -> list[int]:
        """Samples by round.

        A process records its samples so far, and a client only the rounds in which it took part.
        """
        totals = ([(0, 0), *((record.round, record.samples) for record in self.records[i])] for i in self.trainers)
        return self._summed((number, now - before) for own in totals for (_, before), (number, now) in pairwise(own))

    def _summed(self, amounts: Iterable[tuple[int, int]]) -> list[int]:
        """Cumulative sum of (round, amount) by round; 0 at round 0."""
        by_round = [0] * (max((own[-1].round for own in self.records if own), default=0) + 1)
        for number, amount in amounts:
            by_round[number] += amount
        return list(accumulate(by_round))


def of_phase(records: Sequence[RoundRecord], phase: str) -> list[RoundRecord]:
    """Records of one phase."""
    return [record for record in records if record.phase == phase]


def sent_by_process(run: RecordedRun, phase: str | None = None) -> list[int]:
    """Bytes sent by each process, in order, over the whole run or in one phase."""
    return [sum(record.bytes_sent for record in own if phase in (None, record.phase)) for own in run.records]


def latest_accuracy(records: Sequence[RoundRecord]) -> float | None:
    """Latest accuracy before the consensus phase; None if never measured."""
    measured = (r.test_accuracy for r in reversed(records) if r.phase == "train" and r.test_accuracy is not None)
    return next(measured, None)


def training_distances(run: RecordedRun) -> dict[int, float]:
    """Consensus distances above 0 by training round, for a logarithmic axis."""
    return {n: run.distances[n] for n in run.finished("train") if run.distances.get(n, 0) > 0}


def mixing_distances(run: RecordedRun) -> dict[int, float]:
    """Consensus distances above 0 by round of the consensus phase.

    Round 0 is the last training round; empty where it has no distance.
    """
    last = run.config.training.rounds
    numbers = [n for n in (last, *run.finished("consensus")) if run.distances.get(n, 0) > 0]
    return {n - last: run.distances[n] for n in numbers} if last in numbers else {}


def repeat_command(run: RecordedRun) -> str:
    """Command that repeats a run."""
    return shlex.join([*program(), run.mode.name, "--config", str(run.path / CONFIG_FILE)])


def model_record(run: RecordedRun) -> RoundRecord | None:
    """Record with the accuracy of the final model, or None where the run has none.

    The final model is the consensus model in gossip mode, the coordinator's global model, or the model of plain SGD;
    local peers have no common one.
    """
    if not run.mode.has_common_model:
        return None
    mixed = run.finished("consensus")
    last = (mixed[-1] if mixed else 0) if run.mode.mixes else run.config.training.rounds
    return next((record for record in run.rounds.get(last, ()) if record.test_accuracy is not None), None)


# Longer than 40 lines: the fields' values in one place.
def load_run(run_dir: Path, lost_peers: Sequence[str] = (), joined: Mapping[int, Path] | None = None) -> RecordedRun:
    """Read a run directory, even of a run that was interrupted or finished no round.

    `lost_peers` are peers' names. `joined`: folders of the peers of a run in pieces, by index, in several run
    directories. Raises ConfigError where the folder or its settings cannot be read; unreadable
    records are left out and reported in `problems`.
    """
    config = load_run_settings(run_dir)
    file = topology_file(run_dir)
    topology = load_topology(file, least=mode_of(config).least_nodes, by_ids=True)
    if mode_of(config).has_coordinator and topology.names[-1] != COORDINATOR:
        raise ConfigError(f"{file}: its last node must be the {COORDINATOR!r} of a centralized run")
    unknown = sorted(set(lost_peers) - set(topology.names))
    if unknown:
        raise ConfigError(f"{run_dir}: lost peer {unknown[0]!r} is not in {file.name}")
    folders = peer_dirs(run_dir, topology)
    folders = [(joined or {}).get(index, folder) for index, folder in enumerate(folders)]
    read = [records.read_recorded(folder, config.training.rounds + _MIXING_LIMIT) for folder in folders]
    recorded = tuple(_of_this_run(own.rounds, config, topology) for own in read)
    problems = tuple(line for own in read for line in own.problems) + tuple(
        f"{folder / ROUNDS_FILE}: {_foreign_text(len(own.rounds) - len(kept))}"
        for folder, own, kept in zip(folders, read, recorded, strict=True)
        if len(kept) < len(own.rounds)
    )
    uncollected: tuple[str, ...] = ()
    if any(recorded) and (joined is not None or is_in_pieces(run_dir)):
        uncollected = tuple(name for name, own in zip(topology.names, recorded, strict=True) if not own)
    gone = {*lost_peers, *uncollected}
    left = tuple(peer for peer in range(topology.n) if topology.names[peer] not in gone)
    survivors = left or tuple(range(topology.n))  # where all were lost, all count
    script = None
    if config.exchange.faults is not None:
        found = load_faults(config.exchange.faults, config.record.seed)
        script = FaultScript(found.faults, found.seed, topology.names)
    data = read_data_record(run_dir)
    has_coordinator = mode_of(config).has_coordinator
    shards = tuple(read_shard_record(folder) for folder in (folders[:-1] if has_coordinator else folders))
    if has_coordinator:
        finished = finished_rounds(recorded[-1:])
        return RecordedRun(run_dir, config, topology, recorded, survivors, finished, script, {}, problems, data, shards)
    rounds = finished_rounds([recorded[peer] for peer in survivors])
    distances = {}
    if mode_of(config).has_peers:
        distances = consensus_distances([folders[p] for p in survivors], [read[p].rows for p in survivors], rounds)
    run = RecordedRun(run_dir, config, topology, recorded, survivors, rounds, script, distances, problems, data, shards)
    return replace(run, uncollected=uncollected)


def _foreign_text(count: int) -> str:
    return f"{count} record{'s do' if count > 1 else ' does'} not belong to this run"


def _of_this_run(own: Sequence[RoundRecord], config: RunConfig, topology: Topology) -> tuple[RoundRecord, ...]:
    """Records that fit this run: its rounds, phases and node names."""
    names, rounds = set(topology.names), config.training.rounds

    def fits(record: RoundRecord) -> bool:
        lists = (record.selected, record.missing, record.absent, record.weights_from)
        named = {*record.sent_to, *(name for one in lists for name in one or ())}
        return (record.phase == "train") == (record.round <= rounds) and named <= names

    return tuple(record for record in own if fits(record))
