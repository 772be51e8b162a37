"""Mixing matrices, how fast they mix, and one peer's view of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np

from p2pfl import registry
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.topology.checks import fix_command
from p2pfl.topology.graph import Topology
from p2pfl.topology.readers import ENDINGS
from p2pfl.topology.spectrum import ROUNDING, Matrix, contraction, is_symmetric

SUM_TOLERANCE = 1e-6  # how far weights written in a file may be from adding up to 1


@dataclass(frozen=True)
class Neighborhood:
    """What one peer must know to mix in one round.

    `incoming[j]` is W[me, j], the weight of what j sends; `outgoing[j]` is W[j, me], what j will weigh this
    peer's vector with. Both are in ascending peer order, without `me`, and leave out weights of 0.
    """

    me: int
    self_weight: float
    incoming: Mapping[int, float]
    outgoing: Mapping[int, float]


def mixing_matrix(topology: Topology, mixing: str = "metropolis-hastings") -> Matrix:
    """The (n, n) float64 matrix W whose row i holds the weights with which peer i averages.

    `metropolis-hastings`: 1/(1 + max(d_i, d_j)) on edges (Xiao, Boyd & Kim 2007). `uniform`: 1/(1 + d) for
    graphs in which all degrees are equal. `weights`: the file's edge weights. The rest of each row's 1 is
    on the diagonal. W is doubly stochastic, so mixing preserves the mean.

    Raises ConfigError for an unknown mixing, TopologyError where W would not be doubly stochastic.
    """
    registry.check("mixing", mixing)
    matrix: Matrix = registry.load(registry.MIXINGS[mixing])(topology)
    return matrix


def metropolis_hastings(topology: Topology) -> Matrix:
    """1/(1 + max(d_i, d_j)) on the edge of i and j; see `mixing_matrix`."""
    if topology.directed:
        remedy = (
            "use --mixing uniform, all its degrees are equal"
            if _common_degree(topology) is not None
            else f"give all peers equal in- and out-degrees and use --mixing uniform, or {_made_undirected(topology)}"
        )
        raise TopologyError(f"{topology.source}: metropolis-hastings needs an undirected graph; {remedy}")
    degree = dict(topology.graph.degree())
    w = np.zeros((topology.n, topology.n))
    for i, j in topology.graph.edges:
        w[i, j] = w[j, i] = 1.0 / (1 + max(degree[i], degree[j]))
    return _fill_diagonal(w)


def uniform(topology: Topology) -> Matrix:
    """1/(1 + d) on every edge; see `mixing_matrix`."""
    degree = _common_degree(topology)
    if degree is None:
        remedy = (
            f"give all peers equal in- and out-degrees, or {_made_undirected(topology)}"
            if topology.directed
            else "use --mixing metropolis-hastings"
        )
        raise TopologyError(
            f"{topology.source}: uniform mixing needs equal degrees, or the mean of the peers drifts; {remedy}"
        )
    adjacency = nx.to_numpy_array(topology.graph, nodelist=range(topology.n), weight=None)
    w: Matrix = (adjacency.T + np.eye(topology.n)) / (1 + degree)  # networkx: row sends, here: row receives
    return w


def file_weights(topology: Topology) -> Matrix:
    """The edge weights of the topology file; see `mixing_matrix`."""
    w = np.zeros((topology.n, topology.n))
    for sender, receiver, weight in topology.graph.edges(data="weight"):
        edge = f"the edge {topology.names[sender]!r} – {topology.names[receiver]!r}"
        if weight is None:
            raise TopologyError(
                f"{topology.source}: {edge} has no weight; give every edge one or choose another --mixing"
            )
        if isinstance(weight, str) or not math.isfinite(weight) or weight < 0:
            raise TopologyError(
                f"{topology.source}: weight {weight!r} of {edge} must be a finite number and not negative"
            )
        w[receiver, sender] = weight
        if not topology.directed:
            w[sender, receiver] = weight
    for i, total in enumerate(w.sum(axis=1)):
        if total > 1 + SUM_TOLERANCE:
            raise TopologyError(
                f"{topology.source}: the weights into {topology.names[i]!r} add up to {total:.6g}; at most "
                "1 is possible, what is left is the peer's own weight"
            )
    w = _fill_diagonal(w)
    for j, total in enumerate(w.sum(axis=0)):
        if abs(total - 1) > SUM_TOLERANCE:
            raise TopologyError(
                f"{topology.source}: what {topology.names[j]!r} keeps and sends has weights that add up to "
                f"{total:.6g} instead of 1, so the mean of the peers would drift; make the weights out of "
                "each peer add up to the weights into it"
            )
    return w


def undirected_command(topology: Topology) -> str:
    """The `topology fix` that makes a directed graph undirected; empty where it comes from no file."""
    is_file = Path(topology.source).suffix.lower() in ENDINGS
    return fix_command(topology.source, ("--undirected",)) if is_file else ""


def _made_undirected(topology: Topology) -> str:
    command = undirected_command(topology)
    return f"make it undirected{f' with: {command}' if command else ''}"


def mean_keeping(topology: Topology) -> str | None:
    """The mixing that is computed from this graph's edges; None where none keeps the mean of the peers."""
    if not topology.directed:
        return "metropolis-hastings"
    return None if _common_degree(topology) is None else "uniform"


def _fill_diagonal(w: Matrix) -> Matrix:
    np.fill_diagonal(w, np.maximum(0.0, 1.0 - w.sum(axis=1)))
    return w


def _common_degree(topology: Topology) -> int | None:
    """The degree that all peers have, in and out; None if they differ."""
    graph = topology.graph
    views = (graph.in_degree, graph.out_degree) if topology.directed else (graph.degree,)
    degrees = {int(degree) for view in views for _, degree in view()}
    return degrees.pop() if len(degrees) == 1 else None


def spectral_gap(w: Matrix) -> float:
    """1 − ‖W − 11ᵀ/n‖₂, between 0 (mixes never) and 1 (one round is enough)."""
    return max(0.0, 1.0 - contraction(w))


@dataclass(frozen=True)
class Convergence:
    """How fast a matrix mixes: its spectral gap, and rounds of `mixing_rounds` and of `consensus_rounds`."""

    gap: float
    plain: int
    accelerated: int


def convergence(w: Matrix, tolerance: float) -> Convergence:
    """All of it at once, because the eigenvalues of many peers take long. Raises as `mixing_rounds` does."""
    rate = _rate(w, tolerance)
    plain = _plain_rounds(rate, tolerance)
    fast = is_symmetric(w) and rate > 0
    accelerated = _ceil(_acosh_inverse(tolerance) / _acosh_inverse(rate)) if fast else plain
    return Convergence(max(0.0, 1.0 - rate), plain, accelerated)


def mixing_rounds(w: Matrix, tolerance: float) -> int:
    """Rounds of plain mixing, ⌈ln ε / ln(1 − gap)⌉, that shrink any disagreement by the factor ε = tolerance.

    Raises ConfigError if the tolerance is not between 0 and 1, TopologyError if W never mixes (gap 0).
    """
    return _plain_rounds(_rate(w, tolerance), tolerance)


def consensus_rounds(w: Matrix, tolerance: float) -> int:
    """Rounds that the consensus phase needs: Chebyshev-accelerated where W is symmetric, else plain mixing.

    With λ = ‖W − 11ᵀ/n‖₂ the polynomial T_k(W/λ)/T_k(1/λ) keeps the mean and shrinks disagreement by
    1/T_k(1/λ) (accelerated gossip, Scaman et al. 2017); k is the smallest number with T_k(1/λ) ≥ 1/ε.
    Raises as `mixing_rounds` does.
    """
    return convergence(w, tolerance).accelerated


def mixing_bounds(w: Matrix, rounds: int) -> dict[str, list[float]]:
    """What k = 0..rounds rounds of mixing leave of any disagreement, at most, by the kind of mixing.

    `plain`: (1 − gap)^k. `chebyshev`, for a symmetric W: 1 / T_k(1 / (1 − gap)) (Scaman et al. 2017, section 4.1).
    """
    rate = contraction(w)
    bounds = {"plain": [rate**k for k in range(rounds + 1)]}
    if is_symmetric(w) and rate > 0:
        # cosh of large numbers overflows, its logarithm does not.
        angles = [k * math.acosh(1 / rate) for k in range(rounds + 1)]
        bounds["chebyshev"] = [math.exp(math.log(2) - x - math.log1p(math.exp(-2 * x))) for x in angles]
    return bounds


def _plain_rounds(rate: float, tolerance: float) -> int:
    return 1 if rate == 0 else _ceil(math.log(tolerance) / math.log(rate))


def _rate(w: Matrix, tolerance: float) -> float:
    if not 0 < tolerance < 1:
        raise ConfigError(f"the consensus tolerance is {tolerance!r}; it must lie between 0 and 1")
    rate = contraction(w)
    if rate > 1 - ROUNDING:
        raise TopologyError(
            "this mixing matrix never brings the peers together (spectral gap 0); "
            "leave every peer a positive weight of its own and every edge a positive weight"
        )
    return rate


def _acosh_inverse(x: float) -> float:
    return math.log1p(math.sqrt((1 - x) * (1 + x))) - math.log(x)  # acosh(1/x), where 1/x may overflow


def _ceil(rounds: float) -> int:
    return max(1, math.ceil(rounds - 1e-9))  # a whole number must not be rounded up for its rounding error


def without_edges(w: Matrix, pairs: Iterable[tuple[int, int]]) -> Matrix:
    """W with the weights of some pairs of peers moved to both ends' diagonals: symmetric W stay doubly stochastic."""
    cut = w.copy()
    for a, b in pairs:
        cut[a, a] += cut[a, b]
        cut[b, b] += cut[b, a]
        cut[a, b] = cut[b, a] = 0.0
    return cut


def neighborhood(w: Matrix, me: int) -> Neighborhood:
    """Peer `me`'s row and column of W."""
    others = [j for j in range(len(w)) if j != me]
    return Neighborhood(
        me=me,
        self_weight=float(w[me, me]),
        incoming={j: float(w[me, j]) for j in others if w[me, j] != 0},
        outgoing={j: float(w[j, me]) for j in others if w[j, me] != 0},
    )
