"""Local training: equal to plain torch, resumed to the same bits, evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.helpers import CPU, images, small_config
from torch import nn
from torch.nn import functional

from p2pfl.algorithms import local_training_of
from p2pfl.config import RunConfig, TrainingConfig
from p2pfl.data import Batches, evaluation_batches
from p2pfl.errors import ConfigError, TrainingError
from p2pfl.model.vector import aligned_vector, integer_buffers
from p2pfl.payload import LocalTraining
from p2pfl.run import checkpoint
from p2pfl.training import Stopped, Trainer, build_schedule, initial_model, local_steps
from p2pfl.training.evaluation import score

SHARD = np.arange(0, 48, 2)  # 24 samples: 3 batches of 8
DATASET = images()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: on a busy machine several would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trainer(config: RunConfig, peer: int = 1) -> Trainer:
    return Trainer(config, DATASET, SHARD, CPU, peer)


def run(trainer: Trainer, *rounds: int) -> list[float]:
    request = local_training_of(trainer.config)
    return [trainer.train(round, lambda steps: None, lambda: False, request).loss for round in rounds]


def plain_training(config: RunConfig, model: nn.Module, rounds: int) -> list[float]:
    """The same by torch alone: unbound model, its own optimizer, torch's OneCycleLR."""
    training = config.training
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), training.lr, training.momentum, weight_decay=training.weight_decay, nesterov=True
    )
    batches = Batches(DATASET, SHARD, training.batch_size, CPU, config.record.seed, 1)
    total = training.rounds * 2
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.lr, total_steps=total, pct_start=0.2, base_momentum=0.85, max_momentum=0.95
    )
    losses = []
    for step in range(2 * rounds):
        x, y = batches.batch(step)
        loss = functional.cross_entropy(model.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return [float(np.mean(losses[2 * i : 2 * i + 2])) for i in range(rounds)]


@pytest.mark.parametrize("network", ["vgg11", "user_models:mixed_net"])
def test_bound_and_fused_training_equals_plain_torch(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)  # its generator is the trainer's own
    config = small_config(model=network, rounds=10)
    peer, plain = trainer(config), initial_model(config, 4)
    losses = run(peer, 1, 2, 3)
    np.testing.assert_allclose(losses, plain_training(config, plain, 3), rtol=1e-5)
    expected = plain.state_dict()
    for name, value in peer.model.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert peer.layout.is_bound(peer.model, peer.vector)
    assert peer.momentum.any()


def test_no_momentum_is_plain_sgd() -> None:
    config = small_config(momentum=0.0, weight_decay=0.0, schedule="constant", local_steps=1, norm="none")
    peer, plain = trainer(config), initial_model(config, 4)
    batch = Batches(DATASET, SHARD, 8, CPU, 0, 1).batch(0)
    functional.cross_entropy(plain(batch[0]), batch[1]).backward()
    run(peer, 1)
    moved = dict(peer.model.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(moved[name], parameter - 0.05 * parameter.grad)
    assert not peer.momentum.any()


def resumed(config: RunConfig, peer: Trainer, folder: Path) -> Trainer:
    """New trainer that continues from another one's checkpoint, through a file."""
    buffers = integer_buffers(peer.model)
    vectors = peer.host, peer.momentum, buffers, peer.optimizer_state
    saved = checkpoint.Checkpoint(1, peer.steps, peer.layout.digest, "", *vectors)
    found = checkpoint.load(checkpoint.save(folder, saved))
    following = trainer(config)
    following.restore(found.x, found.momentum, found.buffers, found.steps, found.optimizer)
    return following


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "user_models:mixed_net"},
        {"schedule": "cosine", "local_steps": 5},
        {"reset_momentum": True},
        {"optimizer": "adamw", "lr": 0.003, "model": "user_models:mixed_net"},
    ],
    ids=["onecycle", "dropout", "cosine", "reset momentum", "adamw"],
)
def test_a_resumed_round_repeats_the_same_bits(tmp_path: Path, options: dict[str, object]) -> None:
    config = small_config(**options)
    straight = trainer(config)
    run(straight, 1)
    following = resumed(config, straight, tmp_path)
    assert run(straight, 2, 3) == run(following, 2, 3)
    assert torch.equal(straight.vector, following.vector)
    assert torch.equal(straight.momentum, following.momentum)
    for name, tensor in straight.optimizer_state.items():
        assert torch.equal(tensor, following.optimizer_state[name])
    assert straight.steps == following.steps
    assert straight.samples == straight.steps * 8
    for name, buffer in integer_buffers(straight.model).items():
        assert torch.equal(buffer, integer_buffers(following.model)[name])


def test_a_model_that_changes_between_vectors_trains_to_the_same_bits() -> None:
    moved, plain = trainer(small_config(rounds=20)), trainer(small_config(rounds=20))
    first, second = moved.vector, aligned_vector(moved.layout.size)
    for round in (1, 2, 3):
        before, after = (first, second) if round % 2 else (second, first)
        assert run(moved, round) == run(plain, round)
        after.copy_(before)  # as a mix of one vector with itself
        left = before.clone()
        moved.move_to(after)
        assert moved.vector is moved.host is after
        assert moved.layout.is_bound(moved.model, after)
        run(moved, round + 10)
        run(plain, round + 10)
        assert torch.equal(before, left), "a vector that neighbors may still take is not written"
    assert torch.equal(moved.vector, plain.vector)
    assert torch.equal(moved.momentum, plain.momentum)
    assert moved.evaluate(0).loss == plain.evaluate(0).loss


def test_peers_start_equal_and_see_different_batches() -> None:
    one, other = trainer(small_config(), 1), trainer(small_config(), 2)
    assert torch.equal(one.vector, other.vector)
    run(one, 1)
    run(other, 1)
    assert not torch.equal(one.vector, other.vector)
    assert not torch.equal(trainer(small_config(seed=1)).vector, trainer(small_config()).vector)


def test_dropout_differs_by_round_and_peer() -> None:
    config = small_config(model="user_models:mixed_net", batch_size=24, local_steps=1)
    made = {}
    for peer, round in [(1, 1), (1, 2), (2, 1)]:
        made[peer, round] = trainer(config, peer)
        run(made[peer, round], round)
    assert not torch.equal(made[1, 1].vector, made[1, 2].vector)
    # One batch is the whole shard, so that only its order and the dropout tell the peers apart.
    assert not torch.allclose(made[1, 1].vector, made[2, 1].vector, atol=1e-4)


def test_training_leaves_global_randomness_alone() -> None:
    config = small_config(model="user_models:mixed_net")
    before = torch.random.get_rng_state()
    run(trainer(config), 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reset_momentum_forgets_at_the_start_of_every_round() -> None:
    kept, reset = trainer(small_config()), trainer(small_config(reset_momentum=True))
    for peer in (kept, reset):
        run(peer, 1)
    assert torch.equal(kept.vector, reset.vector)
    kept.momentum.zero_()
    for peer in (kept, reset):
        run(peer, 2)
    assert torch.equal(kept.vector, reset.vector)
    run(kept, 3)
    run(reset, 3)
    assert not torch.equal(kept.vector, reset.vector)


def test_the_sum_of_gradients_is_what_plain_sgd_moves_by() -> None:
    """Σ (g + c) = (x before − x after) / lr, and 0 at the places of buffers."""
    peer = trainer(small_config(momentum=0.0, weight_decay=0.0, schedule="constant", local_steps=3, lr=0.5))
    total = torch.ones_like(peer.vector)
    before = peer.vector.clone()
    request = LocalTraining(correction=torch.linspace(-0.1, 0.1, peer.layout.size), gradient_sum=total)
    stats = peer.train(1, lambda steps: None, lambda: False, request)
    assert stats.lr_sum == 1.5
    for slot in peer.layout.slots:
        moved = slot.view(before - peer.vector) / 0.5
        expected = moved if slot.is_parameter else torch.zeros_like(moved)
        torch.testing.assert_close(slot.view(total), expected, rtol=1e-4, atol=1e-5)


def test_a_correction_is_added_to_every_gradient() -> None:
    """With plain SGD, the correction moves each parameter by −lr times itself.

    It moves no buffer.
    """
    config = small_config(momentum=0.0, weight_decay=0.0, schedule="constant", local_steps=1, lr=0.5)
    plain, corrected = trainer(config), trainer(config)
    correction = torch.linspace(-1, 1, plain.layout.size)
    plain.train(1, lambda steps: None, lambda: False)
    corrected.train(1, lambda steps: None, lambda: False, LocalTraining(correction=correction))
    for slot in plain.layout.slots:
        found = slot.view(corrected.vector) - slot.view(plain.vector)
        expected = -0.5 * slot.view(correction) if slot.is_parameter else torch.zeros(slot.shape)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    corrected.vector.copy_(plain.vector)
    for peer in (plain, corrected):
        peer.train(2, lambda steps: None, lambda: False)
    assert torch.equal(plain.vector, corrected.vector), "the next round has no correction any longer"


def test_given_momentum_starts_every_step() -> None:
    """Two steps from a given buffer m equal two rounds of one step each.

    Their buffer is set to m before each.
    """
    config = small_config(schedule="constant", local_steps=2)
    given = trainer(config)
    momentum = torch.linspace(-0.1, 0.1, given.layout.size)
    given.train(1, lambda steps: None, lambda: False, LocalTraining(momentum=momentum))
    steps = trainer(small_config(schedule="constant", local_steps=1))
    for round in (1, 2):
        steps.momentum.copy_(momentum)
        steps.train(round, lambda steps: None, lambda: False)
    assert torch.equal(given.vector, steps.vector)
    assert torch.equal(momentum, torch.linspace(-0.1, 0.1, given.layout.size))


@pytest.mark.parametrize("samples", [0, 7])
def test_evaluation_is_right_and_moves_nothing(samples: int) -> None:
    peer = trainer(small_config())
    run(peer, 1)
    vector, buffers = peer.vector.clone(), {n: b.clone() for n, b in integer_buffers(peer.model).items()}
    result = peer.evaluate(samples)
    again = peer.evaluate(samples)
    assert (result.accuracy, result.loss, result.samples) == (again.accuracy, again.loss, again.samples)
    assert torch.equal(peer.vector, vector)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in integer_buffers(peer.model).items())
    assert result.samples == (samples or 20)
    peer.model.eval()
    x, y = (torch.cat(parts) for parts in zip(*evaluation_batches(DATASET, CPU, samples, 0), strict=True))
    with torch.no_grad():
        scores = peer.model(x)
    assert result.accuracy == pytest.approx((scores.argmax(1) == y).double().mean().item())
    assert result.loss == pytest.approx(functional.cross_entropy(scores, y).item(), rel=1e-5)
    run(peer, 2)
    assert peer.model.training, "training after an evaluation is in training mode"


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    peer = trainer(small_config(lr=1000.0, norm="none"))
    with pytest.raises(TrainingError, match=r"training loss is (nan|inf) in round .; lower --lr"):
        run(peer, 1, 2, 3)


def test_stopping_between_two_steps() -> None:
    peer = trainer(small_config(local_steps=5))
    with pytest.raises(Stopped):
        peer.train(1, lambda steps: None, lambda: peer.steps == 2)
    assert peer.steps == 2
    with pytest.raises(Stopped):
        peer.evaluate(0, lambda: True)


def test_progress_ends_with_all_steps() -> None:
    told: list[int] = []
    peer = trainer(small_config(local_steps=4))
    peer.train(1, told.append, lambda: False)
    assert told[-1] == peer.steps == 4
    assert told == sorted(told)


def test_bf16_trains_close_to_fp32_with_float32_weights() -> None:
    exact, coarse = (trainer(small_config(lr=0.01, precision=precision)) for precision in ("fp32", "bf16"))
    losses = run(exact, 1), run(coarse, 1)
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.02)
    assert coarse.vector.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in coarse.model.parameters())
    assert 0 < coarse.evaluate(0).loss < 10


def rates(training: TrainingConfig, total: int) -> list[tuple[float, float]]:
    """(learning rate, momentum) of each step."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=training.lr, momentum=training.momentum)
    schedule = build_schedule(optimizer, training, total)
    found = []
    for _ in range(total):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


def test_onecycle_is_torchs_own() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=50, pct_start=0.2)
    for lr, momentum in rates(TrainingConfig(), 50):
        assert (lr, momentum) == pytest.approx((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("total", [*range(1, 12), 200])
@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.98])
def test_schedules_of_any_length(schedule: str, total: int, momentum: float) -> None:
    found = rates(TrainingConfig(schedule=schedule, momentum=momentum, lr=0.1), total)  # type: ignore[arg-type]
    assert all(0 <= lr <= 0.1 + 1e-9 for lr, _ in found)
    assert all(0 <= used < 1 for _, used in found)
    assert all(used == momentum for _, used in found) or schedule == "onecycle"
    if total == 200:
        lowest = {"onecycle": 1e-4, "cosine": 1e-4, "constant": 0.1}[schedule]
        assert found[-1][0] <= lowest
        assert max(lr for lr, _ in found) == pytest.approx(0.1, rel=1e-3)


def test_an_evaluation_tells_the_accuracy_of_each_class() -> None:
    scores = {0: [2.0, 1.0, 0.0], 1: [0.0, 3.0, 1.0], 2: [1.0, 0.0, 0.0]}  # of the images of each class
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    images = labels.clone()

    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([scores[int(label)] for label in x])

    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    found = score(batches, predict, 4, torch.device("cpu"), lambda: False)
    assert (found.correct, found.counts) == ([2, 1, 0, 0], [2, 1, 3, 0])
    stats = found.stats(1.0, [1, 0, 3, 6], is_whole=True)
    assert stats.class_accuracy == [1.0, 1.0, 0.0, None]
    assert stats.accuracy == 0.5
    assert stats.own_accuracy == 0.25, "a quarter of its samples that can be tested are of class 0"
    assert stats.loss == pytest.approx(float(torch.nn.functional.cross_entropy(predict(images), labels)))
    assert found.stats(1.0, [], is_whole=True).own_accuracy is None, "it trains nothing"
    assert found.stats(1.0, [0, 0, 0, 6], is_whole=True).own_accuracy is None


def test_local_steps() -> None:
    assert local_steps(TrainingConfig(local_epochs=2), 5) == 10
    assert local_steps(TrainingConfig(local_steps=3), 5) == 3
    assert local_steps(TrainingConfig(), 5) == 5
    with pytest.raises(ConfigError, match="--batch-size 32: larger than a peer's shard"):
        local_steps(TrainingConfig(), 0)
    assert trainer(small_config(local_steps=None, local_epochs=2)).steps_per_round == 6


def test_a_model_of_other_number_formats_is_made_float32() -> None:
    assert trainer(small_config(model="tests.unit.training.test_trainer:double_net")).vector.dtype == torch.float32


def double_net(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes)).double()
