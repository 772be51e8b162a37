"""Recorder of one process: records, sketches, checkpoints, the run's model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from p2pfl.algorithms.base import Saved
from p2pfl.config import RunConfig
from p2pfl.errors import CheckpointError, unwritable
from p2pfl.model.sketches import Vector
from p2pfl.model.vector import integer_buffers
from p2pfl.payload import Payload
from p2pfl.protocol.numbering import Numbering
from p2pfl.run import checkpoint, records
from p2pfl.run.paths import CHECKPOINTS_FOLDER, MODEL_FILE, ROUNDS_FILE
from p2pfl.run.repair import repair, set_aside
from p2pfl.run.retention import EACH_ROUND, CheckpointPlan
from p2pfl.run.tensor_file import save_tensors
from p2pfl.training import Evaluation, Trainer


@dataclass
class Recorder:
    """Recorder of one process: its records, sketches and checkpoints.

    It also saves the run's model, if the process owns that.

    `origin`: the owner that its checkpoints name. `kept`: records of earlier incarnations that it adds to; None as long
    as the round in which it continues is not known. `evaluates`: it measures accuracy during the run.
    `is_model_owner`: asked whenever it matters, since the launcher may reassign the run's model.
    `plan`: of its checkpoints. `sketches`: its weights are compared with others' by their sketches.
    """

    config: RunConfig
    run_dir: Path
    peer_dir: Path
    evaluates: bool
    sketches: bool
    settings: str
    origin: checkpoint.Origin
    consensus_rounds: int
    kept: list[records.RoundRecord] | None
    plan: CheckpointPlan = EACH_ROUND
    is_model_owner: Callable[[], bool] = lambda: False
    _kept_sent: dict[int, checkpoint.Sent] = field(default_factory=dict)  # by exchange
    _newest: records.RoundRecord | None = None
    _recorded: int = 0
    _unsaved: int = 0  # records since the newest checkpoint

    def __post_init__(self) -> None:
        self._follow(self.kept or [])

    @property
    def elapsed_before(self) -> float:
        """Seconds of the run that this process resumes."""
        return self.kept[-1].elapsed if self.kept else 0.0

    def evaluation(self, round: int) -> Evaluation | None:
        """Evaluation that is due after a round, if any.

        With a validation set, the test set is read for the last ones only: of the last training round, and of the
        run's model. With --no-test it never is.
        """
        rounds, record = self.config.training.rounds, self.config.record
        if not self.evaluates:
            return None
        if round == rounds or (self.is_model_owner() and round == rounds + self.consensus_rounds):
            return Evaluation(0, "test" if self.config.data.test else "validation")
        due = record.eval_every is not None and round < rounds and round % record.eval_every == 0
        if not due or record.eval_samples is None:
            return None
        return Evaluation(record.eval_samples, "validation" if self.config.data.validation else "test")

    def keep_sent(self, exchange: int, sent: Mapping[int, Payload]) -> None:
        """Keep a copy of an exchange's payloads for the checkpoint of its round."""
        if self.saves(self._numbers.round_of(exchange)):
            self._kept_sent[exchange] = _copied(_sent(sent))

    def saves(self, round: int) -> bool:
        """Whether a round's checkpoint is saved."""
        return self.config.record.checkpoint and self.plan.is_due(round)

    def save(
        self, round: int, trainer: Trainer, sent: Mapping[int, Payload], state: Saved
    ) -> Callable[[], None] | None:
        """Save the checkpoint of a training round, if one is due.

        `sent`: payloads of the round's last exchange by neighbor. `state`: of the algorithm after it. It outlasts the
        process at once, and a power cut when what is returned has been done, which may overlap with the next training.
        """
        if not self.saves(round):
            return None
        if self._unsaved > 1:  # the checkpoint holds its own round's record alone, and may reach the disk early
            records.sync(self.peer_dir)
        path = checkpoint.write(self.peer_dir / CHECKPOINTS_FOLDER, self._checkpoint(round, trainer, sent, state))
        self._kept_sent.clear()
        self._unsaved = 0

        def complete() -> None:
            records.sync(self.peer_dir)
            checkpoint.complete(path, self.origin, self.plan)

        if self.plan.trains and round < self.config.training.rounds:
            return complete
        complete()
        return None

    def save_model(self, round: int, trainer: Trainer) -> None:
        """Save the run's model, if this process owns it and the round is the last."""
        if self.is_model_owner() and round == self.config.training.rounds + self.consensus_rounds:
            self._save_model(trainer)

    def begin(self, round: int, trainer: Trainer) -> list[str]:
        """Prepare the records before a round is added; returns lines about damage.

        Where the process had no checkpoint, its records from its first round on are cut.

        What it had recorded before that stays, and its steps count on from there. With checkpoints saved, there is a
        copy of what is cut: nothing else is left of these rounds. Returns lines about damage, and where the copy is.
        """
        if self.kept is not None:
            return []
        lines = self._set_aside(round)
        repaired = repair(self.peer_dir, round - 1, sketched=self.sketches)
        self.kept = repaired.rounds
        self._follow(self.kept)
        if self.kept:
            trainer.steps += self.kept[-1].steps
        return lines + repaired.lines

    def _set_aside(self, round: int) -> list[str]:
        """Keep what has no checkpoint any longer.

        Rounds until the first save are what a crash before it leaves.
        """
        newest = max((own.round for own in records.read_recorded(self.peer_dir, strict=True).rounds), default=0)
        if (
            newest < round + self.plan.every
            or not self.config.record.checkpoint
            or (copy := set_aside(self.peer_dir)) is None
        ):
            return []
        path = self.peer_dir / ROUNDS_FILE
        return [f"{path}: begins at round {round} again; its records until round {newest} are kept in {copy}"]

    def record(self, record: records.RoundRecord, sketch: Vector | None) -> None:
        """Add a round to the peer's files.

        Raises CheckpointError naming the file that cannot be written.
        """
        # With its checkpoint it is brought to disk; none follows after the last training round.
        after_all = self.config.record.checkpoint and record.round > self.config.training.rounds
        records.append_round(self.peer_dir, record, sketch, durable=after_all)
        self._newest, self._recorded, self._unsaved = record, self._recorded + 1, self._unsaved + 1

    @property
    def _numbers(self) -> Numbering:
        return Numbering(self.config.training.rounds, self.config.gossip.gossip_steps)

    def _follow(self, kept: list[records.RoundRecord]) -> None:
        self._newest, self._recorded = kept[-1] if kept else None, len(kept)

    def _checkpoint(
        self, round: int, trainer: Trainer, sent: Mapping[int, Payload], state: Saved
    ) -> checkpoint.Checkpoint:
        earlier = range(self._numbers.first(round), self._numbers.last(round))
        last = _sent(sent)
        return checkpoint.Checkpoint(
            round=round,
            steps=trainer.steps,
            layout=trainer.layout.digest,
            settings=self.settings,
            origin=self.origin,
            record="" if self._newest is None else records.encode_record(self._newest).decode(),
            recorded=self._recorded,
            x=trainer.host,
            momentum=trainer.momentum,
            optimizer=trainer.optimizer_state,
            buffers=integer_buffers(trainer.model),
            sent=last.vectors,
            scalars=last.scalars,
            earlier=tuple(self._kept_sent.get(exchange, checkpoint.Sent()) for exchange in earlier),
            algorithm=state,
            every=self.plan.every,
        )

    def _save_model(self, trainer: Trainer) -> None:
        model = self.config.model
        # One entry: safetensors writes several in a random order, and equal runs should give equal files.
        about = {"p2pfl": json.dumps({**vars(model), "rounds": self.config.training.rounds})}
        path = self.run_dir / MODEL_FILE
        try:
            save_tensors(path, trainer.model.state_dict(), about)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(unwritable(path, error)) from None


def _sent(sent: Mapping[int, Payload]) -> checkpoint.Sent:
    vectors = {n: {name: _whole(v) for name, v in p.vectors.items()} for n, p in sent.items()}
    return checkpoint.Sent(vectors, {n: p.scalars for n, p in sent.items()})


def _copied(sent: checkpoint.Sent) -> checkpoint.Sent:
    """Copy of payloads; neighbors that were sent the same tensor share one of it."""
    found = {vector.data_ptr(): vector for vectors in sent.vectors.values() for vector in vectors.values()}
    copies = {address: vector.clone() for address, vector in found.items()}
    vectors = {n: {name: copies[v.data_ptr()] for name, v in own.items()} for n, own in sent.vectors.items()}
    return checkpoint.Sent(vectors, {n: dict(values) for n, values in sent.scalars.items()})


def _whole(pieces: tuple[Tensor, ...] | list[Tensor] | object) -> Tensor:
    assert isinstance(pieces, (tuple, list))
    (vector,) = pieces
    assert isinstance(vector, torch.Tensor)
    return vector
