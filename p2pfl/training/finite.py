"""Checks that weights are finite and fit the wire, before they are sent or saved."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from p2pfl.errors import TrainingError
from p2pfl.model.sketches import Vector
from p2pfl.model.vector import is_finite, largest

# Halfway between the largest bfloat16 and the next power of two: from here on rounding gives infinity.
BF16_LIMIT = 2.0**128 - 2.0**119


def check_weights(weights: Tensor, wire_dtype: str, when: str, sketch: Vector | None = None) -> None:
    """Raises TrainingError where weights are not finite, or would not be in the format in which they travel.

    `sketch`: that of these weights, if there is one. A finite one tells that they are finite without a pass over them;
    one that is not may just have overflowed. It tells nothing of their size, since opposite numbers cancel in it.
    """
    if wire_dtype == "bf16":
        size = largest(weights)
        finite = math.isfinite(size)
    else:
        size = 0.0
        finite = (sketch is not None and bool(np.isfinite(sketch).all())) or is_finite(weights)
    if not finite:
        raise TrainingError(f"the weights are not finite {when}", remedy="lower --lr")
    if size >= BF16_LIMIT:
        raise TrainingError(f"a weight of {size:.3g} {when} is too large for --wire-dtype bf16", remedy="lower --lr")
