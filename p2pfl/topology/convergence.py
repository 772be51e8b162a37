"""Convergence of a schedule: how its graphs, in turn, bring peers together.

With push-sum, where only the columns of the matrices P_1, P_2, … add up to 1, peers have after k rounds
z = diag(A_k 1)⁻¹ A_k z₀ =: M_k z₀ with A_k = P_k … P_1. The rows of M_k add up to 1, so that a disagreement is at most
‖M_k − 11ᵀ/n‖₂ of what it was. It is 0 not only where A_k = 11ᵀ/n, but wherever A_k = v 1ᵀ: then x_i = v_i Σ x and
w_i = v_i Σ w, and all quotients are equal, however the weights w stood before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from p2pfl.topology.push_spectrum import (
    NEVER,
    UnmixedError,
    disagreement,
    is_push_only,
    push_rate,
    push_weights,
    rounds_by_powers,
)
from p2pfl.topology.spectrum import ROUNDING, Matrix, Vector, check_tolerance, spectral_norm, stationary

Matrices = Sequence[Matrix]
"""Mixing matrices of a schedule by round; those of one period."""


@dataclass(frozen=True)
class ScheduleConvergence:
    """Convergence of a schedule from the start of its period.

    `contractions[k − 1]`: the largest share of a disagreement that is left after k rounds, of one period. `exact`: the
    rounds after which nothing is left, None where that is not within a period. `shares[k − 1]`: the consensus distance
    that is left after k rounds of independent random vectors, as a share. `ratio`: by which disagreements may
    exceed this where the mean that is kept has weights, else 1. `pushed`: the matrices, where push-sum is needed.
    """

    contractions: tuple[float, ...]
    exact: int | None
    shares: tuple[float, ...]
    ratio: float = 1.0
    pushed: tuple[Matrix, ...] = field(default=(), compare=False, repr=False)

    @property
    def period(self) -> int:
        """Number of rounds after which the graphs repeat."""
        return len(self.contractions)

    @property
    def gap(self) -> float:
        """1 − the contraction of a round, as the geometric mean over a period.

        With push-sum, in the long run.
        """
        return max(0.0, 1.0 - float(self._rate ** (1 / self.period)))

    @property
    def _rate(self) -> float:
        """Contraction of a period; 0 where it is exact."""
        if self.exact is not None or not self.pushed:
            return self.contractions[-1]
        return push_rate(period_matrix(self.pushed))

    def rounds(self, tolerance: float) -> int:
        """Rounds from the start of a period that average exactly, or else to `tolerance`.

        Raises ConfigError if the tolerance is not between 0 and 1, TopologyError if it is never reached.
        """
        check_tolerance(tolerance)
        if self.exact is not None:
            return self.exact
        rate, limit = self._rate, tolerance / self.ratio
        if rate > 1 - ROUNDING:
            raise UnmixedError(NEVER)
        if self.pushed:
            return rounds_by_powers(self.pushed, period_matrix(self.pushed), push_distance, tolerance)
        whole = max(0, math.ceil(math.log(limit) / math.log(rate) - 1e-9) - 1)
        return next(
            whole * self.period + k
            for k in range(1, self.period + 1)
            if self.bound(whole * self.period + k) <= limit * (1 + 1e-9)
        )

    def bound(self, rounds: int) -> float:
        """Share of a disagreement that is left at most after so many rounds."""
        whole, rest = divmod(rounds, self.period)
        if self.exact is not None and rounds >= self.exact:
            return 0.0
        if self.pushed:
            product = np.linalg.matrix_power(period_matrix(self.pushed), whole)
            return push_distance(period_matrix((product, *self.pushed[:rest])))
        return float(self.contractions[-1] ** whole * (self.contractions[rest - 1] if rest else 1.0))


def schedule_convergence(matrices: Matrices) -> ScheduleConvergence:
    """Convergence of mixing by W_1, W_2, … in turn.

    The contraction after k rounds is ‖W_k … W_1 − 11ᵀ/n‖₂, in the norm with the weights of the mean that is kept; that
    of push-sum, where a matrix's columns alone add up to 1, ‖M_k − 11ᵀ/n‖₂.
    """
    if any(map(is_push_only, matrices)):
        return _push_convergence(matrices)
    pi = common_mean(matrices)
    root = np.sqrt(pi)
    left = np.eye(len(pi)) - np.outer(root, root)
    found, shares = [], []
    for w in matrices:
        left = (root[:, None] * w / root[None, :]) @ left
        norm = spectral_norm(left)
        found.append(0.0 if norm < ROUNDING else norm)
        shares.append(0.0 if norm < ROUNDING else float(np.linalg.norm(left)) / math.sqrt(max(1, len(pi) - 1)))
    exact = next((k for k, norm in enumerate(found, start=1) if norm == 0.0), None)
    return ScheduleConvergence(tuple(found), exact, tuple(shares), float(np.sqrt(pi.max() / pi.min())))


def _push_convergence(matrices: Matrices) -> ScheduleConvergence:
    """Convergence of push-sum from x = z and w = 1."""
    product, found, shares = np.eye(len(matrices[0])), [], []
    for p in matrices:
        product = p @ product
        norm = push_distance(product)
        found.append(0.0 if norm < ROUNDING else norm)
        share = float(np.linalg.norm(disagreement(product))) / math.sqrt(max(1, len(p) - 1))
        shares.append(0.0 if norm < ROUNDING else share)
    exact = next((k for k, norm in enumerate(found, start=1) if norm == 0.0), None)
    return ScheduleConvergence(tuple(found), exact, tuple(shares), pushed=tuple(matrices))


def push_distance(product: Matrix) -> float:
    """‖M − 11ᵀ/n‖₂ of a product A of column-stochastic matrices."""
    return spectral_norm(disagreement(product))


def push_weight_span(matrices: Matrices) -> tuple[float, float]:
    """Least and largest weight w of push-sum in a period, in the long run."""
    weights = push_weights(period_matrix(matrices))
    found = []
    for p in matrices:
        weights = p @ weights
        found.append(weights)
    return float(np.min(found)), float(np.max(found))


def common_mean(matrices: Matrices) -> Vector:
    """Weights of the mean that all of the matrices keep, (n,): πᵀW = πᵀ, with sum 1."""
    n = len(matrices[0])
    if all(np.allclose(w.sum(axis=0), 1.0, rtol=0.0, atol=2e-6) for w in matrices):
        return stationary(matrices[0])
    product = period_matrix(matrices)
    equations = np.vstack([product.T - np.eye(n), np.ones(n)])
    pi, *_ = np.linalg.lstsq(equations, np.append(np.zeros(n), 1.0), rcond=None)
    return np.asarray(pi)


def period_matrix(matrices: Matrices) -> Matrix:
    """Product of one period, by which the peers' vectors are multiplied in it."""
    product = matrices[0]
    for w in matrices[1:]:
        product = w @ product
    return np.asarray(product)


def influence_rounds(matrices: Matrices) -> int:
    """Rounds within which each peer's vector reaches all others, from any round on."""
    edges = [w > 0 for w in matrices]
    most = 0
    for start in range(len(edges)):
        reached, rounds = np.eye(len(edges[0]), dtype=bool), 0
        while not reached.all() and rounds < len(edges[0]) * len(edges):
            graph = edges[(start + rounds) % len(edges)]
            reached = reached | ((graph.astype(np.float32) @ reached.astype(np.float32)) > 0)
            rounds += 1
        most = max(most, rounds)
    return most
