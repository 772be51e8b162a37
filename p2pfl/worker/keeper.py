"""What one process keeps of its rounds: records, sketches, checkpoints, and at the end the run's model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from p2pfl import checkpoint, records
from p2pfl.config import RunConfig
from p2pfl.errors import CheckpointError, unwritable
from p2pfl.gossip import Payload
from p2pfl.parameters import integer_buffers
from p2pfl.sketches import Vector
from p2pfl.training import Trainer


@dataclass(frozen=True)
class Keeper:
    """Where and when one process writes. `elapsed_before`: seconds of the run that this one resumes.

    `evaluates`: it measures accuracy during the run. `chosen`, or `takes_over` during the run: at the end it has the
    run's model.
    `sketches`: its weights are compared with others' by their sketches.
    """

    config: RunConfig
    run_dir: Path
    peer_dir: Path
    evaluates: bool
    chosen: bool
    sketches: bool
    settings: str
    consensus_rounds: int
    elapsed_before: float = 0.0
    takes_over: Callable[[], bool] = lambda: False

    @property
    def holds_model(self) -> bool:
        """Whether it evaluates and saves the run's model."""
        return self.chosen or self.takes_over()

    def evaluation_samples(self, round: int) -> int | None:
        """How many test samples to evaluate on after a round (0: all); None where it is not due."""
        rounds, record = self.config.training.rounds, self.config.record
        if not self.evaluates:
            return None
        if round == rounds or (self.holds_model and round == rounds + self.consensus_rounds):
            return 0
        due = record.eval_every is not None and round < rounds and round % record.eval_every == 0
        return record.eval_samples if due else None

    def save(self, round: int, trainer: Trainer, sent: Mapping[int, Payload]) -> None:
        """The checkpoint of a training round."""
        if round <= self.config.training.rounds and self.config.record.checkpoint:
            checkpoint.save(self.peer_dir / "checkpoint", self._checkpoint(round, trainer, sent))

    def save_model(self, round: int, trainer: Trainer) -> None:
        """The run's model, if this process holds it and this is the last round of all."""
        if self.holds_model and round == self.config.training.rounds + self.consensus_rounds:
            self._save_model(trainer)

    def record(self, record: records.RoundRecord, sketch: Vector | None) -> None:
        """Add a round to the peer's files. Raises CheckpointError naming the file that cannot be written."""
        records.append_round(self.peer_dir, record, sketch, durable=self.config.record.checkpoint)

    def _checkpoint(self, round: int, trainer: Trainer, sent: Mapping[int, Payload]) -> checkpoint.Checkpoint:
        return checkpoint.Checkpoint(
            round=round,
            steps=trainer.steps,
            layout=trainer.layout.digest,
            settings=self.settings,
            x=trainer.host,
            momentum=trainer.momentum,
            buffers=integer_buffers(trainer.model),
            sent={n: {k: _whole(v) for k, v in p.vectors.items()} for n, p in sent.items()},
            scalars={n: p.scalars for n, p in sent.items()},
        )

    def _save_model(self, trainer: Trainer) -> None:
        model = self.config.model
        # One entry: safetensors writes several in a random order, and equal runs should give equal files.
        about = {"p2pfl": json.dumps({**vars(model), "rounds": self.config.training.rounds})}
        path = self.run_dir / "consensus.safetensors"
        try:
            checkpoint.save_tensors(path, trainer.model.state_dict(), about)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(unwritable(path, error)) from None


def _whole(pieces: tuple[Tensor, ...] | list[Tensor] | object) -> Tensor:
    assert isinstance(pieces, (tuple, list))
    (vector,) = pieces
    assert isinstance(vector, torch.Tensor)
    return vector
