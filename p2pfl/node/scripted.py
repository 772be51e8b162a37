"""Effects of a fault script on one process: its rounds, neighbors, attacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from p2pfl.algorithms import attacks
from p2pfl.faults import BEFORE_EXCHANGE, FaultScript, Pause, load_faults
from p2pfl.faults.injector import fired
from p2pfl.modes import Roles
from p2pfl.node import messages
from p2pfl.protocol.context import PeerContext
from p2pfl.protocol.numbering import Numbering
from p2pfl.run.paths import FAULTS_FILE, FIRED_FILE
from p2pfl.topology import Neighborhood, NeighborhoodSchedule, Topology, neighborhood, without_edges
from p2pfl.topology.spectrum import Matrix
from p2pfl.training import Trainer

_RECENT_ROUNDS = 64  # whose neighborhoods are looked up, and not found out again


def fault_script(spec: messages.WorkerSpec, topology: Topology) -> FaultScript:
    """The script that the run directory holds, or an empty one.

    It has been checked before the run began.
    """
    if spec.config.exchange.faults is None:
        return FaultScript(names=topology.names)
    found = load_faults(spec.run_dir / FAULTS_FILE, spec.config.record.seed)
    return FaultScript(found.faults, found.seed, topology.names)


def away_until(spec: messages.WorkerSpec, roles: Roles, script: FaultScript, last: int, peer_dir: Path) -> int:
    """Round in which a fault script has a peer back, if it is away; else 0.

    That outlasts a stop of the whole run. `last`: the round after which it could continue. Where too few would be left
    without those that do not come back, the run ended so, and all are back.
    """
    if not roles.mode.mixes or not spec.resume or spec.returns_in is not None:
        return 0
    after_the_last = spec.config.training.rounds + roles.consensus_rounds + 1
    may_lose = script.may_lose(spec.config.gossip.min_peers or len(script.names))
    never = 0 if spec.restarted or not may_lose else after_the_last
    return script.away_until(spec.index, last + 1, fired(peer_dir / FIRED_FILE), never)


def schedule_of(
    context: PeerContext, training: Sequence[Matrix], merging: Sequence[Matrix], script: FaultScript
) -> NeighborhoodSchedule:
    """The peer's neighborhood of each round, without the edges that the script cuts.

    `training`, `merging`: mixing matrices of the training rounds and of a merge, by round of their phase; they repeat,
    and every merge begins with the first one. The peer is alone in rounds in which it pauses before it has exchanged
    anything.
    """
    me, numbers = context.me, context.numbering
    pauses = [fault for _, fault in script.of(me) if isinstance(fault, Pause)]
    alone = {fault.round for fault in pauses if fault.at in BEFORE_EXCHANGE}
    found: dict[tuple[bool, int, frozenset[tuple[int, int]]], Neighborhood] = {}

    @functools.lru_cache(maxsize=_RECENT_ROUNDS)  # it is asked several times for each message
    def neighborhood_in(round: int) -> Neighborhood:
        pairs = frozenset[tuple[int, int]]()
        trains, number = round <= context.training_rounds, round - context.phase_begin(round)
        matrices = training if trains else merging
        if trains:
            pairs = script.cuts(numbers.round_of(round))
            if numbers.round_of(round) in alone:
                pairs |= {(min(me, link), max(me, link)) for link in context.links}
        place = number % len(matrices)
        key = trains, place, pairs
        if key not in found:
            found[key] = neighborhood(without_edges(matrices[place], pairs), me)
        return found[key]

    return neighborhood_in


def bootstrapped(context: PeerContext, schedule: NeighborhoodSchedule) -> PeerContext:
    """Context of a peer that may begin with a bootstrap.

    It begins in a round in which it has neighbors to take weights from.
    """
    if not context.needs_bootstrap or context.first_round == 1:
        return context
    first = context.first_within_period(context.first_round, lambda round: bool(schedule(round).incoming))
    return replace(context, first_round=first)


def scripted_pauses(me: int, script: FaultScript, numbers: Numbering) -> dict[int, int]:
    """Exchanges of the rounds in which a process pauses, each with its next one.

    After the round's last exchange that is the first of the round in which it continues.
    """
    found: dict[int, int] = {}
    for _, fault in script.of(me):
        if isinstance(fault, Pause):
            first, last = numbers.first(fault.round), numbers.last(fault.round)
            found |= {exchange: exchange + 1 for exchange in range(first, last)}
            found[last] = numbers.first(fault.resume)
    return found


def attacks_of(
    me: int, script: FaultScript, numbers: Numbering
) -> Iterator[tuple[attacks.Attack, Callable[[int], bool]]]:
    """Attacks of a process on the vectors that it sends, each with its exchanges."""
    for fault in script.attacks_of(me):
        attack = attacks.build_attack(fault.attack, fault.scale)
        if attack is not None:
            first, last = fault.rounds
            yield attack, _within((numbers.first(first), numbers.last(last)))


def flip_labels(trainer: Trainer, me: int, script: FaultScript) -> None:
    """Let an attacker train on mirrored labels where the script says so."""
    for fault in script.attacks_of(me):
        if attacks.build_attack(fault.attack, fault.scale) is None:
            trainer.relabel = attacks.relabeling(trainer.num_classes, _within(fault.rounds))


def _within(rounds: tuple[int, int]) -> Callable[[int], bool]:
    return lambda round: rounds[0] <= round <= rounds[1]
