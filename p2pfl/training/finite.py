"""Weights that are no numbers any more, or too large to travel: found before they are sent, saved or recorded."""

from __future__ import annotations

import math

from torch import Tensor

from p2pfl.errors import TrainingError
from p2pfl.parameters import is_finite, largest
from p2pfl.wire import Codec

# Halfway between the largest bfloat16 and the next power of two: from here on rounding gives infinity.
BF16_LIMIT = 2.0**128 - 2.0**119


def check_weights(weights: Tensor, codec: Codec, when: str) -> None:
    """Raises TrainingError where weights are not finite, or would not be in the format in which they travel."""
    size = largest(weights) if codec == "bf16" else 0.0
    if not math.isfinite(size) or (codec != "bf16" and not is_finite(weights)):
        raise TrainingError(f"the weights are not finite {when}", remedy="lower --lr")
    if size >= BF16_LIMIT:
        raise TrainingError(f"a weight of {size:.3g} {when} is too large for --wire-dtype bf16", remedy="lower --lr")
