"""Parameters of the generators, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from p2pfl.errors import TopologyError

TRIES = 100  # draws of a random graph until one is connected
DEGREE, BASE_K_DEGREE = 4, 1  # neighbors of a peer by default
PERIOD = 32  # graphs of a random schedule by default


@dataclass(frozen=True)
class Parameters:
    """Parameters of a generator; None means the default of the kind."""

    n: int
    seed: int
    degree: int
    probability: float | None
    period: int | None = None


def check_regular(params: Parameters) -> None:
    """Raise TopologyError unless a regular graph of this degree exists."""
    n, degree = params.n, params.degree
    if not 1 <= degree < n:
        raise TopologyError(f"random-regular: degree is {degree}; with {n} peers it must be from 1 to {n - 1}")
    if n * degree % 2:
        raise TopologyError(
            f"random-regular: n × degree must be even, not {n} × {degree}; take n {n + 1} or another degree"
        )
