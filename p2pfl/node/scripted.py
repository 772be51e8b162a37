"""Effects of a fault script on one process: its neighborhoods, attacks, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from p2pfl.algorithms import attacks
from p2pfl.faults import BEFORE_EXCHANGE, FaultScript, Pause
from p2pfl.protocol.context import PeerContext
from p2pfl.topology import Neighborhood, NeighborhoodSchedule, neighborhood, without_edges
from p2pfl.topology.spectrum import Matrix
from p2pfl.training import Trainer


def schedule_of(context: PeerContext, matrix: Matrix, script: FaultScript) -> NeighborhoodSchedule:
    """The peer's neighborhood of each round, without the edges that the script cuts.

    The peer is alone in rounds in which it pauses before it has exchanged anything.
    """
    me = context.me
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


def attacks_of(me: int, script: FaultScript) -> Iterator[tuple[attacks.Attack, Callable[[int], bool]]]:
    """Attacks of a process on the vectors that it sends, each with its rounds."""
    for fault in script.attacks_of(me):
        attack = attacks.build_attack(fault.attack, fault.scale)
        if attack is not None:
            yield attack, _within(fault.rounds)


def flip_labels(trainer: Trainer, me: int, script: FaultScript) -> None:
    """Let an attacker train on mirrored labels where the script says so."""
    for fault in script.attacks_of(me):
        if attacks.build_attack(fault.attack, fault.scale) is None:
            trainer.relabel = attacks.relabeling(trainer.num_classes, _within(fault.rounds))


def _within(rounds: tuple[int, int]) -> Callable[[int], bool]:
    return lambda round: rounds[0] <= round <= rounds[1]
