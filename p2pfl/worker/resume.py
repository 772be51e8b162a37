"""Where a process goes on that has run before: which round, with what weights, and what others may still need of it."""

from __future__ import annotations

from pathlib import Path

from p2pfl import checkpoint, gossip, records
from p2pfl.errors import CheckpointError
from p2pfl.roles import Cast
from p2pfl.training import Trainer
from p2pfl.worker import messages
from p2pfl.worker.driver import Report

_AFRESH = "start a new run without --resume"


def last_common_round(spec: messages.WorkerSpec, parts: Cast, at_most: int) -> int | None:
    """The round after which all go on with a resumed centralized run: the newest that its coordinator has saved.

    Unless a client had been stopped before it had saved its part in that round: then the one before, if that is kept.
    """
    if parts.coordinator is None or not spec.resume:
        return None
    folder = spec.run_dir / "peers" / parts.topology.node_path(parts.coordinator)
    saved, _ = checkpoint.newest(folder / "checkpoint", at_most=min(at_most, _recorded(folder)))
    if saved is None:
        return 0
    if spec.restarted or _clients_have_saved(spec, parts, folder, saved.round):
        return saved.round
    before, _ = checkpoint.newest(folder / "checkpoint", at_most=saved.round - 1)
    return saved.round if before is None else before.round


def _clients_have_saved(spec: messages.WorkerSpec, parts: Cast, coordinator_dir: Path, round: int) -> bool:
    """Whether all whose updates the coordinator took in a round have a checkpoint of it."""
    (record,) = [record for record in records.read_rounds(coordinator_dir) if record.round == round]
    took_part = set(record.selected or ()) - set(record.missing or ())
    folders = [spec.run_dir / "peers" / parts.topology.node_path(parts.topology.index(name)) for name in took_part]
    return all((folder / "checkpoint" / f"round-{round:06d}.safetensors").exists() for folder in folders)


def _recorded(peer_dir: Path) -> int:
    return max((record.round for record in records.read_rounds(peer_dir)), default=0)


def restore(
    spec: messages.WorkerSpec, trainer: Trainer, peer_dir: Path, at_most: int, report: Report
) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint of a process put into its trainer, and returned; None where there is none to use.

    Raises CheckpointError where all are damaged, or of a run with other settings.
    """
    limit = min(at_most, _recorded(peer_dir))
    saved, refused = checkpoint.newest(peer_dir / "checkpoint", at_most=limit)
    for line in refused:
        report(messages.Warned(line))
    if saved is None:
        took_part = any(record.round <= limit for record in records.read_rounds(peer_dir))
        if took_part and refused and not spec.restarted:
            raise CheckpointError(f"{peer_dir / 'checkpoint'}: none of it is whole", remedy=_AFRESH, resumable=False)
        return None
    if saved.settings != spec.settings or saved.layout != trainer.layout.digest:
        raise CheckpointError(
            f"{peer_dir / 'checkpoint'}: of a run with other settings", remedy=_AFRESH, resumable=False
        )
    trainer.restore(saved.x, saved.momentum, dict(saved.buffers), saved.steps)
    return saved


def unsent(saved: checkpoint.Checkpoint, peer_dir: Path) -> dict[int, dict[int, gossip.Payload]]:
    """By round what went to each neighbor in the last two, for those whose newest checkpoint is older, or damaged."""
    found = [saved]
    before, _ = checkpoint.newest(peer_dir / "checkpoint", at_most=saved.round - 1)
    if before is not None and (before.round, before.settings) == (saved.round - 1, saved.settings):
        found.append(before)
    return {kept.round: _payloads(kept) for kept in found}


def _payloads(kept: checkpoint.Checkpoint) -> dict[int, gossip.Payload]:
    return {
        neighbor: gossip.Payload({name: (v,) for name, v in vectors.items()}, kept.scalars.get(neighbor, {}))
        for neighbor, vectors in kept.sent.items()
    }
