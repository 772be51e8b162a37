"""The gossip algorithms: state in, state out; no sockets, clocks or files."""

from __future__ import annotations

from typing import Any

from p2pfl.config import ExchangeConfig
from p2pfl.gossip.chebyshev import Chebyshev
from p2pfl.gossip.dpsgd import DPSGD
from p2pfl.gossip.interface import Algorithm, Hoods, Payload

__all__ = ["DPSGD", "Algorithm", "Chebyshev", "Hoods", "Payload", "build_algorithm"]

_ALGORITHMS = {
    "dpsgd": lambda config: DPSGD(overlapped=config.order == "overlapped", codec=config.wire_dtype),
}


def build_algorithm(config: ExchangeConfig) -> Algorithm[Any]:
    """The algorithm that the settings name, for the training rounds."""
    return _ALGORITHMS[config.algorithm](config)
