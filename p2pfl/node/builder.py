"""Builder of a peer, client or coordinator: data, model, protocol, records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from p2pfl import algorithms, data
from p2pfl.algorithms import attacks
from p2pfl.algorithms.fedavg import ServerAverage, ServerOptions, client_weights
from p2pfl.config import RunConfig, least_updates
from p2pfl.errors import CheckpointError, one_line
from p2pfl.faults import FaultScript
from p2pfl.modes import Roles, assign_roles
from p2pfl.node import messages
from p2pfl.node.checkpoint_plan import checkpoint_plan
from p2pfl.node.greeting import greeting_of
from p2pfl.node.introduction import Known, united
from p2pfl.node.recorder import Recorder
from p2pfl.node.resume import SavedState, find_resume_point, last_common_round, report_stale_client
from p2pfl.node.scripted import (
    attacks_of,
    away_until,
    bootstrapped,
    fault_script,
    flip_labels,
    schedule_of,
    scripted_pauses,
)
from p2pfl.node.statistics import statistics_rule
from p2pfl.protocol.client import Client
from p2pfl.protocol.context import PeerContext, Timeouts
from p2pfl.protocol.coordinator import Coordinator
from p2pfl.protocol.introduction import digest_of
from p2pfl.protocol.logic import Logic
from p2pfl.protocol.numbering import Numbering
from p2pfl.protocol.peer import Peer
from p2pfl.protocol.server_exchange import Federation
from p2pfl.run import records
from p2pfl.run.data_record import DIGITS
from p2pfl.run.identity import next_incarnation
from p2pfl.run.shard_record import ShardRecord, write_shard_record
from p2pfl.topology import Topology, spectral_gap
from p2pfl.training import Trainer, capture_for, make_current, pick_device, with_common_steps
from p2pfl.training.shards import dataset_of_run, own_split_of, split_of_run

_EPOCH_BITS = 18  # edge epochs of one incarnation; numbers stay below 2⁵³, where float64 is exact


@dataclass(frozen=True)
class Assembly:
    """Everything that a driver runs.

    `steps` are this process's optimizer steps in the whole run, as far as one can know.
    """

    trainer: Trainer
    logic: Logic
    recorder: Recorder
    steps: int
    script: FaultScript


@dataclass(frozen=True)
class _Setting:
    """Parts from which every role is built.

    split: the shards of all. last: the round after which the process continues; 0 at the start of a run.
    kept: its records until then; None as long as that round is not known.
    """

    spec: messages.WorkerSpec
    peer_dir: Path
    roles: Roles
    script: FaultScript
    dataset: data.Dataset
    trainer: Trainer
    split: data.Split
    past: SavedState
    last: int
    kept: list[records.RoundRecord] | None

    @property
    def config(self) -> RunConfig:
        return self.spec.config


def assemble(
    spec: messages.WorkerSpec,
    topology: Topology,
    peer_dir: Path,
    report: messages.Report,
    reassigned: Callable[[], bool] = lambda: False,
    known: Known | None = None,
) -> Assembly:
    """Load the data, build the model or restore it, and set up protocol and records.

    `reassigned`: whether the run's model has become this process's during the run. `known`: what all peers have said
    about their own data, where nothing is dealt out.
    """
    setting = _setting(spec, assign_roles(spec.config, topology), peer_dir, report, known)
    roles, trainer, context = setting.roles, setting.trainer, replace(_context(setting), introductions=known or {})
    recorder = Recorder(
        spec.config,
        spec.run_dir,
        peer_dir,
        evaluates=spec.index in roles.evaluators,
        is_model_owner=lambda: spec.index == roles.model_owner or reassigned(),
        sketches=roles.mode.has_peers,
        settings=setting.spec.settings,
        origin=setting.past.origin,
        consensus_rounds=roles.consensus_rounds,
        kept=setting.kept,
        plan=checkpoint_plan(spec.config, roles, spec.index, setting.script, setting.last),
    )
    build = _coordinator if spec.index == roles.coordinator else _client if roles.coordinator is not None else _peer
    flip_labels(trainer, spec.index, setting.script)
    return Assembly(trainer, build(setting, context), recorder, _steps(setting), setting.script)


def _setting(
    spec: messages.WorkerSpec, roles: Roles, peer_dir: Path, report: messages.Report, known: Known | None
) -> _Setting:
    """Load the data, build the model, and find out where the process continues."""
    dataset = dataset_of_run(spec.config, data.load(spec.dataset))
    spec = replace(spec, settings=f"{spec.settings}-{dataset.content[:DIGITS]}")
    if known is None:
        split = split_of_run(spec.config, roles, dataset)
    else:
        dataset = replace(united(dataset, known), content=digest_of(known))
        split = own_split_of(spec.config, dataset, [known[peer].samples for peer in sorted(known)], spec.index)
    if roles.awaits_sizes:
        roles = assign_roles(spec.config, roles.topology, split.sizes)
    trainer = _build_trainer(spec, roles, dataset, split)
    if spec.index < roles.shards:
        write_shard_record(peer_dir, ShardRecord(list(dataset.classes), trainer.class_counts))
    else:
        trainer.class_counts = []
    if spec.index == roles.coordinator:
        trainer.momentum = torch.zeros_like(trainer.host)  # the server's, on the host like all that it computes
        trainer.optimizer_state = {}  # it trains nothing
    # The very last round is done again, since the work after it may not have happened.
    redo = spec.config.training.rounds + roles.consensus_rounds - 1
    last = last_common_round(spec, roles, redo)
    past = find_resume_point(spec, roles, trainer, peer_dir, redo if last is None else last, report)
    # Without a checkpoint it may continue in a later round than the first, which its neighbors will say.
    is_known = not spec.resume or last is not None or past.saved is not None
    last = last or (0 if past.saved is None else past.saved.round)
    kept = None
    if is_known:
        repaired = past.repair_records(peer_dir, last, spec.config.record.seed if roles.mode.has_peers else None)
        kept = repaired.rounds
        for line in repaired.lines:
            report(messages.Warned(line))
    report_stale_client(spec, roles, past, last, report)
    script = fault_script(spec, roles.topology)
    return _Setting(spec, peer_dir, roles, script, dataset, trainer, split, past, last, kept)


def _context(setting: _Setting) -> PeerContext:
    spec, roles, script, past = setting.spec, setting.roles, setting.script, setting.past
    me, links, statistics = spec.index, roles.links[spec.index], statistics_rule(spec.config, roles, setting.trainer)
    numbers = Numbering(spec.config.training.rounds, spec.config.gossip.gossip_steps)
    away = away_until(spec, roles, script, setting.last, setting.peer_dir)
    return PeerContext(
        me=me,
        names=roles.topology.names,
        links=links,
        training_rounds=numbers.exchanges,
        gossip_steps=numbers.steps,
        consensus_rounds=roles.consensus_rounds,
        run=spec.run,
        layout=setting.trainer.layout.digest,
        timeouts=_timeouts(spec),
        first_round=numbers.first(max(setting.last + 1, spec.returns_in or 0)),
        pending_payloads=past.unsent,
        incarnation=next_incarnation(setting.peer_dir) << _EPOCH_BITS,
        is_rejoining=spec.restarted,
        needs_bootstrap=past.saved is None,
        has_lost_weights=past.lost and roles.mode.mixes,
        absent=_absent(spec, roles),
        max_missing=_max_missing(spec.config, roles.topology.n) + len(script.victims() & links),
        expected_returns={
            link: frozenset(map(numbers.first, script.returns_of(link))) for link in links & script.victims()
        },
        barrier_rounds=frozenset(map(numbers.last, script.barrier_rounds([me]))) | statistics.barrier_rounds,
        away_until=numbers.first(away) if away else 0,
        scripted_pauses=scripted_pauses(me, script, numbers),
        local_training=algorithms.local_training_of(spec.config),
        statistics=statistics,
        period=roles.period,
        greeting=greeting_of(spec.config, roles, setting.dataset, setting.trainer.layout, setting.split.digest),
    )


def _peer(setting: _Setting, context: PeerContext) -> Logic:
    roles, config = setting.roles, setting.config
    restored = None if setting.past.saved is None else setting.past.saved.algorithm
    merge, peers = roles.merge, roles.topology.n
    contraction = 1.0 - spectral_gap(merge.mixing.w) if merge is not None and merge.rule == "chebyshev" else 0.0
    training = algorithms.build_algorithm(config, peers, setting.trainer.layout.buffers)
    consensus = algorithms.build_consensus(config, contraction, peers, context.statistics.estimated_in or None)
    for attack, active in attacks_of(context.me, setting.script, context.numbering):
        training, consensus = attacks.Attacking(training, attack, active), attacks.Attacking(consensus, attack, active)
    merging = roles.matrices if merge is None else merge.mixing.matrices
    schedule = schedule_of(context, roles.matrices, merging, setting.script)
    try:
        return Peer(bootstrapped(context, schedule), schedule, setting.trainer.host, training, consensus, restored)
    except (KeyError, RuntimeError) as error:  # a user's own, which has been changed since
        if restored is None:
            raise
        raise CheckpointError(
            f"--algorithm {config.gossip.algorithm}: its state in the checkpoint does not fit: {one_line(error)}",
            remedy="start a new run without --resume",
            resumable=False,
        ) from error


def _client(setting: _Setting, context: PeerContext) -> Logic:
    found = attacks_of(context.me, setting.script, context.numbering)
    tamper = next((attacks.tampering(attack, active) for attack, active in found), None)
    return Client(context, setting.trainer.host, setting.config.exchange.wire_dtype, tamper=tamper)


def _coordinator(setting: _Setting, context: PeerContext) -> Logic:
    settings, selected, trainer = setting.config.server, setting.config.centralized.num_selected, setting.trainer
    federation = Federation(
        weights=client_weights(settings.averaging, setting.split.sizes),
        selected=selected,
        seed=setting.config.record.seed,
        min_updates=least_updates(setting.config),
        deadline=settings.deadline,
        samples_before=setting.kept[-1].samples if setting.kept else 0,
        away=lambda round: frozenset(c for c in setting.script.victims() if setting.script.is_absent(c, round)),
        back=lambda round: frozenset(c for c in setting.script.victims() if round in setting.script.returns_of(c)),
    )
    options = ServerOptions(
        momentum=settings.server_momentum,
        lr=settings.server_lr,
        wire_dtype=setting.config.exchange.wire_dtype,
        averaging=settings.averaging,
        byzantine=setting.config.robust.byzantine or 0,
        statistics=trainer.layout.buffers,
    )
    return Coordinator(context, federation, ServerAverage(trainer.host, trainer.momentum, options))


def _steps(setting: _Setting) -> int:
    """Optimizer steps of one process in all rounds.

    The mean of the clients, where not all are selected.
    """
    steps = setting.trainer.steps_per_round * setting.config.training.rounds
    if setting.roles.coordinator is None:
        return steps
    centralized = setting.config.centralized
    return max(1, steps * centralized.num_selected // centralized.num_clients)


def _build_trainer(spec: messages.WorkerSpec, roles: Roles, dataset: data.Dataset, split: data.Split) -> Trainer:
    node = {} if spec.new_endpoint else roles.topology.graph.nodes[spec.index]  # a cluster gives it its device
    device = pick_device(spec.config.compute.device, spec.index, str(node.get("device", "")))
    if device.type == "cpu":
        torch.set_num_threads(spec.config.compute.threads or 1)
    else:
        make_current(device)
    config = spec.config
    if config.data.augment != "auto":
        dataset = replace(dataset, augment=config.data.augment == "on")
    config = with_common_steps(config, split.mean_size)
    # The coordinator trains nothing; any shard will do for it.
    indices = split.shards[min(spec.index, roles.shards - 1)]
    return Trainer(config, dataset, indices, device, spec.index, capture_for(device))


def _absent(spec: messages.WorkerSpec, roles: Roles) -> frozenset[int]:
    """Neighbors that are known to be gone for good."""
    known = roles.links[spec.index] if spec.endpoints is None else spec.endpoints.keys()
    return roles.links[spec.index] - known


def _max_missing(config: RunConfig, peers: int) -> int:
    """Neighbors that may be missing at once.

    Where a launcher restarts processes, it is the one that counts.
    """
    least = config.gossip.min_peers
    return peers - 1 if config.exchange.restart else peers - (peers if least is None else least)


def _timeouts(spec: messages.WorkerSpec) -> Timeouts:
    limits = spec.config.exchange
    # Without a launcher nobody knows when the neighbors start: greeting them is part of the start.
    start = None if spec.endpoints is None or spec.restarted else limits.start_timeout
    return Timeouts(start, limits.handshake_timeout, limits.first_round_timeout, limits.round_timeout)
