"""One training step: forward, loss and backward of a batch, captured on a GPU; terms added to its gradients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from p2pfl.algorithms.base import LocalTraining
from p2pfl.errors import one_line
from p2pfl.model.vector import Slot, integer_buffers
from p2pfl.training.capture import Work, capture, host_draws, untouched
from p2pfl.training.memory import is_out_of_memory


class Step:
    """Operation by operation. A call leaves the gradients in `.grad` and adds the batch's mean loss to `total`."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        self.total = torch.zeros((), device=device)
        self.device = device
        self.model = model
        self._weights = list(model.parameters())
        self._bf16 = precision == "bf16"

    def autocast(self) -> torch.autocast:
        """The context in which the model runs, also when it is evaluated."""
        # A GPU's step is captured, and what a capture leaves in the cache of casts must not be found later.
        cached = self.device.type == "cpu"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16, cache_enabled=cached)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Images (B, 3, 32, 32) float32 and labels (B,) int64, both on the device."""
        # Gradients become new tensors. In a capture that gives them their places for good: a replay overwrites them.
        for weight in self._weights:
            weight.grad = None
        with self.autocast():
            scores = self.model(x)
        loss = functional.cross_entropy(scores.float(), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.total += loss.detach()


class GradientTerms:
    """Terms that a round's request adds to each gradient, after forward and backward: correction and proximal pull.

    They are added outside of what a GPU has captured, to gradients whose places are fixed there.
    """

    def __init__(self, parameters: Sequence[tuple[Slot, Tensor]]) -> None:
        """`parameters`: each parameter with its place in a flat vector."""
        self._parameters = parameters
        self._correction: Tensor | None = None
        self._anchor: Tensor | None = None
        self._proximal = 0.0

    def begin(self, request: LocalTraining, vector: Tensor) -> None:
        """Take up a round's request; `vector` is the model, (size,) on its device, before the round's training."""
        self._proximal = request.proximal
        self._anchor = vector.clone() if request.proximal else None
        self._correction = None if request.correction is None else request.correction.to(vector.device)

    def add(self) -> None:
        """Add the terms to the gradients of one step."""
        if self._correction is None and self._anchor is None:
            return
        found = [(slot, weight.detach(), weight.grad) for slot, weight in self._parameters if weight.grad is not None]
        slots, weights, gradients = zip(*found, strict=True)
        if self._correction is not None:
            torch._foreach_add_(gradients, [slot.view(self._correction) for slot in slots])
        if self._anchor is not None:
            before = [slot.view(self._anchor) for slot in slots]
            torch._foreach_add_(gradients, torch._foreach_sub(weights, before), alpha=self._proximal)


class CapturedStep:
    """The same step, captured on the first batch and replayed for all: one launch instead of some hundred.

    The optimizer's step is none of it: the schedule moves learning rate and momentum, which a captured kernel would
    keep. Captured addresses stay right, because on a GPU the model's tensors are views of one vector that is only ever
    written in place (`Trainer.move_to` changes what it is copied from). A model that cannot be captured is trained
    operation by operation, after one line of warning.
    """

    def __init__(
        self,
        step: Step,
        touched: Sequence[Tensor],
        log: logging.Logger,
        record: Callable[[Work, torch.device], Work] = capture,
    ) -> None:
        """`touched`: what forward and backward write, besides the model's integer buffers and the loss.

        `record` makes the recording and returns what replays it.
        """
        self._step = step
        self._touched = [*touched, *integer_buffers(step.model).values(), step.total]
        self._log = log
        self._record = record
        self._x = self._y = torch.empty(0)
        self._replay: Work | None = None
        self._possible = True

    @property
    def total(self) -> Tensor:
        """The sum of the losses since it was last set to zero."""
        return self._step.total

    def __call__(self, x: Tensor, y: Tensor) -> None:
        if self._replay is None and self._possible:
            self._begin(x, y)
        if self._replay is None:
            self._step(x, y)
            return
        self._x.copy_(x)
        self._y.copy_(y)
        self._replay()

    def _begin(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x.clone(), y.clone()
        drawn = host_draws()
        problem = ""
        with untouched(self._touched, self._step.device):
            try:
                self._replay = self._record(lambda: self._step(self._x, self._y), self._step.device)
            except Exception as error:  # if the model itself is wrong, it says so again without a capture
                if is_out_of_memory(error):
                    raise
                problem = one_line(error)
            if host_draws() != drawn:
                problem, self._replay = "it draws random numbers on the host", None
        if problem:
            self._possible = False
            self._log.warning("the model cannot be captured as a CUDA graph and trains slower: %s", problem)
