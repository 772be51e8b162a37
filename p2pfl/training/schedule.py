"""Local steps of a round, and the learning rate schedule of the whole run."""

from __future__ import annotations

import warnings

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from p2pfl.config import RunConfig, TrainingConfig, replace_options
from p2pfl.config.sections import RISE
from p2pfl.errors import ConfigError

MOMENTUM_SWING = 0.05  # the one-cycle schedule moves momentum this far to both sides


def with_common_steps(config: RunConfig, mean_shard: int) -> RunConfig:
    """Settings of which every peer takes the same number of steps in a round.

    As many as the local epochs of a shard of `mean_shard` samples have. With --round-length epochs, or a given number
    of steps, the settings stay as they are. Raises ConfigError where that shard fills no batch.
    """
    training = config.training
    steps = local_steps(training, mean_shard // training.batch_size)
    if training.round_length == "epochs" or training.local_steps is not None:
        return config
    return replace_options(config, local_epochs=None, local_steps=steps)


def local_steps(training: TrainingConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of one peer in a round. Raises ConfigError where there are none."""
    if steps_per_epoch < 1:
        raise ConfigError(f"--batch-size {training.batch_size}: larger than a peer's shard; lower it")
    return training.local_steps or (training.local_epochs or 1) * steps_per_epoch


class StepSchedule:
    """The schedule of an optimizer, moved on step by step.

    It may be ahead of the steps that were taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, training: TrainingConfig, total_steps: int) -> None:
        self._schedule = build_schedule(optimizer, training, total_steps)
        self._steps = 0  # that it has been moved on by

    def advance(self) -> None:
        """Move on by one step."""
        self._steps += 1
        if self._schedule is not None:
            self._schedule.step()

    def seek(self, steps: int) -> None:
        """Move on to the place of a run after so many steps."""
        with warnings.catch_warnings():  # torch warns of schedule steps that follow no optimizer step
            warnings.simplefilter("ignore", UserWarning)
            while self._steps < steps:
                self.advance()


def build_schedule(optimizer: torch.optim.Optimizer, training: TrainingConfig, total_steps: int) -> LRScheduler | None:
    """The learning rate (and momentum) over the whole run, a step at a time.

    None where it stays constant.

    onecycle is Smith & Topin 2018 as in torch's OneCycleLR: up for a fifth of the run, then down to almost nothing.
    """
    if training.schedule == "onecycle":
        # Below ten steps the rise would be shorter than one step, which OneCycleLR divides by.
        return OneCycleLR(
            optimizer,
            max_lr=training.lr,
            total_steps=max(total_steps, 10),
            pct_start=RISE,
            cycle_momentum=training.momentum > 0,
            base_momentum=max(training.momentum - MOMENTUM_SWING, 0.0),
            max_momentum=min(training.momentum + MOMENTUM_SWING, 0.999),
        )
    if training.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total_steps)
    assert training.schedule == "constant"
    return None
