"""Linear model that takes EVALUATION_SECONDS for a batch of the test set."""

from __future__ import annotations

import os
import time

from torch import Tensor, nn
from user_models import linear as small_model

LARGE = 64  # samples


class SlowEvaluation(nn.Module):
    """A model that takes its time with the test set."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.inner = small_model(num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and len(x) > LARGE:
            time.sleep(float(os.environ["EVALUATION_SECONDS"]))
        return self.inner(x)


def linear(num_classes: int) -> nn.Module:
    """The model of this module."""
    return SlowEvaluation(num_classes)
