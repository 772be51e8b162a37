"""Contraction of a mixing matrix: what one round multiplies the peers' disagreement with, at worst."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

ROUNDING = 1e-12  # singular values below this are rounding errors of an exact 0
DENSE = 512  # peers up to which all eigenvalues take less than a second
STEPS = 250  # of Lanczos' method; graphs that mix slowly, such as large rings, need more and get all eigenvalues
_ACCURACY = 1e-11


def is_symmetric(w: Matrix) -> bool:
    """Whether W equals its transpose up to rounding: the condition for Chebyshev acceleration."""
    return bool(np.allclose(w, w.T, rtol=0.0, atol=ROUNDING))


def contraction(w: Matrix) -> float:
    """‖W − 11ᵀ/n‖₂, of large matrices by Lanczos' method: all eigenvalues of 4000 peers take half a minute."""
    symmetric = is_symmetric(w)
    norm = None
    if len(w) > DENSE:

        def rest(x: Vector) -> Vector:
            return np.asarray(w @ x - x.mean())

        def squared(x: Vector) -> Vector:
            y = rest(x)
            return np.asarray(w.T @ y - y.mean())

        found = _largest(rest if symmetric else squared, len(w))
        norm = found if found is None or symmetric else found**0.5
    if norm is None:
        dense = w - 1.0 / len(w)
        norm = np.abs(np.linalg.eigvalsh(dense)).max() if symmetric else np.linalg.norm(dense, 2)
    return 0.0 if norm < ROUNDING else float(norm)


def _largest(operator: Callable[[Vector], Vector], n: int) -> float | None:
    """The largest absolute eigenvalue of a symmetric operator (Lanczos 1950); None where it is not found soon.

    The vectors are orthogonalized against all before them, without which eigenvalues appear twice.
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
