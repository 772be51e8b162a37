"""Training on a GPU, against the CPU and against itself without a captured graph."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.helpers import CPU, images, small_config
from torch import nn

from p2pfl import RunConfig, data, make_topology, run_swarm
from p2pfl.algorithms import local_training_of
from p2pfl.errors import ConfigError, TrainingError
from p2pfl.experiment import run as swarm
from p2pfl.model.vector import integer_buffers
from p2pfl.preflight.gpus import check_gpus, requested_devices
from p2pfl.training import Trainer, initial_model
from p2pfl.training.step import Capture, CapturedStep, Step, Work, capture, untouched

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda", 0)
DATASET = images()
SHARD = np.arange(0, 48, 2)  # 24 samples: 3 batches of 8


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Full float32 in convolutions, and sums in the same order every time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


class CountingCapture:
    """Capture as a CUDA graph that counts its replays."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, work: Work, device: torch.device) -> Work:
        replay = capture(work, device)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


def trainer(config: RunConfig, device: torch.device = GPU, capture: Capture | None = None) -> Trainer:
    """Trainer that captures its steps, where it is given how."""
    return Trainer(config, DATASET, SHARD, device, 1, capture)


def run(peer: Trainer, *rounds: int) -> list[float]:
    """The rounds' losses, with an evaluation after each."""
    losses = []
    for round in rounds:
        losses.append(peer.train(round, lambda steps: None, lambda: False, local_training_of(peer.config)).loss)
        peer.to_host()
        peer.evaluate(7)
    return losses


def apart(one: Trainer, other: Trainer) -> float:
    """Distance of two peers, relative to the distance from their initial weights."""
    start = trainer(one.config, CPU).vector
    return float((one.host - other.host).norm() / (one.host - start).norm())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16"},
        {"model": "user_models:mixed_net"},
        {"proximal_mu": 0.1, "schedule": "cosine"},
    ],
    ids=["fp32", "bf16", "dropout", "fedprox"],
)
def test_a_captured_step_trains_as_an_eager_one(options: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(local_steps=4, **options)
    counting = CountingCapture()
    captured, eager = trainer(config, capture=counting), trainer(config)
    np.testing.assert_allclose(run(captured, 1, 2, 3), run(eager, 1, 2, 3), rtol=1e-3)
    assert counting.replays == captured.steps, caplog.text
    assert not caplog.messages
    assert apart(captured, eager) < 1e-2
    assert captured.layout.is_bound(captured.model, captured.vector)
    for name, buffer in integer_buffers(captured.model).items():
        assert torch.equal(buffer, integer_buffers(eager.model)[name]), name


def test_a_capture_changes_no_tensor_and_no_random_generator() -> None:
    peer = trainer(small_config(model="tests.unit.training.test_gpu:dropout_net"), capture=capture)
    peer.train(1, lambda steps: None, lambda: False)  # so that there is momentum
    peer.model.train()
    x, y = data.Batches(DATASET, SHARD, 8, GPU, seed=0, peer=1).batch(0)
    step = Step(peer.model, GPU, "fp32")
    replays: list[Work] = []

    def capture_only(work: Work, device: torch.device) -> Work:
        replays.append(capture(work, device))
        return lambda: None

    captured = CapturedStep(step, [peer.vector], logging.getLogger("p2pfl.peer.1"), capture_only)
    watched = [peer.vector, peer.momentum, step.total, *integer_buffers(peer.model).values()]
    before = [tensor.clone() for tensor in watched]
    states = torch.cuda.get_rng_state(GPU), torch.get_rng_state()
    captured(x, y)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(watched, before, strict=True))
    assert torch.equal(torch.cuda.get_rng_state(GPU), states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    [replay] = replays
    replay()
    assert not torch.equal(step.total, before[2])


def dropout_net(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.Flatten(), nn.Dropout(0.3), nn.Linear(512, num_classes)
    )


class Waits(nn.Module):
    """Model that waits for the GPU in its forward pass, in one of two ways.

    It does so before it draws random numbers.
    """

    def __init__(self, num_classes: int, by_item: bool) -> None:
        super().__init__()
        self.body = dropout_net(num_classes)
        self.by_item = by_item

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.by_item:
            assert x.mean().item() < 100
        elif x.is_cuda:
            torch.cuda.synchronize()
        scores: torch.Tensor = self.body(x)
        return scores


def waits_for_a_number(num_classes: int) -> nn.Module:
    return Waits(num_classes, True)


def waits_for_everything(num_classes: int) -> nn.Module:
    return Waits(num_classes, False)


@pytest.mark.parametrize("network", ["waits_for_a_number", "waits_for_everything"])
def test_a_model_that_cannot_be_captured_trains_eagerly(network: str, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config(model=f"tests.unit.training.test_gpu:{network}")
    counting = CountingCapture()
    peer, eager = trainer(config, capture=counting), trainer(config)
    np.testing.assert_allclose(run(peer, 1, 2), run(eager, 1, 2), rtol=1e-4)
    assert counting.replays == 0
    [line] = caplog.messages
    assert line.startswith("the model cannot be captured as a CUDA graph")
    # A failed capture has no effect on another model in this process.
    another = trainer(small_config(model="tests.unit.training.test_gpu:dropout_net"), capture=counting)
    run(another, 1)
    assert counting.replays == another.steps


def test_dropout_draws_in_replays_what_it_draws_eagerly() -> None:
    # Nothing but dropout tells the steps apart: the weights stand still, and every batch is the whole shard as it is.
    config = small_config(
        model="tests.unit.training.test_gpu:dropout_net", lr=1e-12, weight_decay=0.0, local_steps=3, batch_size=24
    )
    counting = CountingCapture()
    peers = [Trainer(config, images(augment=False), SHARD, GPU, 1, capture) for capture in (counting, None)]
    losses = [run(peer, 1, 2) for peer in peers]
    assert counting.replays == peers[0].steps
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-4)


def test_a_restored_peer_continues_with_its_captured_step() -> None:
    config = small_config(rounds=4, local_steps=1, schedule="constant")
    captures = CountingCapture(), CountingCapture()
    straight, restored = (trainer(config, capture=capture) for capture in captures)
    run(straight, 1)
    run(restored, 1, 2, 3)
    buffers = {name: buffer.clone() for name, buffer in integer_buffers(straight.model).items()}
    restored.restore(straight.vector, straight.momentum, buffers, straight.steps, {})
    np.testing.assert_allclose(run(straight, 2), run(restored, 2), rtol=1e-6)
    torch.testing.assert_close(straight.vector, restored.vector)
    assert [capture.replays for capture in captures] == [2, 4]


def test_adamw_takes_its_steps_beside_the_captured_graph() -> None:
    config = small_config(optimizer="adamw", lr=0.001, schedule="constant")
    captured, plain = trainer(config, capture=capture), trainer(config)
    np.testing.assert_allclose(run(captured, 1, 2), run(plain, 1, 2), rtol=1e-3)
    for peer in (captured, plain):
        assert {tensor.device.type for tensor in peer.optimizer_state.values()} == {"cuda"}
        assert peer.optimizer_state["steps"].eq(peer.steps).all()


def test_the_copy_on_the_host_goes_there_and_back() -> None:
    peer = trainer(small_config(), capture=capture)
    assert peer.host.is_pinned()
    assert peer.host.device.type == "cpu"
    assert torch.equal(peer.host, trainer(small_config(), CPU).vector)
    run(peer, 1)
    assert torch.equal(peer.host, peer.vector.cpu())
    peer.host.mul_(2)
    peer.to_device()
    assert torch.equal(peer.host, peer.vector.cpu())
    before = peer.vector.clone()
    run(peer, 2)
    assert not torch.equal(peer.vector, before)
    assert peer.layout.is_bound(peer.model, peer.vector)


def test_a_gpu_trains_as_a_cpu_does() -> None:
    config = small_config(rounds=2, lr=0.01)
    ours, reference = trainer(config, capture=capture), trainer(config, CPU)
    np.testing.assert_allclose(run(ours, 1, 2), run(reference, 1, 2), rtol=1e-3)
    assert apart(reference, ours) < 2e-2
    assert ours.evaluate(0).loss == pytest.approx(reference.evaluate(0).loss, rel=1e-2)


def test_untouched_brings_back_the_gpus_generator() -> None:
    before = torch.cuda.get_rng_state(GPU)
    kept = torch.ones(3, device=GPU)
    with untouched([kept], GPU):
        kept.add_(torch.rand(3, device=GPU))
    assert torch.equal(kept, torch.ones(3, device=GPU))
    assert torch.equal(torch.cuda.get_rng_state(GPU), before)


def test_a_model_or_batch_without_room_ends_in_one_line() -> None:
    free, total = torch.cuda.mem_get_info(GPU)
    torch.cuda.set_per_process_memory_fraction(0.002, GPU)
    try:
        with pytest.raises((ConfigError, TrainingError), match=r"^cuda:0: out of memory; choose fewer peers a GPU"):
            run(trainer(small_config(model="vgg19", width=2.0), capture=capture), 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
        torch.cuda.empty_cache()
    assert total >= free > 0


def test_the_estimate_covers_what_a_peer_takes() -> None:
    config = RunConfig.of(model="vgg11", batch_size=64, rounds=1, local_steps=3, dataset="digits", device="cuda:0")
    shard = 24
    use = check_gpus(config, requested_devices(make_topology("complete", 2)), shard, initial_model(config, 4))
    assert use is not None
    assert use.processes == {"cuda:0": 2}
    dataset = images(train=200, test=300)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    taken = torch.cuda.memory_reserved(GPU)
    counting = CountingCapture()
    peer = Trainer(config, dataset, np.arange(200), GPU, 0, counting)
    run(peer, 1)
    assert counting.replays == peer.steps
    assert torch.cuda.max_memory_reserved(GPU) - taken < use.need


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
def test_two_peers_on_one_gpu(tmp_path: Path, wire: str) -> None:
    data.prepare("digits", None, lambda *_: None)
    config = RunConfig.of(
        dataset="digits", model="vgg11", width=0.125, rounds=3, local_steps=4, batch_size=16, wire_dtype=wire,
        device="cuda:0", eval_samples=32, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    result = run_swarm(make_topology("complete", 2), config)
    assert result.summary["status"] == "complete"
    assert result.summary["final_consensus_distance"] < 1e-2
    for log in (tmp_path / "run").glob("peers/*/log.txt"):
        text = log.read_text()
        assert "on cuda:0" in text
        assert "cannot be captured" not in text


def test_clients_on_a_gpu_learn_what_they_learn_on_a_cpu(tmp_path: Path) -> None:
    data.prepare("digits", None, lambda *_: None)
    found = {}
    for device in ("cpu", "cuda:0"):
        config = RunConfig.of(
            mode="centralized", num_clients=2, num_selected=2, dataset="digits", model="vgg11", width=0.125, rounds=4,
            local_steps=16, batch_size=32, device=device, eval_samples=0, run_dir=str(tmp_path / device[:3]),
        )  # fmt: skip
        found[device] = swarm.run(config).summary
    assert found["cpu"]["consensus_accuracy"] > 0.5
    assert found["cuda:0"]["consensus_accuracy"] == pytest.approx(found["cpu"]["consensus_accuracy"], abs=0.1)


def test_too_many_peers_are_refused_before_one_starts(tmp_path: Path) -> None:
    config = RunConfig.of(
        dataset="digits", model="vgg11", width=0.125, batch_size=3, device="cuda:0", run_dir=str(tmp_path / "run")
    )
    with pytest.raises(ConfigError, match=r"^cuda:0: 400 processes of this run need .* GB are free, enough for \d+; "):
        run_swarm(make_topology("ring", 400), config)
    assert not (tmp_path / "run").exists()
