"""Builder of a peer, client or coordinator: data, model, protocol, records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from p2pfl import algorithms, data
from p2pfl.algorithms import attacks
from p2pfl.algorithms.base import Saved
from p2pfl.algorithms.fedavg import ServerAverage
from p2pfl.config import RunConfig, least_updates
from p2pfl.data import partition
from p2pfl.errors import CheckpointError, one_line
from p2pfl.faults import BEFORE_EXCHANGE, FaultScript, Pause, load_faults
from p2pfl.modes import Roles, assign_roles
from p2pfl.node import messages
from p2pfl.node.greeting import greeting_of
from p2pfl.node.recorder import Keeper
from p2pfl.node.resume import last_common_round, look_back, say_stale_client
from p2pfl.protocol.client import Client
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.logic import Logic
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.server_exchange import Federation
from p2pfl.run.data_record import DIGITS
from p2pfl.run.identity import next_incarnation
from p2pfl.run.paths import FAULTS_FILE
from p2pfl.topology import (
    Neighborhood,
    NeighborhoodSchedule,
    Topology,
    is_symmetric,
    neighborhood,
    spectral_gap,
    without_edges,
)
from p2pfl.training import Trainer, make_current, pick_device

_EPOCH_BITS = 18  # edge epochs of one incarnation; numbers stay below 2⁵³, where float64 is exact


@dataclass(frozen=True)
class Parts:
    """What a driver needs.

    `steps` are this process's optimizer steps in the whole run, as far as one can know.
    """

    trainer: Trainer
    logic: Logic
    keeper: Keeper
    steps: int
    script: FaultScript


@dataclass(frozen=True)
class _Setting:
    """Parts from which every role is built."""

    spec: messages.WorkerSpec
    roles: Roles
    context: PeerContext
    trainer: Trainer
    sizes: list[int]  # samples of every shard
    samples_before: int
    restored: Saved | None  # state of the algorithm in the checkpoint
    script: FaultScript

    @property
    def config(self) -> RunConfig:
        return self.spec.config


def assemble(
    spec: messages.WorkerSpec,
    topology: Topology,
    peer_dir: Path,
    report: messages.Report,
    takes_over: Callable[[], bool] = lambda: False,
) -> Parts:
    """Load the data, build the model or restore it, and set up logic and records."""
    roles = assign_roles(spec.config, topology)
    script = fault_script(spec, roles.topology)
    is_coordinator = spec.index == roles.coordinator
    dataset = data.load(spec.dataset)
    trainer, sizes = _build_trainer(spec, roles, dataset)
    spec = replace(spec, settings=f"{spec.settings}-{dataset.content[:DIGITS]}")
    if is_coordinator:
        trainer.momentum = torch.zeros_like(trainer.host)  # the server's, which is on the host like all that it does
    # The very last round is done again, since what follows on it may not have happened any more.
    redo = spec.config.training.rounds + roles.consensus_rounds - 1
    last = last_common_round(spec, roles, redo)
    past = look_back(spec, roles, trainer, peer_dir, redo if last is None else last, report)
    # Without a checkpoint it may go on in a later round than the first, which its neighbors will say.
    unknown = spec.resume and last is None and past.saved is None
    last = last or (0 if past.saved is None else past.saved.round)
    first_round = max(last + 1, spec.returns_in or 0)
    sketch_seed = spec.config.record.seed if roles.mode.has_peers else None
    kept = None if unknown else past.mend_records(peer_dir, last, sketch_seed)
    for line in () if kept is None else kept.lines:
        report(messages.Warned(line))
    say_stale_client(spec, roles, past, last, report)
    context = PeerContext(
        me=spec.index,
        names=topology.names,
        links=roles.links[spec.index],
        training_rounds=spec.config.training.rounds,
        consensus_rounds=roles.consensus_rounds,
        run=spec.run,
        layout=trainer.layout.digest,
        timeouts=_timeouts(spec),
        first_round=first_round,
        pending_payloads=past.unsent,
        incarnation=next_incarnation(peer_dir) << _EPOCH_BITS,
        is_rejoining=spec.restarted,
        needs_bootstrap=past.saved is None,
        has_lost_weights=past.lost and roles.mode.mixes,
        absent=_absent(spec, roles),
        max_missing=_spare(spec.config, topology.n) + len(script.victims() & roles.links[spec.index]),
        expected_returns={link: script.returns_of(link) for link in roles.links[spec.index] & script.victims()},
        barrier_rounds=script.barrier_rounds([spec.index]),
        scripted_pauses={fault.round: fault.resume for _, fault in script.of(spec.index) if isinstance(fault, Pause)},
        local_training=algorithms.local_training_of(spec.config),
        greeting=greeting_of(spec.config, roles, dataset, trainer.layout),
    )
    keeper = Keeper(
        spec.config,
        spec.run_dir,
        peer_dir,
        evaluates=spec.index in roles.evaluators,
        chosen=spec.index == roles.model_owner,
        takes_over=takes_over,
        sketches=sketch_seed is not None,
        settings=spec.settings,
        origin=past.origin,
        consensus_rounds=roles.consensus_rounds,
        kept=None if kept is None else kept.rounds,
    )
    build = _coordinator if is_coordinator else _client if roles.coordinator is not None else _peer
    samples_before = kept.rounds[-1].samples if kept is not None and kept.rounds else 0
    restored = None if past.saved is None else past.saved.algorithm
    setting = _Setting(spec, roles, context, trainer, sizes, samples_before, restored, script)
    _flip_labels(setting)
    return Parts(trainer, build(setting), keeper, _steps(setting), script)


def fault_script(spec: messages.WorkerSpec, topology: Topology) -> FaultScript:
    """The script that the run directory holds, or an empty one.

    It has been checked before the run began.
    """
    if spec.config.exchange.faults is None:
        return FaultScript(names=topology.names)
    found = load_faults(spec.run_dir / FAULTS_FILE, spec.config.record.seed)
    return FaultScript(found.faults, found.seed, topology.names)


def _peer(setting: _Setting) -> Logic:
    matrix, config = setting.roles.matrix, setting.config
    contraction = 1.0 - spectral_gap(matrix) if is_symmetric(matrix) else 0.0
    training, consensus = algorithms.build_algorithm(config), algorithms.build_consensus(config, contraction)
    for attack, active in _attacks(setting):
        training, consensus = attacks.Attacking(training, attack, active), attacks.Attacking(consensus, attack, active)
    try:
        return Peer(setting.context, _schedule(setting), setting.trainer.host, training, consensus, setting.restored)
    except (KeyError, RuntimeError) as error:  # a user's own, which has been changed since
        if setting.restored is None:
            raise
        raise CheckpointError(
            f"--algorithm {config.gossip.algorithm}: its state in the checkpoint does not fit: {one_line(error)}",
            remedy="start a new run without --resume",
            resumable=False,
        ) from error


def _schedule(setting: _Setting) -> NeighborhoodSchedule:
    """The peer's neighborhood of each round: without the edges that the fault script cuts; alone where it freezes
    before it has exchanged anything."""
    me, matrix, script, context = setting.spec.index, setting.roles.matrix, setting.script, setting.context
    pauses = [fault for _, fault in script.of(me) if isinstance(fault, Pause)]
    alone = {fault.round for fault in pauses if fault.at in BEFORE_EXCHANGE}
    found: dict[frozenset[tuple[int, int]], Neighborhood] = {}

    def neighborhood_in(round: int) -> Neighborhood:
        pairs = frozenset[tuple[int, int]]()
        if round <= context.training_rounds:
            pairs = script.cuts(round)
            if round in alone:
                pairs |= {(min(me, link), max(me, link)) for link in context.links}
        if pairs not in found:
            found[pairs] = neighborhood(without_edges(matrix, pairs), me)
        return found[pairs]

    return neighborhood_in


def _attacks(setting: _Setting) -> Iterator[tuple[attacks.Attack, Callable[[int], bool]]]:
    """Attacks of this process by the fault script, with their rounds."""
    for fault in setting.script.attacks_of(setting.spec.index):
        attack = attacks.build_attack(fault.attack, fault.scale)
        if attack is not None:
            yield attack, _within(fault.rounds)


def _flip_labels(setting: _Setting) -> None:
    for fault in setting.script.attacks_of(setting.spec.index):
        if attacks.build_attack(fault.attack, fault.scale) is None:
            setting.trainer.relabel = attacks.relabeling(setting.trainer.num_classes, _within(fault.rounds))


def _within(rounds: tuple[int, int]) -> Callable[[int], bool]:
    return lambda round: rounds[0] <= round <= rounds[1]


def _client(setting: _Setting) -> Logic:
    tamper = next((attacks.tampering(attack, active) for attack, active in _attacks(setting)), None)
    return Client(setting.context, setting.trainer.host, setting.config.exchange.wire_dtype, tamper=tamper)


def _coordinator(setting: _Setting) -> Logic:
    settings, selected, trainer = setting.config.server, setting.config.centralized.num_selected, setting.trainer
    by_size = settings.averaging == "samples"
    federation = Federation(
        sizes=[float(size) if by_size else 1.0 for size in setting.sizes],
        selected=selected,
        seed=setting.config.record.seed,
        min_updates=least_updates(setting.config),
        deadline=settings.deadline,
        samples_before=setting.samples_before,
        away=lambda round: frozenset(c for c in setting.script.victims() if setting.script.away(c, round)),
        back=lambda round: frozenset(c for c in setting.script.victims() if round in setting.script.returns_of(c)),
    )
    server = ServerAverage(
        trainer.host,
        trainer.momentum,
        momentum=settings.server_momentum,
        lr=settings.server_lr,
        wire_dtype=setting.config.exchange.wire_dtype,
        averaging=settings.averaging,
        byzantine=setting.config.robust.byzantine or 0,
        statistics=[slice(s.offset, s.offset + s.size) for s in trainer.layout.slots if not s.is_parameter],
    )
    return Coordinator(setting.context, federation, server)


def _steps(setting: _Setting) -> int:
    """Optimizer steps of one process in all rounds.

    The mean of the clients, where not all are selected.
    """
    steps = setting.trainer.steps_per_round * setting.config.training.rounds
    if setting.roles.coordinator is None:
        return steps
    centralized = setting.config.centralized
    return max(1, steps * centralized.num_selected // centralized.num_clients)


def _build_trainer(spec: messages.WorkerSpec, roles: Roles, dataset: data.Dataset) -> tuple[Trainer, list[int]]:
    node = roles.topology.graph.nodes[spec.index]
    device = pick_device(spec.config.compute.device, spec.index, str(node.get("device", "")))
    if device.type == "cpu":
        torch.set_num_threads(spec.config.compute.threads or 1)
    else:
        make_current(device)
    config = spec.config
    if config.data.augment != "auto":
        dataset = replace(dataset, augment=config.data.augment == "on")
    shards = partition.partition(config.data.partition, dataset.train_labels.numpy(), roles.shards, config.record.seed)
    # The coordinator trains nothing; any shard will do for it.
    indices = shards[min(spec.index, roles.shards - 1)]
    return Trainer(config, dataset, indices, device, spec.index), [len(shard) for shard in shards]


def _absent(spec: messages.WorkerSpec, roles: Roles) -> frozenset[int]:
    """Neighbors that are known to be gone for good."""
    known = roles.links[spec.index] if spec.endpoints is None else spec.endpoints.keys()
    return roles.links[spec.index] - known


def _spare(config: RunConfig, peers: int) -> int:
    """Neighbors that may be missing at once.

    Where a launcher restarts processes, it is the one that counts.

    Where a launcher starts processes again, it is the one that counts.
    """
    least = config.gossip.min_peers
    return peers - 1 if config.exchange.restart else peers - (peers if least is None else least)


def _timeouts(spec: messages.WorkerSpec) -> Timeouts:
    limits = spec.config.exchange
    # Without a launcher nobody knows when the neighbors start: greeting them is part of the start.
    start = None if spec.endpoints is None or spec.restarted else limits.start_timeout
    return Timeouts(start, limits.handshake_timeout, limits.first_round_timeout, limits.round_timeout)
