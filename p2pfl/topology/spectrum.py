"""Spectral gap of a mixing matrix, and the rounds that consensus takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import ConfigError
from p2pfl.topology.push_spectrum import UnmixedError, is_push_only, push_bounds, push_rate, push_rounds

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

ROUNDING = 1e-12  # singular values below this are rounding errors of an exact 0
DENSE = 512  # peers up to which all eigenvalues take less than a second
STEPS = 250  # of Lanczos' method; graphs that mix slowly, such as large rings, need more and get all eigenvalues
_ACCURACY = 1e-11


def is_symmetric(w: Matrix) -> bool:
    """Return whether W is symmetric, up to rounding; Chebyshev acceleration needs it."""
    return bool(np.allclose(w, w.T, rtol=0.0, atol=ROUNDING))


def smallest_eigenvalue(w: Matrix) -> float:
    """Smallest eigenvalue of a symmetric W; −1 < λ ≤ 1 for a connected graph."""
    return float(np.linalg.eigvalsh(w)[0])


def lazy(w: Matrix) -> Matrix:
    """(I + W) / 2, whose eigenvalues are above 0: each peer keeps half of its vector."""
    return (np.eye(len(w)) + w) / 2.0


def stationary(w: Matrix) -> Vector:
    """Weights of the mean that mixing preserves, (n,): πᵀW = πᵀ, with sum 1.

    1/n where W is doubly stochastic. Otherwise W has to be reversible, with π_i W_ij symmetric, as the mixing by
    samples is: the ratio of two neighbors' weights is that of W_ji and W_ij.
    """
    n = len(w)
    if np.allclose(w.sum(axis=0), 1.0, rtol=0.0, atol=2e-6):  # as exact as a file's weights have to be
        return np.full(n, 1.0 / n)
    pi = np.zeros(n)
    for start in range(n):  # one pass, unless the graph is disconnected
        if pi[start]:
            continue
        pi[start], found = 1.0, [start]
        for i in found:
            for j in np.flatnonzero((w[i] > 0) & (w[:, i] > 0) & (pi == 0)):
                pi[j] = pi[i] * w[i, j] / w[j, i]
                found.append(int(j))
    return np.asarray(pi / pi.sum())


def is_reversible(w: Matrix) -> bool:
    """Return whether π_i W_ij is symmetric; Chebyshev acceleration needs it."""
    return is_symmetric(_symmetrized(w, stationary(w)))


def _symmetrized(w: Matrix, pi: Vector) -> Matrix:
    """D W D⁻¹ with D = diag(√π), or W itself where all weights are equal."""
    root = np.sqrt(pi / pi[0])
    return w if bool((root == 1.0).all()) else np.asarray(root[:, None] * w / root[None, :])


def _norm_ratio(pi: Vector) -> float:
    """Most by which the plain disagreement exceeds the bound of the weighted one.

    √(max π / min π), by which the weights distort the norm; 1 where they are equal.
    """
    return float(np.sqrt(pi.max() / pi.min()))


def spectral_norm(a: Matrix) -> float:
    """Largest singular value of a matrix; of large ones by Lanczos' method."""
    found = _largest(lambda x: np.asarray(a.T @ (a @ x)), len(a)) if len(a) > DENSE else None
    return float(np.linalg.norm(a, 2)) if found is None else found**0.5


def contraction(w: Matrix) -> float:
    """Contraction factor of the consensus distance in one round, ‖W − 11ᵀ/n‖₂.

    Of a W that preserves a weighted mean, in the norm with these weights: ‖D W D⁻¹ − √π√πᵀ‖₂. For large matrices by
    Lanczos' method: all eigenvalues of 4000 peers take half a minute. Of a W for push-sum: |λ₂|, in the long run.
    """
    if is_push_only(w):
        return push_rate(w)
    pi = stationary(w)
    w, root = _symmetrized(w, pi), np.sqrt(pi)
    symmetric = is_symmetric(w)
    norm = None
    if len(w) > DENSE:

        def rest(x: Vector) -> Vector:
            return np.asarray(w @ x - root * (root @ x))

        def squared(x: Vector) -> Vector:
            y = rest(x)
            return np.asarray(w.T @ y - root * (root @ y))

        found = _largest(rest if symmetric else squared, len(w))
        norm = found if found is None or symmetric else found**0.5
    if norm is None:
        dense = w - np.outer(root, root)
        norm = np.abs(np.linalg.eigvalsh(dense)).max() if symmetric else np.linalg.norm(dense, 2)
    return 0.0 if norm < ROUNDING else float(norm)


def _largest(operator: Callable[[Vector], Vector], n: int) -> float | None:
    """Largest absolute eigenvalue of a symmetric operator (Lanczos 1950).

    None where it has not converged after `STEPS`. Each vector is orthogonalized against all earlier ones; otherwise
    eigenvalues would appear twice.
    """
    start = np.random.default_rng(0).standard_normal(n)
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(1, STEPS + 1):
        ahead = operator(basis[-1])
        diagonal.append(float(ahead @ basis[-1]))
        before = np.array(basis)
        for _ in range(2):
            ahead = ahead - before.T @ (before @ ahead)
        length = float(np.linalg.norm(ahead))
        if step % 10 == 0 or length < ROUNDING:
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            best = int(np.abs(values).argmax())
            if length * abs(vectors[-1, best]) < _ACCURACY:
                return float(abs(values[best]))
        beside.append(length)
        basis.append(ahead / length)
    return None


def spectral_gap(w: Matrix) -> float:
    """Spectral gap, 1 − ‖W − 11ᵀ/n‖₂: 0 never mixes, 1 mixes in one round.

    Examples:
        >>> from p2pfl.topology import make_topology, mixing_matrix
        >>> graphs = [make_topology(kind, 16) for kind in ("ring", "torus", "complete")]
        >>> [round(spectral_gap(mixing_matrix(graph)), 4) for graph in graphs]
        [0.0507, 0.4, 1.0]
    """
    return max(0.0, 1.0 - contraction(w))


@dataclass(frozen=True)
class Convergence:
    """Spectral gap, and the results of `mixing_rounds` and `consensus_rounds`."""

    gap: float
    plain: int
    accelerated: int


def convergence(w: Matrix, tolerance: float) -> Convergence:
    """Compute the convergence of W with its eigenvalues computed only once.

    Raises as `mixing_rounds` does.
    """
    rate, ratio = _rate(w, tolerance), _norm_ratio(stationary(w))
    if is_push_only(w):
        rounds = push_rounds(w, tolerance)
        return Convergence(max(0.0, 1.0 - rate), rounds, rounds)
    tolerance = tolerance / ratio
    plain = _plain_rounds(rate, tolerance)
    fast = is_reversible(w) and rate > 0
    accelerated = _ceil(_acosh_inverse(tolerance) / _acosh_inverse(rate)) if fast else plain
    return Convergence(max(0.0, 1.0 - rate), plain, accelerated)


def mixing_rounds(w: Matrix, tolerance: float) -> int:
    """Rounds of plain mixing that shrink any disagreement by the factor `tolerance`.

    ⌈ln ε / ln(1 − gap)⌉ with ε = tolerance; of a W for push-sum `push_rounds`.
    Raises ConfigError if the tolerance is not between 0 and 1, TopologyError if W never mixes (gap 0).
    """
    rate = _rate(w, tolerance)
    return push_rounds(w, tolerance) if is_push_only(w) else _plain_rounds(rate, tolerance / _norm_ratio(stationary(w)))


def consensus_rounds(w: Matrix, tolerance: float) -> int:
    """Rounds of the consensus phase: Chebyshev if W is reversible, else plain mixing.

    With λ = ‖W − 11ᵀ/n‖₂ the polynomial T_k(W/λ)/T_k(1/λ) keeps the mean and shrinks disagreement by
    1/T_k(1/λ) (accelerated gossip, Scaman et al. 2017); k is the smallest number with T_k(1/λ) ≥ 1/ε.
    Raises as `mixing_rounds` does.
    """
    return convergence(w, tolerance).accelerated


def mixing_bounds(w: Matrix, rounds: int) -> dict[str, list[float]]:
    """Upper bounds of the disagreement left after k = 0..rounds rounds of mixing.

    `plain`: (1 − gap)^k. `chebyshev`, for a reversible W: 1 / T_k(1 / (1 − gap)) (Scaman et al. 2017, section 4.1).
    Both are larger by a constant factor where W preserves a weighted mean. Of a W for push-sum: `push_bounds`.
    """
    if is_push_only(w):
        return {"plain": [1.0, *islice(push_bounds(w), rounds)]}
    rate, ratio = contraction(w), _norm_ratio(stationary(w))
    bounds = {"plain": [ratio * rate**k for k in range(rounds + 1)]}
    if is_reversible(w) and rate > 0:
        # cosh of large numbers overflows, its logarithm does not.
        angles = [k * math.acosh(1 / rate) for k in range(rounds + 1)]
        bounds["chebyshev"] = [ratio * math.exp(math.log(2) - x - math.log1p(math.exp(-2 * x))) for x in angles]
    return bounds


def _plain_rounds(rate: float, tolerance: float) -> int:
    return 1 if rate == 0 else _ceil(math.log(tolerance) / math.log(rate))


def check_tolerance(tolerance: float) -> None:
    """Raise ConfigError unless a tolerance lies between 0 and 1."""
    if not 0 < tolerance < 1:
        raise ConfigError(f"the consensus tolerance is {tolerance!r}; it must lie between 0 and 1")


def _rate(w: Matrix, tolerance: float) -> float:
    check_tolerance(tolerance)
    rate = contraction(w)
    if rate > 1 - ROUNDING:
        raise UnmixedError(
            "this mixing matrix never brings the peers together (spectral gap 0); "
            "give every peer a positive self-weight and every edge a positive weight"
        )
    return rate


def _acosh_inverse(x: float) -> float:
    return math.log1p(math.sqrt((1 - x) * (1 + x))) - math.log(x)  # acosh(1/x), where 1/x may overflow


def _ceil(rounds: float) -> int:
    return max(1, math.ceil(rounds - 1e-9))  # a whole number must not be rounded up for its rounding error
