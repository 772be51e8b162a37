"""Trainer of one process: local steps and evaluation of one model on one device."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2pfl import data, seeding
from p2pfl.algorithms.attacks import Relabel
from p2pfl.config import EvaluationSet, RunConfig
from p2pfl.errors import ConfigError, DivergenceError
from p2pfl.model.global_state import RANDOMNESS
from p2pfl.model.structure import convert
from p2pfl.model.vector import Layout, aligned_vector, integer_buffers, is_finite
from p2pfl.payload import LocalTraining
from p2pfl.training.device import host_copy_of, on_device, sleep_until_done
from p2pfl.training.evaluation import EvalStats, Stopped, score
from p2pfl.training.optimizer import build_optimizer
from p2pfl.training.schedule import StepSchedule, local_steps
from p2pfl.training.statistics import reestimate
from p2pfl.training.step import Capture, CapturedStep, GradientTerms, Step
from p2pfl.training.weights import initial_model

_PROGRESS_SECONDS = 0.5
PLAIN = LocalTraining()


@dataclass(frozen=True)
class TrainStats:
    """Result of one round of local training.

    loss: mean over its steps. lr: learning rate of the last step. seconds: wall time. lr_sum: sum of the steps'
    learning rates.
    """

    loss: float
    lr: float
    samples: int
    steps: int
    seconds: float
    lr_sum: float = 0.0


class Trainer:
    """Model, optimizer and shard of one peer.

    `vector` is the model: (layout.size,) float32 on the device; its views are the parameters. `host` is the same on
    the CPU: the very same tensor there, a pinned copy for a GPU, kept equal by `to_host` and `to_device`. `move_to`
    puts another tensor in the place of `host`. `momentum` and `optimizer_state`: as of `build_optimizer`.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: data.Dataset,
        indices: npt.NDArray[np.int64],
        device: torch.device,
        peer: int,
        capture: Capture | None = None,
    ) -> None:
        """Build the model on its device, with its shard's batches.

        `capture`: how the step is captured to be replayed (`capture_for`); without it, it runs operation by operation.

        Raises ConfigError for a batch that the shard does not fill, or a model for which the GPU has no memory.
        """
        self.config = config
        self.device = device
        self.steps = 0
        self.relabel: Relabel | None = None  # labels of an attacker, in place of the data set's
        self._peer = peer
        self._dataset = dataset
        labels = dataset.train_labels[torch.tensor(indices, dtype=torch.int64)]
        self.class_counts: list[int] = labels.bincount(minlength=len(dataset.classes)).tolist()  # empty: trains nothing
        self._lr = math.nan  # of the last step
        self._lr_sum = 0.0  # over this round's steps
        self._given_momentum: Tensor | None = None  # by this round's request
        self.model = initial_model(config, len(dataset.classes))
        self.layout = Layout.of(self.model)
        with on_device(device, ConfigError):
            self._settle_in()
            self._batches = data.Batches(dataset, indices, config.training.batch_size, device, config.record.seed, peer)
            self._optimizer, self.optimizer_state = build_optimizer(config.training, self._parameters, self.momentum)
        self.steps_per_round = local_steps(config.training, self._batches.steps_per_epoch)
        self._schedule = StepSchedule(self._optimizer, config.training, self.steps_per_round * config.training.rounds)
        self._eager = Step(self.model, device, config.compute.precision)
        self._step = self._eager if capture is None else CapturedStep(self._eager, [self.vector], self._log, capture)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def _log(self) -> logging.Logger:
        """The peer's log, which its process has opened."""
        return logging.getLogger(f"p2pfl.peer.{self._peer}")

    def _settle_in(self) -> None:
        """Move the model into its vector on the device."""
        convert(self.model, lambda model: model.to(self.device))
        size = self.layout.size
        self.vector = torch.zeros(size, device=self.device) if self._on_gpu else aligned_vector(size)
        self._binding = self.layout.bind(self.model, self.vector)
        if not is_finite(self.vector):
            raise ConfigError(f"--model {self.config.model.model}: its initial weights are not finite")
        self._host_copy = host_copy_of(self.vector)
        self.to_host()  # a coordinator sends what stands there before anybody has trained
        self.momentum = torch.zeros_like(self.vector)
        named = dict(self.model.named_parameters())
        self._parameters = [(slot, named[slot.name]) for slot in self.layout.slots if slot.is_parameter]
        self._terms = GradientTerms(self._parameters)

    @property
    def host(self) -> Tensor:
        """The model as (layout.size,) float32 numbers on the host."""
        return self.vector if self._host_copy is None else self._host_copy.host

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return len(self._dataset.classes)

    @property
    def samples(self) -> int:
        """Training samples processed so far."""
        return self.steps * self.config.training.batch_size

    def train(
        self,
        round: int,
        progress: Callable[[int], None],
        stopped: Callable[[], bool],
        request: LocalTraining = PLAIN,
    ) -> TrainStats:
        """Take one round of local steps; `progress` is told about twice a second.

        None if the request re-estimates running statistics instead. The schedule follows the run's rounds, not this
        peer's own steps, since a client does not train in every one. The loss that is returned is that of the model,
        without the terms of the request. Without momentum in the settings, a given one has no effect.

        Raises Stopped between two steps, DivergenceError where the loss is no longer a finite number, TrainingError
        where the GPU has no memory left, ConfigError where an algorithm gives or carries momentum of another optimizer
        than SGD.
        """
        began = time.monotonic()
        if request.reestimates:
            with on_device(self.device), self._seeded(round), self._eager.autocast():
                reestimate(self.model, self._batches.images_of_epoch(0), stopped)
            return TrainStats(0.0, 0.0, 0, 0, time.monotonic() - began)
        with on_device(self.device):
            loss = self._train(round, progress, stopped, request) / self.steps_per_round
        progress(self.steps)
        if not math.isfinite(loss):
            raise DivergenceError(f"the training loss is {loss} in round {round}", remedy="lower --lr")
        samples = self.steps_per_round * self.config.training.batch_size
        seconds = time.monotonic() - began
        return TrainStats(loss, self._lr, samples, self.steps_per_round, seconds, self._lr_sum)

    def _train(
        self, round: int, progress: Callable[[int], None], stopped: Callable[[], bool], request: LocalTraining
    ) -> float:
        """A round's steps; returns the sum of their losses."""
        self.model.train()
        self._begin_momentum(request)
        self._schedule.seek((round - 1) * self.steps_per_round)
        self._terms.begin(request, self.vector)
        self._step.total.zero_()
        self._lr_sum = 0.0
        reported = time.monotonic()
        with self._seeded(round):
            for _ in range(self.steps_per_round):
                self._take_step(round)
                now = time.monotonic()
                if now - reported > _PROGRESS_SECONDS:
                    progress(self.steps)
                    reported = now
                if stopped():
                    raise Stopped(f"stopped in round {round}")
        self._terms.end()
        if request.carried_momentum is not None:
            request.carried_momentum.copy_(self.momentum)
        if self._on_gpu:
            sleep_until_done()
        return float(self._step.total)

    def _begin_momentum(self, request: LocalTraining) -> None:
        """Set the optimizer's state as a round's request has it."""
        given = request.momentum if isinstance(request.momentum, Tensor) else None
        carried = request.carried_momentum
        if (given is not None or carried is not None) and self.optimizer_state:
            name = self.config.training.optimizer
            raise ConfigError(f"--optimizer {name}: the algorithm sets the momentum of SGD; use --optimizer sgd")
        self._given_momentum = None if given is None else given.to(self.device)
        if carried is not None:
            self.momentum.copy_(carried)
        elif given is None and request.momentum == "reset":
            for tensor in (self.momentum, *self.optimizer_state.values()):
                tensor.zero_()

    def evaluate(
        self, samples: int, stopped: Callable[[], bool] = lambda: False, on: EvaluationSet = "test"
    ) -> EvalStats:
        """Accuracy and loss on a set, or on a fixed subset of it (0: all).

        Moves no statistics.
        """
        began = time.monotonic()
        self.model.eval()
        with on_device(self.device), torch.no_grad():
            batches = data.evaluation_batches(self._dataset, self.device, samples, self.config.record.seed, on=on)
            found = score(batches, self._predict, self.num_classes, self.device, stopped)
        is_whole = sum(found.counts) == len(data.evaluation_samples(self._dataset, on)[2])
        return replace(found.stats(time.monotonic() - began, self.class_counts, is_whole), on=on)

    def _predict(self, images: Tensor) -> Tensor:
        with self._eager.autocast():
            scores: Tensor = self.model(images)
        return scores

    def move_to(self, host: Tensor) -> None:
        """Hold the weights in another vector from now on.

        `host`: (layout.size,) float32, pinned for a GPU.

        On the CPU they are the model's at once; for a GPU, `to_device` brings them there. So that the mix of a round
        need not be copied back to where the model was: that took 7 ms of VGG-11's 42 ms a swap.
        """
        if self._host_copy is not None:
            self._host_copy.host = host
        elif host is not self.vector:
            self.vector = host
            self._binding.move_to(host)

    def to_host(self) -> None:
        """host := vector."""
        if self._host_copy is not None:
            self._host_copy.fetch()

    def to_device(self) -> None:
        """vector := host."""
        if self._host_copy is not None:
            self._host_copy.push()

    def restore(
        self, x: Tensor, momentum: Tensor, buffers: Mapping[str, Tensor], steps: int, optimizer: Mapping[str, Tensor]
    ) -> None:
        """Continue from a checkpoint.

        Tensors as `Layout` and `integer_buffers` describe them; `optimizer` as `optimizer_state` was.
        """
        self.vector.copy_(x)
        self.to_host()
        self.momentum.copy_(momentum)
        for name, tensor in self.optimizer_state.items():
            tensor.copy_(optimizer[name])
        for name, buffer in integer_buffers(self.model).items():
            buffer.copy_(buffers[name])
        self.steps = steps

    def _take_step(self, round: int) -> None:
        images, labels = self._batches.batch(self.steps)
        self._step(images, labels if self.relabel is None else self.relabel(round, labels))
        self._terms.add()
        if self._given_momentum is not None:
            self.momentum.copy_(self._given_momentum)
        self._lr = float(self._optimizer.param_groups[0]["lr"])
        self._lr_sum += self._lr
        self._optimizer.step()
        self.steps += 1
        self._schedule.advance()

    @contextmanager
    def _seeded(self, round: int) -> Iterator[None]:
        """Context in which the model draws from this round's own seed.

        Such as dropout in a user's model.
        """
        devices = [self.device] if self._on_gpu else []
        forked = torch.random.fork_rng(devices=devices)
        with RANDOMNESS:
            forked.__enter__()
            torch.manual_seed(seeding.derive(self.config.record.seed, "model", self._peer, round))
        try:
            yield
        finally:
            with RANDOMNESS:
                forked.__exit__(None, None, None)
