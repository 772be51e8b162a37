"""Models that a user might bring, some of them broken: user_models:FUNCTION."""

from __future__ import annotations

import os
import threading

import torch
from torch import nn


class Linear(nn.Module):
    """Small linear model.

    Fails or freezes at a given training step if the environment says so.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, num_classes)
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if str(self.steps) == os.environ.get("USER_MODEL_RAISES_AT"):
            raise RuntimeError("the user's own mistake")
        if str(self.steps) == os.environ.get("USER_MODEL_FREEZES_AT"):
            threading.Event().wait()
        return self.layer(x.flatten(1))


def linear(num_classes: int) -> nn.Module:
    return Linear(num_classes)


class Overflowing(Linear):
    """Linear model that writes a value from the environment into a buffer.

    It does so at step 5, and no loss depends on that buffer.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        start = float("inf") if os.environ.get("USER_MODEL_BEGINS_INFINITE") else 0.0
        self.register_buffer("spare", torch.full((3,), start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.steps == 4:
            self.spare.fill_(float(os.environ.get("USER_MODEL_OVERFLOWS_TO", "inf")))
        return super().forward(x)


def overflowing(num_classes: int) -> nn.Module:
    return Overflowing(num_classes)


class Hungry(Linear):
    """Linear model that wants more memory than any machine has.

    From its second step on: the trial before a run takes one.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.steps == 1:
            torch.empty(1 << 52)
        return super().forward(x)


def hungry(num_classes: int) -> nn.Module:
    return Hungry(num_classes)


def mixed_net(num_classes: int) -> nn.Module:
    """Model with what VGG lacks.

    One input channel, 1×1 kernels, groups, shared weights, a frozen parameter, dropout.
    """
    shared = nn.Conv2d(6, 6, 1, bias=False)
    frozen = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    frozen.weight.requires_grad_(False)
    return nn.Sequential(
        nn.Conv2d(3, 1, 3, stride=4),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        shared,
        nn.ReLU(),
        frozen,
        shared,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(6, num_classes),
    )


def input_norm(num_classes: int) -> nn.Module:
    """Model whose running statistics are those of the images."""
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))


def feature_norm(num_classes: int) -> nn.Module:
    """Model whose running statistics differ between peers with different classes."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, num_classes)
    )


def broad(num_classes: int) -> nn.Module:
    """Cheap model with vectors of 2.5 MB, running statistics among them."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, num_classes)
    )


def normed(num_classes: int) -> nn.Module:
    """Smallest model with the running statistics of batch normalization."""
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, num_classes))
