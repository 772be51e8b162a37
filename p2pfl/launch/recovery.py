"""Recovery of a stopped run before its workers start: where its peers continue."""

from __future__ import annotations

from pathlib import Path

from p2pfl.config import RunConfig
from p2pfl.errors import CheckpointError, unwritable
from p2pfl.faults import BEFORE_EXCHANGE, FaultScript, Kill, Pause
from p2pfl.faults.injector import fired, forget
from p2pfl.modes import Roles
from p2pfl.preflight.checkpoints import rounds_apart
from p2pfl.run.paths import FIRED_FILE, peer_dirs
from p2pfl.run.recovery import RecoveryLine, find_common_line, find_recovery_line, go_back


def recovery_line(roles: Roles, config: RunConfig, run_dir: Path) -> RecoveryLine | None:
    """Rounds after which the processes of a stopped run continue.

    None where that is not known, or each process finds its own, or all the coordinator's. It is decided here, since
    processes on another machine may see no files but their own. Nothing is changed.
    """
    if not config.record.checkpoint:
        return None
    at_most = config.training.rounds + roles.consensus_rounds - 1  # the very last round is always done again
    if roles.coordinator is not None:
        folders = peer_dirs(run_dir, roles.topology)
        return find_common_line(run_dir, folders, roles.topology.names, roles.coordinator, at_most)
    if not roles.mode.mixes:
        return None
    ahead, topology = rounds_apart(1, roles, config), roles.topology
    return find_recovery_line(run_dir, peer_dirs(run_dir, topology), topology.names, roles.links, at_most, ahead)


def recover(line: RecoveryLine, roles: Roles, config: RunConfig, run_dir: Path, script: FaultScript) -> None:
    """Let peers go back to the recovery line; faults of repeated rounds happen again.

    Raises CheckpointError naming a file that cannot be written.
    """
    folders = peer_dirs(run_dir, roles.topology)
    may_lose = script.may_lose(config.gossip.min_peers or roles.topology.n)
    for peer, folder in enumerate(folders):
        again = {
            number
            for number, fault in script.of(peer)
            # A kill that ends the run does not happen again, so that the run can be resumed.
            if (may_lose or isinstance(fault, Pause) or fault.restart is not None)
            and _happens_again(fault, peer, line, roles, script)
        }
        if again & set(fired(folder / FIRED_FILE)):
            try:
                forget(folder / FIRED_FILE, again)
            except OSError as error:
                raise CheckpointError(unwritable(folder / FIRED_FILE, error)) from None
    go_back(line, folders, sketched=roles.mode.has_peers)


def _happens_again(fault: Kill | Pause, peer: int, line: RecoveryLine, roles: Roles, script: FaultScript) -> bool:
    """Whether a fault is in a round that a peer and its neighbors do again.

    A peer that was killed before it exchanged anything in the next round has nothing to do in that again. After that it
    has, for neighbors that had its vector and have not saved that round; where others are further ahead, it would go
    straight to these, past the fault.
    """
    if fault.round != line.rounds[peer] + 1:
        return fault.round > line.rounds[peer]
    if not isinstance(fault, Kill) or fault.at in BEFORE_EXCHANGE:
        return False
    there = [line.rounds[link] for link in roles.links[peer] if not script.is_absent(link, fault.round)]
    return bool(there) and min(there) < fault.round >= max(there)
