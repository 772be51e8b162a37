"""Captured steps on the CPU: same bits as eager steps, no side effects, fallback."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.support.helpers import CPU, images, small_config
from torch import Tensor, nn

from p2pfl import data
from p2pfl.algorithms import local_training_of
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, TrainingError
from p2pfl.model.vector import integer_buffers
from p2pfl.training import Trainer, make_current
from p2pfl.training import trainer as trainer_module
from p2pfl.training.device import is_out_of_memory, on_device
from p2pfl.training.step import Work, host_draws, untouched

DATASET = images()
SHARD = np.arange(24)


class FakeCapture:
    """Stand-in for a CUDA graph: runs the work three times, and once at each replay."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0
        self.replays = 0

    def __call__(self, work: Work, device: torch.device) -> Work:
        self.calls += 1
        for _ in range(3):
            work()
        if self.error is not None:
            raise self.error

        def replay() -> None:
            self.replays += 1
            work()

        return replay


def trainer(config: RunConfig, capture: FakeCapture | None = None) -> Trainer:
    return Trainer(config, DATASET, SHARD, CPU, 1, capture)


def run(peer: Trainer, *rounds: int) -> list[float]:
    losses = []
    for round in rounds:
        losses.append(peer.train(round, lambda steps: None, lambda: False, local_training_of(peer.config)).loss)
        losses.append(peer.evaluate(7).loss)
    return losses


def assert_same(one: Trainer, other: Trainer) -> None:
    assert torch.equal(one.vector, other.vector)
    assert torch.equal(one.momentum, other.momentum)
    for name, buffer in integer_buffers(one.model).items():
        assert torch.equal(buffer, integer_buffers(other.model)[name])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_replayed_step_trains_the_same_bits(optimizer: str) -> None:
    capture, config = FakeCapture(), small_config(optimizer=optimizer, lr=0.003)
    plain, captured = trainer(config), trainer(config, capture)
    assert run(plain, 1, 2) == run(captured, 1, 2)
    captured.restore(plain.vector, plain.momentum, integer_buffers(plain.model), plain.steps, plain.optimizer_state)
    assert run(plain, 3) == run(captured, 3)
    assert_same(plain, captured)
    assert (capture.calls, capture.replays) == (1, captured.steps)


@pytest.mark.parametrize("network", ["vgg11", "user_models:mixed_net"])
def test_a_model_that_cannot_be_captured_trains_the_same_and_says_so_once(
    network: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = small_config(model=network)
    # The other network has dropout, which on the CPU draws on the host.
    capture = FakeCapture(RuntimeError("called a synchronizing\nCUDA operation") if network == "vgg11" else None)
    plain, captured = trainer(config), trainer(config, capture)
    assert run(plain, 1, 2) == run(captured, 1, 2)
    assert_same(plain, captured)
    assert (capture.calls, capture.replays) == (1, 0)
    [line] = caplog.messages
    assert line.startswith("the model cannot be captured as a CUDA graph and trains slower: ")
    assert "synchronizing CUDA operation" in line or "draws random numbers on the host" in line


def test_memory_that_is_used_up_while_capturing_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    peer = trainer(small_config(), FakeCapture(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))
    with pytest.raises(TrainingError, match=r"^cpu: out of memory; choose fewer peers a GPU, a smaller --batch-size"):
        run(peer, 1)
    assert not caplog.messages


def test_nothing_done_inside_leaves_a_trace() -> None:
    kept, other = torch.zeros(4), torch.zeros(4)

    def work() -> None:
        kept.add_(torch.rand(4))
        other.add_(1)
        random.random()
        np.random.random()
        raise ValueError("inside")

    before = host_draws()
    with pytest.raises(ValueError, match="inside"), untouched([kept], CPU):
        work()
    assert not kept.any()
    assert other.all()
    assert host_draws() == before


@pytest.mark.parametrize(
    "draw", [random.random, np.random.random, lambda: torch.rand(1), lambda: nn.functional.dropout(torch.ones(3))]
)
def test_drawing_on_the_host_is_noticed(draw: object) -> None:
    before = host_draws()
    assert host_draws() == before
    with untouched([], CPU):
        draw()  # type: ignore[operator]
        assert host_draws() != before
    assert host_draws() == before


def test_on_the_cpu_the_model_on_the_host_is_the_vector_itself() -> None:
    peer = trainer(small_config())
    before = peer.vector.clone()
    peer.to_host()
    peer.to_device()
    assert peer.host is peer.vector
    assert torch.equal(peer.vector, before)


class Copy:
    """Stands in for a GPU's copy on the host."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self.host = torch.zeros_like(vector)

    def fetch(self) -> None:
        self.host.copy_(self.vector)


def test_a_copy_on_the_host_has_the_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trainer(small_config())
    monkeypatch.setattr(trainer_module, "host_copy_of", Copy)
    peer = trainer(small_config())
    assert peer.host is not peer.vector
    assert torch.equal(peer.host, plain.vector)  # which a coordinator sends before anybody has trained


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_memory_that_is_used_up_becomes_one_line_with_remedies(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
    with pytest.raises(ConfigError if expected else type(error)) as caught, on_device(CPU, ConfigError):
        raise error
    if expected:
        assert str(caught.value).startswith("cpu: out of memory; choose fewer peers")
        assert "--precision bf16" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_gpu_without_room_for_a_context_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "set_device", full)
    with pytest.raises(ConfigError, match=r"^cuda:0: out of memory; choose fewer peers[^\n]*$"):
        make_current(gpu)
    monkeypatch.setattr(torch.cuda, "device", full)
    with pytest.raises(TrainingError, match=r"^cuda:0: out of memory; choose fewer peers[^\n]*$"), on_device(gpu):
        pytest.fail("there is no context to compute in")


def test_memory_that_is_used_up_by_the_model_or_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    peer = trainer(small_config())
    monkeypatch.setattr(data, "evaluation_batches", full)
    with pytest.raises(TrainingError, match="out of memory"):
        peer.evaluate(0)
    monkeypatch.setattr(trainer_module, "convert", full)
    with pytest.raises(ConfigError, match="out of memory"):
        trainer(small_config())
