"""Resumption of a process: its round, its weights, and what neighbors may need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2pfl.errors import CheckpointError, UnreadableError
from p2pfl.model.sketches import sketch
from p2pfl.modes import Roles
from p2pfl.node import messages
from p2pfl.payload import Payload
from p2pfl.run import checkpoint, records
from p2pfl.run.checkpoint import Checkpoint, Origin, Sent
from p2pfl.run.directory import rounds_unsaved
from p2pfl.run.identity import run_id_of, write_run_id
from p2pfl.run.paths import CHECKPOINTS_FOLDER, RUN_ID_FILE, checkpoint_name, peer_dir, topology_file
from p2pfl.run.repair import RecordBackup, RepairedRecords, repair
from p2pfl.training import Trainer

_AFRESH = "start a new run without --resume"


@dataclass(frozen=True)
class SavedState:
    """State of a process from its earlier incarnations.

    `saved`: the checkpoint that it continues from, if any, and `before` those of the rounds before it that are kept.
    `lost`: its rounds have left no weights that can be used.
    """

    origin: Origin
    saved: Checkpoint | None = None
    before: tuple[Checkpoint, ...] = ()
    lost: bool = False

    @property
    def unsent(self) -> dict[int, dict[int, Payload]]:
        """Payloads of the last rounds that are kept, by exchange and neighbor.

        For neighbors whose newest checkpoint is older. A round's last exchange has its number, unless rounds have
        several exchanges.
        """
        found: dict[int, dict[int, Payload]] = {}
        for kept in self._kept:
            sent = [*kept.earlier, Sent(kept.sent, kept.scalars)]
            last = kept.round * len(sent)
            found |= {last - left: _payloads(one) for left, one in enumerate(reversed(sent))}
        return found

    @property
    def _kept(self) -> list[Checkpoint]:
        return [] if self.saved is None else [self.saved, *self.before]

    def repair_records(self, peer_dir: Path, last: int, sketch_seed: int | None) -> RepairedRecords:
        """Cut the records after round `last` and rebuild those that are lost.

        Rebuilt are those of the checkpoints' rounds.

        `sketch_seed`: of the sketches; None where the process writes none.
        """
        backups = {kept.round: backup for kept in self._kept if (backup := _backup(kept, sketch_seed)) is not None}
        expected = self.saved.recorded if self.saved is not None and self.saved.round == last else None
        return repair(peer_dir, last, backups, expected=expected, sketched=sketch_seed is not None)


def _backup(kept: Checkpoint, sketch_seed: int | None) -> RecordBackup | None:
    try:
        record = records.decode_record(kept.record.encode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # it was saved by something that records nothing
        return None
    if sketch_seed is None:
        return RecordBackup(record)
    return RecordBackup(record, lambda: sketch(kept.x.numpy(), sketch_seed))


def find_resume_point(
    spec: messages.WorkerSpec, roles: Roles, trainer: Trainer, peer_dir: Path, at_most: int, report: messages.Report
) -> SavedState:
    """Find the state of a process that may have run before.

    Its trainer is set to the newest usable checkpoint.

    `at_most`: the round after which it may continue at the latest.

    Raises CheckpointError where that is of other settings or another version, where a file cannot be read, and where
    nothing is usable and no process has the weights.
    """
    name = roles.topology.names[spec.index]
    run = run_id_of(spec.run_dir, peer_dir)
    origin = Origin(run or "", name, spec.index)
    past = _restore(spec, roles, trainer, peer_dir, at_most, origin, report) if spec.resume else SavedState(origin)
    if run is not None:
        return past
    if past.saved is not None:
        taken = f"{peer_dir / RUN_ID_FILE}: missing or damaged, as in {spec.run_dir}; taken from the newest checkpoint"
        report(messages.Warned(taken))
        origin = past.saved.origin
    run = write_run_id(peer_dir, origin.run or None)
    return SavedState(Origin(run, name, spec.index), past.saved, past.before, past.lost)


def _restore(  # all that `find_resume_point` knows, and the origin that it has found
    spec: messages.WorkerSpec,
    roles: Roles,
    trainer: Trainer,
    peer_dir: Path,
    at_most: int,
    origin: Origin,
    report: messages.Report,
) -> SavedState:
    folder = peer_dir / CHECKPOINTS_FOLDER
    saved, _ = checkpoint.newest(folder, at_most, origin)
    _, refused = checkpoint.newest(folder, origin=origin)  # also those after a round to which all go back
    follows = "" if saved is None else f"; continues from its checkpoint of round {saved.round} instead"
    for line in refused:
        report(messages.Warned(line + follows))
    if saved is None:
        lost = spec.config.record.checkpoint and not spec.restarted and _has_done_rounds(spec, roles, peer_dir, refused)
        if lost:
            _say_lost(spec, roles, folder, report)
        elif spec.endpoints is not None and not spec.restarted:  # no launcher has said it
            report(
                messages.Warned(f"{folder}: no checkpoint; begins at round 1, or joins its neighbors if they are ahead")
            )
        return SavedState(origin, lost=lost)
    if saved.settings != spec.settings or saved.layout != trainer.layout.digest:
        what = f"with other settings, or on another graph than {topology_file(spec.run_dir).name} has now"
        if saved.layout == trainer.layout.digest and _without_data(saved.settings) == _without_data(spec.settings):
            what = f"on other data than --dataset {spec.config.data.dataset} has now"
        raise CheckpointError(f"{folder}: of a run {what}", remedy=_AFRESH, resumable=False)
    trainer.restore(saved.x, saved.momentum, saved.buffers, saved.steps, saved.optimizer)
    own = Origin(saved.origin.run, origin.peer, origin.index)
    rounds = range(saved.round - 1, saved.round - max(checkpoint.KEPT, roles.most_ahead), -1)
    before = (_load_if_usable(folder, round, own) for round in rounds if round > 0)
    return SavedState(origin, saved, tuple(b for b in before if b is not None and b.settings == saved.settings))


def _load_if_usable(folder: Path, round: int, origin: Origin) -> Checkpoint | None:
    """The checkpoint of one round, None where there is none that can be used.

    Raises UnreadableError.
    """
    try:
        return checkpoint.load(folder / checkpoint_name(round), origin)
    except UnreadableError:
        raise
    except CheckpointError:
        return None


def _without_data(settings: str) -> str:
    return settings.partition("-")[0]  # what follows is the digest of the data set


def _has_done_rounds(spec: messages.WorkerSpec, roles: Roles, peer_dir: Path, refused: list[str]) -> bool:
    """Whether a process without a usable checkpoint had saved any.

    Its folder and those of the others tell, as far as they can, and the launcher where these are not all here.

    The rounds until its first checkpoint tell nothing: it may be stopped after it has recorded these, before that is on
    disk. A power cut may damage the first ones of all peers.
    """
    every = rounds_unsaved(spec.run_dir, spec.config)
    is_refused = bool(refused) and checkpoint.latest_number(peer_dir / CHECKPOINTS_FOLDER) > every
    if is_refused or any(record.round > every for record in records.read_rounds(peer_dir)):
        return spec.index not in _clients(roles)
    others = (folder / CHECKPOINTS_FOLDER for folder in _folders(spec, roles, range(roles.topology.n)))
    newest = max(spec.newest_round, *map(checkpoint.latest_number, others))
    return spec.index not in _clients(roles) and newest > every


def _clients(roles: Roles) -> Iterable[int]:
    """Those whose weights are the coordinator's, of which each round brings new ones."""
    return () if roles.coordinator is None else range(roles.coordinator)


def _say_lost(spec: messages.WorkerSpec, roles: Roles, folder: Path, report: messages.Report) -> None:
    """Report what follows from the loss of all checkpoints.

    Raises CheckpointError where that is the end.
    """
    if roles.mode.mixes:
        follows = "takes its neighbors' weights if they are ahead"
    elif not roles.mode.has_common_model:
        follows = "begins at round 1 again"
    else:
        raise CheckpointError(f"{folder}: no checkpoint that can be used", remedy=_AFRESH, resumable=False)
    report(messages.Warned(f"{folder}: no checkpoint that can be used; {follows}"))


def last_common_round(spec: messages.WorkerSpec, roles: Roles, at_most: int) -> int | None:
    """Round after which a resumed centralized run continues.

    It is the newest that the coordinator has saved. What it had saved of later rounds that clients lack the launcher
    has removed before (`run.recovery`): a process does not know it where it sees the coordinator's files only.
    """
    if roles.coordinator is None or not spec.resume:
        return None
    saved = _of_coordinator(spec, roles, at_most)
    return 0 if saved is None else saved.round


def _of_coordinator(spec: messages.WorkerSpec, roles: Roles, at_most: int) -> Checkpoint | None:
    assert roles.coordinator is not None
    [folder] = _folders(spec, roles, [roles.coordinator])
    run, name = run_id_of(spec.run_dir, folder), roles.topology.names[roles.coordinator]
    return checkpoint.newest(folder / CHECKPOINTS_FOLDER, at_most, Origin(run or "", name, roles.coordinator))[0]


def _folders(spec: messages.WorkerSpec, roles: Roles, indices: Iterable[int]) -> list[Path]:
    return [peer_dir(spec.run_dir, roles.topology, index) for index in indices]


def report_stale_client(
    spec: messages.WorkerSpec, roles: Roles, past: SavedState, last: int, report: messages.Report
) -> None:
    """Warn where a client's state is older than its newest update.

    The coordinator has taken that update.
    """
    if spec.index not in _clients(roles) or not spec.resume or not spec.config.record.checkpoint:
        return
    [coordinator_dir] = _folders(spec, roles, [roles.coordinator or 0])
    name, known = roles.topology.names[spec.index], records.read_rounds(coordinator_dir)
    saved = _of_coordinator(spec, roles, last)
    if saved is not None and (backup := _backup(saved, None)) is not None:
        known = [*known, backup.record]  # its file may be damaged
    taken = [r.round for r in known if r.round <= last and name in set(r.selected or ()) - set(r.missing or ())]
    newest, has = max(taken, default=0), 0 if past.saved is None else past.saved.round
    if has < newest and not spec.restarted:
        state = f"that of round {has}" if has else "none"
        report(messages.Warned(f"its momentum after round {newest} is lost; continues with {state}, to other bits"))


def _payloads(sent: Sent) -> dict[int, Payload]:
    return {
        neighbor: Payload({name: (v,) for name, v in vectors.items()}, sent.scalars.get(neighbor, {}))
        for neighbor, vectors in sent.vectors.items()
    }
