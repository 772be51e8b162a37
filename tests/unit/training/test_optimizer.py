"""AdamW step by step as torch's, requests to it, and carried momentum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.helpers import CPU, images, small_config
from torch.nn import functional

from p2pfl.data import Batches
from p2pfl.errors import ConfigError
from p2pfl.payload import LocalTraining
from p2pfl.training import Trainer, initial_model
from p2pfl.training.optimizer import rate_notes

SHARD = np.arange(24)
DATASET = images()
ADAMW = {"optimizer": "adamw", "lr": 0.003, "local_steps": 1}
ONE_LAYER = {"model": "user_models:linear", "weight_decay": 0.0, "schedule": "constant"}


def trainer(**options: object) -> Trainer:
    return Trainer(small_config(**options), DATASET, SHARD, CPU, 1)


def train(peer: Trainer, round: int, request: LocalTraining = LocalTraining()) -> None:  # noqa: B008
    peer.train(round, lambda steps: None, lambda: False, request)


def test_adamw_is_torchs_own_step_by_step() -> None:
    """With a decoupled decay, and a one-cycle schedule that moves β₁.

    Without batch normalization, before which the gradient of a bias is rounding noise that AdamW scales up.
    """
    options = {**ADAMW, "norm": "none", "rounds": 10, "weight_decay": 0.1, "momentum": 0.8}
    peer, config = trainer(**options), small_config(**options)
    plain = initial_model(config, 4).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(plain.parameters(), 0.003, (0.8, 0.999), 1e-8, 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.003, total_steps=10, pct_start=0.2, base_momentum=0.75, max_momentum=0.85
    )
    batches = Batches(DATASET, SHARD, 8, CPU, config.record.seed, 1)
    before = peer.vector.clone()
    for step in range(5):
        x, y = batches.batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(plain(x), y).backward()
        optimizer.step()
        schedule.step()
        train(peer, step + 1)
        moved = dict(peer.model.named_parameters())
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(moved[name], parameter, rtol=1e-4, atol=1e-5)
    assert (peer.vector - before).abs().max() > 0.003
    assert peer.optimizer_state["steps"].eq(5).all()


def test_a_parameter_without_a_gradient_takes_no_steps() -> None:
    peer = trainer(**ADAMW, model="user_models:mixed_net")
    train(peer, 1)
    trained = [parameter.requires_grad for parameter in peer.model.parameters()]
    assert peer.optimizer_state["steps"].bool().tolist() == trained
    assert not all(trained)


def test_a_correction_is_part_of_the_gradient_that_adamw_scales() -> None:
    """The first step is −lr times the gradient's sign, here a huge correction's."""
    peer = trainer(**ADAMW, **ONE_LAYER)
    before = peer.vector.clone()
    correction = 1e4 * torch.ones(peer.layout.size)
    correction[::2] *= -1
    train(peer, 1, LocalTraining(correction=correction))
    for slot in peer.layout.slots:
        if slot.is_parameter:
            moved = slot.view(peer.vector) - slot.view(before)
            torch.testing.assert_close(moved, -0.003 * slot.view(correction).sign(), rtol=1e-2, atol=1e-6)


def test_reset_momentum_makes_adamw_begin_as_a_new_one() -> None:
    """A round is that of a new optimizer: moments and number of steps are 0."""
    reset, new = trainer(**ADAMW, **ONE_LAYER), trainer(**ADAMW, **ONE_LAYER)
    train(reset, 1)
    new.vector.copy_(reset.vector)
    new.steps = reset.steps
    train(reset, 2, LocalTraining("reset"))
    train(new, 2)
    assert torch.equal(reset.vector, new.vector)
    assert reset.optimizer_state["steps"].eq(1).all()


@pytest.mark.parametrize("request_of", [lambda m: {"momentum": m}, lambda m: {"carried_momentum": m}])
def test_momentum_of_an_algorithm_is_that_of_sgd(request_of: object) -> None:
    peer = trainer(**ADAMW, **ONE_LAYER)
    given = request_of(torch.zeros(peer.layout.size))  # type: ignore[operator]
    with pytest.raises(ConfigError, match=r"^--optimizer adamw: the algorithm sets the momentum of SGD"):
        train(peer, 1, LocalTraining(**given))


def test_carried_momentum_takes_the_place_of_the_local_one() -> None:
    """It starts the round, and gets what the round has made of it."""
    options = {**ONE_LAYER, "local_steps": 2, "lr": 0.01}
    plain, other = trainer(**options), trainer(**options)
    carried = torch.zeros(other.layout.size)
    for round in (1, 2):
        other.momentum.fill_(7.0)
        train(plain, round)
        train(other, round, LocalTraining(carried_momentum=carried))
        assert torch.equal(plain.vector, other.vector)
        assert torch.equal(plain.momentum, carried)
    assert carried.any()


def test_a_rate_that_suits_sgd_is_noted_for_adamw() -> None:
    assert rate_notes(small_config(lr=0.02).training) == ()
    assert rate_notes(small_config(optimizer="adamw", lr=0.001).training) == ()
    (note,) = rate_notes(small_config(optimizer="adamw", lr=0.02).training)
    assert note.startswith("--lr 0.02 is large for AdamW")
