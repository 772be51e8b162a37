"""Gossip algorithms behind one contract (`base.Algorithm`), server averaging, and attacks; no I/O and no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pfl.algorithms.base import Algorithm, AlgorithmOptions
from p2pfl.algorithms.chebyshev import Chebyshev
from p2pfl.algorithms.dpsgd import DPSGD
from p2pfl.algorithms.robust import Clipped, Median, TrimmedMean
from p2pfl.config import RunConfig

__all__ = ["DPSGD", "Algorithm", "Chebyshev", "build_algorithm", "build_consensus"]

_ALGORITHMS: dict[str, Callable[[AlgorithmOptions], Algorithm[Any]]] = {
    "dpsgd": DPSGD.of,
    "clipped": Clipped.of,
    "trimmed-mean": TrimmedMean.of,
    "median": Median.of,
}


def build_algorithm(config: RunConfig) -> Algorithm[Any]:
    """The algorithm of the training rounds, from the run's settings."""
    options = AlgorithmOptions(
        overlapped=config.gossip.order == "overlapped",
        wire_dtype=config.exchange.wire_dtype,
        byzantine=config.robust.byzantine or 0,
    )
    return _ALGORITHMS[config.gossip.algorithm](options)


def build_consensus(config: RunConfig, contraction: float) -> Algorithm[Any]:
    """The algorithm of the consensus rounds: Chebyshev's mixing with λ = `contraction`, in float32.

    Under a robust algorithm it is the same rule again, since one malicious neighbor would lead plain mixing anywhere.
    """
    algorithm = _ALGORITHMS[config.gossip.algorithm](AlgorithmOptions(byzantine=config.robust.byzantine or 0))
    return algorithm if algorithm.is_robust else Chebyshev(contraction, config.training.rounds + 1)
