"""The gossip algorithms: state in, state out; no sockets, clocks or files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pfl.algorithms.base import Algorithm, Hoods
from p2pfl.algorithms.bootstrap import Adoption
from p2pfl.algorithms.chebyshev import Chebyshev
from p2pfl.algorithms.clipped import Clipped
from p2pfl.algorithms.dpsgd import DPSGD
from p2pfl.algorithms.median import Median
from p2pfl.algorithms.robust import Robust, Rule
from p2pfl.algorithms.trimmed_mean import TrimmedMean
from p2pfl.config import RunConfig
from p2pfl.payload import Payload

__all__ = ["DPSGD", "Adoption", "Algorithm", "Chebyshev", "Hoods", "Payload", "build_algorithm", "build_consensus"]

# Algorithm -> its rule, from the number of hostile neighbors that it is to bear.
_RULES: dict[str, Callable[[int], Rule]] = {
    "clipped": Clipped,
    "trimmed-mean": TrimmedMean,
    "median": lambda byzantine: Median(),
}


def build_algorithm(config: RunConfig) -> Algorithm[Any]:
    """The algorithm that the settings name, for the training rounds."""
    overlapped, codec = config.gossip.order == "overlapped", config.exchange.wire_dtype
    rule = _rule(config)
    return DPSGD(overlapped, codec) if rule is None else Robust(rule, overlapped, codec)


def build_consensus(config: RunConfig, contraction: float) -> Algorithm[Any]:
    """What follows on the training rounds: Chebyshev's mixing with λ = `contraction`.

    Under a robust algorithm it is the same rule again, since one hostile neighbor would lead plain mixing anywhere.
    """
    rule = _rule(config)
    return Chebyshev(contraction, config.training.rounds + 1) if rule is None else Robust(rule)


def _rule(config: RunConfig) -> Rule | None:
    build = _RULES.get(config.gossip.algorithm)
    return None if build is None else build(config.robust.byzantine or 0)
