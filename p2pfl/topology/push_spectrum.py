"""Convergence of push-sum with a column-stochastic mixing matrix P.

After k rounds z = diag(P^k 1)⁻¹ P^k z₀ =: M_k z₀; the rows of M_k add up to 1. The disagreement is then at most
‖M_k − 11ᵀ/n‖ of what it was; in the long run it shrinks by |λ₂|, P's second largest absolute eigenvalue, in each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import TopologyError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

DENSE = 512  # peers up to which all of M_k is computed
PROBES = 32  # random vectors for larger ones
MAX_ROUNDS = 5000  # that are computed one by one for larger ones
SUM_TOLERANCE = 2e-6  # as exact as a file's weights have to be
NEVER = (
    "these graphs never bring the peers together in one period (contraction 1); give every peer a positive self-weight "
    "and every edge a positive weight"
)
_MOST_SQUARES = 50  # squarings of a period's product: 2^50 periods, far beyond any run


class UnmixedError(TopologyError):
    """A mixing that never brings the peers together.

    The message does not name the file.
    """


def is_push_only(w: Matrix) -> bool:
    """Return whether only the columns add up to 1, so that push-sum is needed."""
    columns, rows = w.sum(axis=0), w.sum(axis=1)
    return bool(np.allclose(columns, 1.0, 0.0, SUM_TOLERANCE)) and not np.allclose(rows, 1.0, 0.0, SUM_TOLERANCE)


def push_rate(p: Matrix) -> float:
    """|λ₂| of P; of large matrices estimated by powers."""
    if len(p) <= DENSE:
        return float(np.sort(np.abs(np.linalg.eigvals(p)))[-2])
    vector = np.random.default_rng(0).standard_normal(len(p))
    vector -= vector.mean()  # P keeps the sum, so that the largest eigenvalue has no part in it
    lengths = []
    for _ in range(400):
        vector = p @ vector
        lengths.append(float(np.linalg.norm(vector)))
        vector = vector / lengths[-1] - vector.sum() / len(p) / lengths[-1]
    return float(np.exp(np.log(lengths[200:]).mean()))  # the mean of many: complex eigenvalues rotate


def push_weights(p: Matrix) -> Vector:
    """Weights w that the peers approach, (n,): P w = w, with sum n."""
    n = len(p)
    equations = np.vstack([(p - np.eye(n))[1:], np.ones((1, n))])
    return np.asarray(np.linalg.solve(equations, np.append(np.zeros(n - 1), float(n))))


def push_bounds(p: Matrix) -> Iterator[float]:
    """Upper bounds ‖M_k − 11ᵀ/n‖_F of the disagreement after k = 1, 2, … rounds.

    Of large matrices estimated with random vectors (Hutchinson).
    """
    n = len(p)
    columns = np.eye(n)
    if n > DENSE:
        columns = np.random.default_rng(0).choice([-1.0, 1.0], (n, PROBES)) / PROBES**0.5
    mean, weights = columns.mean(axis=0), np.ones((n, 1))
    while True:
        columns, weights = p @ columns, p @ weights
        yield float(np.linalg.norm(columns / weights - mean))


def push_rounds(p: Matrix, tolerance: float) -> int:
    """Rounds of push-sum that shrink any disagreement by the factor `tolerance`."""
    if len(p) > DENSE:
        bounds = list(_until(islice(push_bounds(p), MAX_ROUNDS), tolerance))
        if bounds[-1] <= tolerance:
            return len(bounds)
        return len(bounds) + int(np.ceil(np.log(tolerance / bounds[-1]) / np.log(push_rate(p))))
    return rounds_by_powers((p,), p, _distance, tolerance)


def rounds_by_powers(
    matrices: Sequence[Matrix], period: Matrix, distance: Callable[[Matrix], float], tolerance: float
) -> int:
    """First round after which `distance` of the product is at most `tolerance`.

    The product of the matrices by round, which repeat; `period` is that of one period. First the whole periods, by
    powers 1, 2, 4, … of it, then the rounds of the last one. Raises UnmixedError where it is never reached.
    """
    powers = [period]
    while distance(powers[-1]) > tolerance:
        if len(powers) > _MOST_SQUARES:
            raise UnmixedError(NEVER)
        powers.append(powers[-1] @ powers[-1])
    whole, reached = 0, np.eye(len(period))
    for exponent in range(len(powers) - 1, -1, -1):
        further = powers[exponent] @ reached
        if distance(further) > tolerance:
            whole, reached = whole + 2**exponent, further
    rounds = whole * len(matrices)
    for p in matrices:
        reached, rounds = p @ reached, rounds + 1
        if distance(reached) <= tolerance:
            break
    return rounds


def disagreement(product: Matrix) -> Matrix:
    """M − 11ᵀ/n of a product A of column-stochastic matrices, M = diag(A 1)⁻¹ A."""
    return np.asarray(product / product.sum(axis=1, keepdims=True) - 1.0 / len(product))


def _until(bounds: Iterator[float], tolerance: float) -> Iterator[float]:
    for bound in bounds:
        yield bound
        if bound <= tolerance:
            return


def _distance(power: Matrix) -> float:
    return float(np.linalg.norm(disagreement(power)))
