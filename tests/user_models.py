"""Models that a user might bring, among them broken ones; named as user_models:FUNCTION by tests."""

from __future__ import annotations

import os
import threading

import torch
from torch import nn


class Linear(nn.Module):
    """Fast and small; fails or freezes at a given training step if the environment says so."""

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
