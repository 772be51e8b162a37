"""Finite-time averaging on one graph, by nulling the eigenvalues of W in turn.

With the distinct eigenvalues 1 > λ_1, …, λ_m of a symmetric W that keeps the mean, the rounds of a period mix by
    W_i = (W − λ_i I) / (1 − λ_i),   W_m … W_1 = 11ᵀ/n,
so that every peer has the exact mean after m rounds along the graph's own edges (Sundaram & Hadjicostis 2007,
"Finite-time distributed consensus in graphs with time-invariant topologies"; Hendrickx, Jungers, Olshevsky &
Vankeerberghen 2014, "Graph diameter, eigenvalues, and minimum-time consensus"; Safavi & Khan 2014, "Revisiting
finite-time distributed algorithms via successive nulling of eigenvalues").

Neighbors' weights W_ij / (1 − λ_i) are positive; self-weights are negative where λ_i is large. So a round may enlarge
some disagreements, before others of the period null them. The eigenvalues are nulled in Leja's order, which keeps that
small (Calvetti & Reichel 1996, "Adaptive Richardson iteration based on Leja points").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import TopologyError
from p2pfl.topology.convergence import ScheduleConvergence
from p2pfl.topology.graph import Topology
from p2pfl.topology.mixing import mixing_matrix
from p2pfl.topology.spectrum import Matrix, Vector, is_symmetric

BASE = "metropolis-hastings"  # W of --mixing finite-time
MOST_GROWTH = 1e3
"""Growth up to which float32 carries the vectors: a round's rounding errors, 6e-8 of the weights, stay below 1e-4."""
_PROBES = 4001  # eigenvalues of graphs without some of their edges
_SAME = 1e-9  # difference up to which eigenvalues are one; their rounding errors are some 1e-14
_TIE = 1e-9  # so that machines whose last digits differ choose the same order


@dataclass(frozen=True)
class FiniteTime:
    """Finite-time averaging by the eigenvalues of a symmetric W, (n, n).

    `eigenvalues`: the distinct ones below 1, (m,), in the order of the rounds that null them. `counts`: how often W
    has each of them.
    """

    w: Matrix
    eigenvalues: Vector
    counts: NDArray[np.int64]

    @property
    def rounds(self) -> int:
        """Rounds of a period, after which the average is exact."""
        return len(self.eigenvalues)

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Mixing matrices by round of a period, each (n, n); rows and columns add up to 1."""
        return tuple(_nulling(self.w, float(value)) for value in self.eigenvalues)

    @cached_property
    def factors(self) -> Matrix:
        """Factors (m, m) by which round i multiplies disagreements along eigenvalue j."""
        own = self.eigenvalues
        with np.errstate(divide="ignore", invalid="ignore"):  # a W whose graph is not connected
            return np.asarray((own[None, :] - own[:, None]) / (1.0 - own[:, None]))

    @cached_property
    def growth(self) -> float:
        """Largest factor by which any disagreement grows, from any round on.

        Local training adds to disagreements in every round; a period later they have been nulled.
        """
        return self._largest(range(self.rounds))

    @cached_property
    def merge_growth(self) -> float:
        """Largest growth of a disagreement from the start of a period, or in one round.

        Without training between the rounds only rounding errors are added; they grow little more than in one round.
        """
        return self._largest(range(1))

    @cached_property
    def growth_with_losses(self) -> float:
        """Largest factor of a period for disagreements where peers are always missing.

        Without some edges the eigenvalues of I − W are others, from 0 to the largest one; the factor 1 is that of 0,
        between parts of the graph that are no longer connected.
        """
        nulled = 1.0 - self.eigenvalues
        others = np.linspace(0.0, nulled.max(), _PROBES)
        return float(np.abs(np.prod(1.0 - others[:, None] / nulled[None, :], axis=1)).max())

    def _largest(self, starts: range) -> float:
        """Largest factor of consecutive rounds from these starts on, or of one round."""
        most = float(np.abs(self.factors).max())
        with np.errstate(over="ignore", invalid="ignore"):
            for start in starts:
                if not most <= MOST_GROWTH:  # the exact figure no longer matters
                    break
                most = max(most, float(np.abs(np.cumprod(np.roll(self.factors, -start, axis=0), axis=0)).max()))
        return most

    @cached_property
    def convergence(self) -> ScheduleConvergence:
        """Convergence from the start of a period."""
        left = np.abs(np.cumprod(self.factors, axis=0))
        shares = np.sqrt((self.counts * left**2).sum(axis=1) / self.counts.sum())
        return ScheduleConvergence(tuple(left.max(axis=1).tolist()), self.rounds, tuple(shares.tolist()))


def finite_time(w: Matrix) -> FiniteTime:
    """Finite-time averaging by the eigenvalues of W, whatever its growth.

    `w`: symmetric, rows adding up to 1, of a connected graph.

    Examples:
        >>> from p2pfl.topology import make_topology, mixing_matrix
        >>> found = finite_time(mixing_matrix(make_topology("ring", 8)))
        >>> found.rounds, round(found.growth, 1)
        (4, 5.8)
    """
    values = np.linalg.eigvalsh(w)[:-1]  # ascending; the last one is 1
    firsts = np.flatnonzero(np.append(True, np.diff(values) > _SAME))
    counts = np.diff(np.append(firsts, len(values)))
    distinct = np.add.reduceat(values, firsts) / counts
    order = _leja(1.0 - distinct)
    return FiniteTime(w, distinct[order], counts[order])


def checked_finite_time(w: Matrix, source: str, remedy: str, trains: bool) -> FiniteTime:
    """Finite-time averaging whose growth float32 can carry.

    `trains`: in training rounds, not in a final merge alone. `source` starts the message, `remedy` ends it. Raises
    TopologyError where W is not symmetric, or the growth exceeds MOST_GROWTH.
    """
    if not is_symmetric(w):
        raise TopologyError(
            f"{source}: finite-time averaging needs an undirected graph with symmetric weights; {remedy}"
        )
    found = finite_time(w)
    if not (found.growth if trains else found.merge_growth) <= MOST_GROWTH:
        raise TopologyError(
            f"{source}: finite-time averaging, in {found.rounds} rounds, would enlarge differences of the peers more "
            f"than {MOST_GROWTH:,.0f} times in between, too much for float32; take a graph with a larger spectral gap, "
            f"or {remedy}"
        )
    return found


def finite_time_weights(topology: Topology) -> FiniteTime:
    """Finite-time averaging by Metropolis–Hastings weights; see `mixing_matrices`.

    Raises TopologyError for a directed graph, a schedule of graphs, and where the growth is too large.
    """
    if topology.is_schedule:
        raise TopologyError(
            f"{topology.source}: finite-time weights are those of one graph, and this is a schedule of "
            f"{len(topology.rounds)}; use --mixing auto"
        )
    if topology.directed:
        raise TopologyError(f"{topology.source}: finite-time weights need an undirected graph; use --mixing auto")
    remedy = f"use --mixing {BASE}"
    return checked_finite_time(mixing_matrix(topology, BASE), topology.source, remedy, trains=True)


def _nulling(w: Matrix, value: float) -> Matrix:
    """(W − λ I) / (1 − λ), whose rows add up to 1 in float64, too."""
    found = w / (1.0 - value)
    np.fill_diagonal(found, 0.0)
    np.fill_diagonal(found, 1.0 - found.sum(axis=1))
    return np.asarray(found)


def _leja(points: Vector) -> list[int]:
    """Places of points in Leja's order: each as far from those before as can be.

    Far by the product of its distances; the first one is the farthest from 0.
    """
    order: list[int] = []
    points = np.maximum(points, np.finfo(float).tiny)
    far = np.log(points)
    for _ in points:
        best = int(np.flatnonzero(far >= far.max() - _TIE)[0])
        order.append(best)
        with np.errstate(divide="ignore"):
            steps = np.log(np.abs(points - points[best]))
        far = steps if len(order) == 1 else far + steps
        far[order] = -np.inf
    return order
