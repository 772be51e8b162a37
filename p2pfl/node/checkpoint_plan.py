"""Plan of a process's checkpoints, by its role and its fault script."""

from __future__ import annotations

from p2pfl.config import RunConfig
from p2pfl.faults import FaultScript, Kill
from p2pfl.modes import Roles
from p2pfl.preflight.checkpoints import checkpoints_kept
from p2pfl.run.retention import KEPT, CheckpointPlan


def checkpoint_plan(config: RunConfig, roles: Roles, index: int, script: FaultScript, resumed: int) -> CheckpointPlan:
    """Plan of the checkpoints of a process, which continues after round `resumed`.

    The round before a scripted kill is saved too: the peer then comes back with the same weights whatever lies between
    two checkpoints.
    """
    is_coordinator = index == roles.coordinator
    return CheckpointPlan(
        kept=KEPT if is_coordinator else checkpoints_kept(roles, config),
        every=config.record.checkpoint_every,
        rounds=config.training.rounds,
        also=frozenset(fault.round - 1 for _, fault in script.of(index) if isinstance(fault, Kill)),
        has_common_marks=roles.coordinator is None or is_coordinator,
        resumed=resumed,
        trains=not is_coordinator,
    )
