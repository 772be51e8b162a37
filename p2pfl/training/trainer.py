"""One model on one device: its local steps and its evaluation."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from p2pfl import data, seeding
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, P2PFLError, TrainingError
from p2pfl.models import build_model
from p2pfl.parameters import Layout, aligned_vector, integer_buffers
from p2pfl.plugins import one_line
from p2pfl.training.schedule import build_schedule, local_steps

_PROGRESS_SECONDS = 0.5
# torch's layers draw from one generator a process; peers that are threads (in tests) must not reseed it at once.
_RANDOMNESS = threading.Lock()


class Stopped(P2PFLError):
    """Training was asked to stop before the round was over."""


@dataclass(frozen=True)
class TrainStats:
    """One round of local training: mean loss over its steps, the last step's rate, samples, wall seconds."""

    loss: float
    lr: float
    samples: int
    seconds: float


@dataclass(frozen=True)
class EvalStats:
    """Accuracy in 0..1 and mean cross-entropy over `samples` test samples."""

    accuracy: float
    loss: float
    samples: int
    seconds: float


def initial_model(config: RunConfig, num_classes: int) -> nn.Module:
    """The model with the initial weights that the seed gives: the same in every peer."""
    with _RANDOMNESS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(config.record.seed, "init"))
        try:
            model = build_model(
                config.model.model,
                num_classes=num_classes,
                batch_norm=config.model.batch_norm,
                width=config.model.width,
            )
        except (RuntimeError, MemoryError) as error:  # out of memory is a RuntimeError in torch
            raise ConfigError(
                f"--model {config.model.model}, --width {config.model.width}: {one_line(error)}"
            ) from None
    return model.float()


class Trainer:
    """One peer's model, optimizer and shard.

    `vector` is the model: (layout.size,) float32 on the device; its views are the parameters. `host` is the same on
    the CPU: the very same tensor there, a pinned copy for a GPU, kept equal by `to_host` and `to_device`.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: data.Dataset,
        indices: npt.NDArray[np.int64],
        device: torch.device,
        peer: int,
    ) -> None:
        self.config = config
        self.device = device
        self.steps = 0
        self._peer = peer
        self._dataset = dataset
        self.model = initial_model(config, len(dataset.classes)).to(device)
        self.layout = Layout.of(self.model)
        self.host = aligned_vector(self.layout.size, pin=device.type == "cuda")
        self.vector = self.host if device.type == "cpu" else torch.zeros_like(self.host, device=device)
        self.layout.bind(self.model, self.vector)
        self.momentum = torch.zeros_like(self.vector)
        named = dict(self.model.named_parameters())
        self._parameters = [(slot, named[slot.name]) for slot in self.layout.slots if slot.is_parameter]
        self._lr = math.nan  # of the last step
        self._batches = data.Batches(dataset, indices, config.training.batch_size, device, config.record.seed, peer)
        self.steps_per_round = local_steps(config.training, self._batches.steps_per_epoch)
        self._optimizer = self._build_optimizer()
        self._schedule = build_schedule(self._optimizer, config.training, self.steps_per_round * config.training.rounds)
        self._scheduled = 0  # steps that the schedule has been moved on by
        self._anchor: Tensor | None = None  # the weights that FedProx pulls back to: those before this round's training

    @property
    def samples(self) -> int:
        """Training samples processed so far."""
        return self.steps * self.config.training.batch_size

    def train(self, round: int, progress: Callable[[int], None], stopped: Callable[[], bool]) -> TrainStats:
        """One round of local steps. `progress` is told the steps done so far, about twice a second.

        The schedule follows the run's rounds, not this peer's own steps, since a client does not train in every one.
        With --proximal-mu the loss has FedProx's term μ/2 ‖w − w_before‖² (Li et al. 2020, algorithm 2), which is not
        in the loss that is returned.

        Raises Stopped between two steps, TrainingError where the loss is no longer a finite number.
        """
        began = reported = time.monotonic()
        self.model.train()
        if self.config.training.reset_momentum:
            self.momentum.zero_()
        self._seek_schedule((round - 1) * self.steps_per_round)
        if self._proximal_mu:
            self._anchor = self.vector.clone()
        total = torch.zeros((), device=self.device)
        with self._seeded(round):
            for _ in range(self.steps_per_round):
                total += self._step()
                now = time.monotonic()
                if now - reported > _PROGRESS_SECONDS:
                    progress(self.steps)
                    reported = now
                if stopped():
                    raise Stopped(f"stopped in round {round}")
        progress(self.steps)
        loss = float(total) / self.steps_per_round
        if not math.isfinite(loss):
            raise TrainingError(f"the training loss is {loss} in round {round}: lower --lr")
        samples = self.steps_per_round * self.config.training.batch_size
        return TrainStats(loss, self._lr, samples, time.monotonic() - began)

    def evaluate(self, samples: int, stopped: Callable[[], bool] = lambda: False) -> EvalStats:
        """Accuracy and loss on the test set, or on a fixed subset of it (0: all). Moves no statistics."""
        began = time.monotonic()
        self.model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        count = 0
        with torch.no_grad():
            for x, y in data.evaluation_batches(self._dataset, self.device, samples, self.config.record.seed):
                with self._autocast():
                    scores = self.model(x)
                correct += (scores.argmax(1) == y).sum()
                loss += functional.cross_entropy(scores.float(), y, reduction="sum")
                count += len(y)
                if stopped():
                    raise Stopped("stopped during an evaluation")
        return EvalStats(int(correct) / count, float(loss) / count, count, time.monotonic() - began)

    def to_host(self) -> None:
        """host := vector."""
        if self.host is not self.vector:
            self.host.copy_(self.vector)

    def to_device(self) -> None:
        """vector := host."""
        if self.host is not self.vector:
            self.vector.copy_(self.host)

    def restore(self, x: Tensor, momentum: Tensor, buffers: dict[str, Tensor], steps: int) -> None:
        """Go on from a checkpoint: tensors as `Layout` and `integer_buffers` describe them."""
        self.vector.copy_(x)
        self.to_host()
        self.momentum.copy_(momentum)
        for name, buffer in integer_buffers(self.model).items():
            buffer.copy_(buffers[name])
        self.steps = steps

    def _step(self) -> Tensor:
        x, y = self._batches.batch(self.steps)
        with self._autocast():
            scores = self.model(x)
        loss = functional.cross_entropy(scores.float(), y)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._anchor is not None:
            self._pull(self._anchor)
        self._lr = float(self._optimizer.param_groups[0]["lr"])
        self._optimizer.step()
        self.steps += 1
        self._advance_schedule()
        return loss.detach()

    @property
    def _proximal_mu(self) -> float:
        return self.config.server.proximal_mu

    def _pull(self, anchor: Tensor) -> None:
        """Add the gradient of FedProx's term, μ (w − w_before)."""
        for slot, parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.add_(slot.view(self.vector) - slot.view(anchor), alpha=self._proximal_mu)

    def _advance_schedule(self) -> None:
        self._scheduled += 1
        if self._schedule is not None:
            self._schedule.step()

    def _seek_schedule(self, steps: int) -> None:
        """Move the schedule on to where the run is after so many steps."""
        with warnings.catch_warnings():  # torch warns of schedule steps that follow no optimizer step
            warnings.simplefilter("ignore", UserWarning)
            while self._scheduled < steps:
                self._advance_schedule()

    def _build_optimizer(self) -> torch.optim.SGD:
        training = self.config.training
        optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=training.lr,
            momentum=training.momentum,
            nesterov=training.momentum > 0,
            weight_decay=training.weight_decay,
            fused=True,
        )
        if training.momentum > 0:
            # The buffers are views of one vector, laid out like the model, so that a checkpoint is two vectors.
            for slot, parameter in self._parameters:
                optimizer.state[parameter]["momentum_buffer"] = slot.view(self.momentum)
        return optimizer

    def _autocast(self) -> torch.autocast:
        enabled = self.config.compute.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    @contextmanager
    def _seeded(self, round: int) -> Iterator[None]:
        """Randomness inside the model (dropout in a user's own) is drawn from this round's own seed."""
        devices = [self.device] if self.device.type == "cuda" else []
        forked = torch.random.fork_rng(devices=devices)
        with _RANDOMNESS:
            forked.__enter__()
            torch.manual_seed(seeding.derive(self.config.record.seed, "model", self._peer, round))
        try:
            yield
        finally:
            with _RANDOMNESS:
                forked.__exit__(None, None, None)
