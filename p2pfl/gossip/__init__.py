"""The gossip algorithms: state in, state out; no sockets, clocks or files."""

from __future__ import annotations

from typing import Any

from p2pfl.config import RunConfig
from p2pfl.gossip.chebyshev import Chebyshev
from p2pfl.gossip.dpsgd import DPSGD
from p2pfl.gossip.interface import Algorithm, Hoods, Payload

__all__ = ["DPSGD", "Algorithm", "Chebyshev", "Hoods", "Payload", "build_algorithm"]

_ALGORITHMS = {
    "dpsgd": lambda config: DPSGD(overlapped=config.gossip.order == "overlapped", codec=config.exchange.wire_dtype),
}


def build_algorithm(config: RunConfig) -> Algorithm[Any]:
    """The algorithm that the settings name, for the training rounds."""
    return _ALGORITHMS[config.gossip.algorithm](config)
