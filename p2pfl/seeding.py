"""Random generators derived from (seed, purpose, peer, round).

Because every generator is a pure function of where it is used, a resumed or repeated round draws the same
numbers without any generator state being saved.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, purpose: str, peer: int = 0, round: int = 0) -> int:
    """Derive a 63-bit seed by SHA-256, the same on every machine."""
    text = f"{seed}/{purpose}/{peer}/{round}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def numpy_generator(seed: int, purpose: str, peer: int = 0, round: int = 0) -> np.random.Generator:
    """A numpy generator for one purpose, peer and round."""
    return np.random.Generator(np.random.PCG64(derive(seed, purpose, peer, round)))


def torch_generator(seed: int, purpose: str, peer: int = 0, round: int = 0) -> torch.Generator:
    """A torch generator on the CPU, so that runs on CPU and GPU draw the same batches."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(derive(seed, purpose, peer, round))
    return generator
