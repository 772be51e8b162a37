"""One training step: forward, loss, backward, added terms, and its CUDA graph."""

from __future__ import annotations

import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from p2pfl.errors import one_line
from p2pfl.model.vector import Slot, integer_buffers
from p2pfl.payload import LocalTraining
from p2pfl.training.device import is_out_of_memory

Work = Callable[[], None]
Capture = Callable[[Work, torch.device], Work]  # captures work on a device; returns its replay

WARM_UPS = 3  # runs before the capture, in which libraries choose their kernels and allocate: PyTorch's own number
_CAPTURING = threading.Lock()  # a process can capture only one graph at a time


def capture(work: Work, device: torch.device) -> Work:
    """Run `work` a few times on this GPU, then record it.

    Returns what replays the recording.

    Raises RuntimeError where it cannot be recorded, because it waits for the GPU (such as `.item()` does).
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with _CAPTURING, torch.cuda.device(device):
        before = torch.cuda.current_stream()
        stream.wait_stream(before)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        unspoiled = generator.clone_state()
        try:
            # The outer one, because a failed capture does not set the stream back.
            with torch.cuda.stream(stream):
                with _waiting_refused():
                    for _ in range(WARM_UPS):
                        work()
                # Another thread may well use the GPU meanwhile: it is not the one that is recorded.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    work()
        except BaseException:
            # In some versions of PyTorch a generator stays in a capture that failed, and draws no more.
            generator.graphsafe_set_state(unspoiled)
            raise
        finally:
            before.wait_stream(stream)
        torch.cuda.empty_cache()  # what only the warm-up needed
    return graph.replay


def capture_for(device: torch.device) -> Capture | None:
    """Capture of steps on a device: as a CUDA graph on a GPU, none on the CPU."""
    return capture if device.type == "cuda" else None


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Context in which operations that wait for the GPU raise RuntimeError.

    They do so before one can spoil a capture that has begun.

    For the whole process: during the warm-up nothing else in it may use the GPU, which only the training thread does.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it may miss some, which the capture itself then finds
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def untouched(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Context that restores these tensors and all random generators at its end."""
    kept = [tensor.clone() for tensor in tensors]
    own, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numpys)
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)


def host_draws() -> bytes:
    """State of the random generators on the host, which every draw changes."""
    _, keys, *rest = np.random.get_state(legacy=True)
    parts = (random.getstate(), np.asarray(keys).tobytes(), rest, torch.random.get_rng_state().numpy().tobytes())
    return repr(parts).encode()


class Step:
    """Operation by operation.

    A call leaves the gradients in `.grad` and adds the batch's mean loss to `total`.
    """

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
    """Terms that a round's request adds to each gradient, and the sum of gradients.

    Correction and proximal pull, after forward and backward.

    They are added outside of what a GPU has captured, to gradients whose places are fixed there.
    """

    def __init__(self, parameters: Sequence[tuple[Slot, Tensor]]) -> None:
        """`parameters`: each parameter with its place in a flat vector."""
        self._parameters = parameters
        self._correction: Tensor | None = None
        self._anchor: Tensor | None = None
        self._proximal = 0.0
        self._sum: Tensor | None = None
        self._wanted_sum: Tensor | None = None

    def begin(self, request: LocalTraining, vector: Tensor) -> None:
        """Take up a round's request.

        `vector` is the model, (size,) on its device, before the round's training.
        """
        self._proximal = request.proximal
        self._anchor = vector.clone() if request.proximal else None
        self._correction = None if request.correction is None else request.correction.to(vector.device)
        self._wanted_sum = request.gradient_sum
        self._sum = None if request.gradient_sum is None else torch.zeros_like(vector)

    def add(self) -> None:
        """Add the terms to the gradients of one step."""
        if self._correction is None and self._anchor is None and self._sum is None:
            return
        found = [(slot, weight.detach(), weight.grad) for slot, weight in self._parameters if weight.grad is not None]
        slots, weights, gradients = zip(*found, strict=True)
        if self._correction is not None:
            torch._foreach_add_(gradients, [slot.view(self._correction) for slot in slots])
        if self._sum is not None:
            torch._foreach_add_([slot.view(self._sum) for slot in slots], gradients)
        if self._anchor is not None:
            before = [slot.view(self._anchor) for slot in slots]
            torch._foreach_add_(gradients, torch._foreach_sub(weights, before), alpha=self._proximal)

    def end(self) -> None:
        """Hand over the sum of the round's gradients, if it was requested."""
        if self._wanted_sum is not None and self._sum is not None:
            self._wanted_sum.copy_(self._sum)


class CapturedStep:
    """A step that is captured on the first batch and replayed for all.

    One launch takes the place of some hundred.

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
        capture: Capture,
    ) -> None:
        """Prepare a step; it is captured with its first batch.

        `touched`: tensors that forward and backward write, besides the model's integer buffers and the loss.

        `capture` captures a step and returns what replays it.
        """
        self._step = step
        self._touched = [*touched, *integer_buffers(step.model).values(), step.total]
        self._log = log
        self._capture = capture
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
                self._replay = self._capture(lambda: self._step(self._x, self._y), self._step.device)
            except Exception as error:  # if the model itself is wrong, it says so again without a capture
                if is_out_of_memory(error):
                    raise
                problem = one_line(error)
            if host_draws() != drawn:
                problem, self._replay = "it draws random numbers on the host", None
        if problem:
            self._possible = False
            self._log.warning("the model cannot be captured as a CUDA graph and trains slower: %s", problem)
