"""Mixing matrices of topologies, by rule or from the file's weights."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import numpy as np

from p2pfl import registry
from p2pfl.errors import ConfigError, TopologyError
from p2pfl.topology.checks import fix_command
from p2pfl.topology.convergence import schedule_convergence
from p2pfl.topology.formats.readers import ENDINGS
from p2pfl.topology.graph import Topology
from p2pfl.topology.spectrum import Matrix, Vector
from p2pfl.util.units import counted

PUSH_SUM = "--algorithm push-sum --mixing column-stochastic"  # for directed graphs with any degrees
SUM_TOLERANCE = 1e-6  # allowed deviation from 1 of a sum of weights in a file


def mixing_matrix(
    topology: Topology,
    mixing: str = "metropolis-hastings",
    sizes: Sequence[int] | None = None,
    push_sum: bool = False,
) -> Matrix:
    """Mixing matrix W, (n, n) float64; row i holds the weights of peer i's average.

    `metropolis-hastings`: 1/(1 + max(d_i, d_j)) on edges (Xiao, Boyd & Kim 2007). `max-degree`: 1/(1 + the largest
    degree) on all edges. `uniform`: 1/(1 + d) for graphs in which all degrees are equal. `weights`: the file's edge
    weights. The rest of each row's sum of 1 is on the diagonal. W is doubly stochastic, so mixing preserves the mean.

    `samples` weighs peers by `sizes`, the samples of their shards (by default all the same): W is row-stochastic and
    preserves Σ n_i x_i / Σ n_i, with which all peers agree in the end.

    `column-stochastic`: 1/(1 + out-degree), of any graph; only the columns add up to 1, for push-sum.

    `push_sum`: the matrix is for push-sum, so that of `weights` only the columns have to add up to 1, and `auto` fits
    every graph (`push_mixing`).

    Raises ConfigError for an unknown mixing, or one that has a matrix for each round (`mixing_matrices`), TopologyError
    where W would not be doubly stochastic.

    Examples:
        >>> from p2pfl import make_topology
        >>> mixing_matrix(make_topology("ring", 4)).round(3).tolist()[0]
        [0.333, 0.333, 0.0, 0.333]
    """
    registry.check("mixing", mixing)
    entry = registry.MIXINGS[mixing]
    if entry.by_round:
        raise ConfigError(f"--mixing {mixing}: has a matrix for each round; use mixing_matrices")
    arguments = [[1] * topology.n if sizes is None else sizes] if entry.weighs_by_samples else []
    matrix: Matrix = registry.load(entry, push_sum=push_sum)(topology, *arguments)
    return matrix


def mixing_matrices(
    topology: Topology,
    mixing: str = "metropolis-hastings",
    sizes: Sequence[int] | None = None,
    push_sum: bool = False,
) -> tuple[Matrix, ...]:
    """Mixing matrices by round, which repeat, or the one of all rounds.

    Of a schedule those of its graphs. `finite-time`, of one undirected graph: those that null the eigenvalues of its
    Metropolis–Hastings weights in turn, so that their product is 11ᵀ/n (`topology.finite_time`); self-weights may be
    negative. Raises as `mixing_matrix` does, naming the graph that does not fit.
    """
    registry.check("mixing", mixing)
    entry = registry.MIXINGS[mixing]
    if entry.by_round:
        found: tuple[Matrix, ...] = registry.load(entry)(topology).matrices
        return found
    return tuple(mixing_matrix(one, mixing, sizes, push_sum) for one in topology.by_round)


def metropolis_hastings(topology: Topology) -> Matrix:
    """1/(1 + max(d_i, d_j)) on the edge of i and j; see `mixing_matrix`."""
    if topology.directed:
        remedy = {
            "uniform": "use --mixing uniform, all its degrees are equal",
            "max-degree": "use --mixing max-degree, each peer sends to as many as it receives from",
            None: f"give all peers equal in- and out-degrees and use --mixing uniform, {_other_ways(topology)}",
        }[mean_keeping(topology)]
        raise TopologyError(f"{topology.source}: metropolis-hastings needs an undirected graph; {remedy}")
    degree = dict(topology.graph.degree())
    w = np.zeros((topology.n, topology.n))
    for i, j in topology.graph.edges:
        w[i, j] = w[j, i] = 1.0 / (1 + max(degree[i], degree[j]))
    return _fill_diagonal(w)


def max_degree(topology: Topology) -> Matrix:
    """1/(1 + the largest degree) on every edge; see `mixing_matrix`."""
    if topology.directed and not _is_balanced(topology):
        raise TopologyError(
            f"{topology.source}: max-degree mixing of a directed graph needs peers that send to as many as they "
            f"receive from, or the mean of the peers drifts; add edges, {_other_ways(topology)}"
        )
    graph = topology.graph
    largest = max(degree for _, degree in (graph.in_degree() if topology.directed else graph.degree()))
    return _fill_diagonal(_received(topology) / (1 + largest))


def by_samples(topology: Topology, sizes: Sequence[int]) -> Matrix:
    """Metropolis–Hastings weights with the peers' shares of the samples as target.

    W_ij = min(1 / (1 + d_i), n_j / n_i / (1 + d_j)) on edges (Hastings 1970): n_i W_ij is symmetric, so that Wᵀn = n.
    With equal sizes it is `metropolis_hastings`.
    """
    if topology.directed:
        raise TopologyError(f"{topology.source}: samples needs an undirected graph; {_made_undirected(topology)}")
    degree = dict(topology.graph.degree())
    w = np.zeros((topology.n, topology.n))
    for i, j in topology.graph.edges:
        flow = min(sizes[i] / (1 + degree[i]), sizes[j] / (1 + degree[j]))
        w[i, j], w[j, i] = flow / sizes[i], flow / sizes[j]
    return _fill_diagonal(w)


def uniform(topology: Topology) -> Matrix:
    """1/(1 + d) on every edge; see `mixing_matrix`."""
    degree = _common_degree(topology)
    if degree is None:
        remedy = {
            "metropolis-hastings": "use --mixing metropolis-hastings",
            "max-degree": "use --mixing max-degree, each peer sends to as many as it receives from",
            None: f"give all peers equal in- and out-degrees, {_other_ways(topology)}",
        }[mean_keeping(topology)]
        raise TopologyError(
            f"{topology.source}: uniform mixing needs equal degrees, or the mean of the peers drifts; {remedy}"
        )
    w: Matrix = (_received(topology) + np.eye(topology.n)) / (1 + degree)
    return w


def column_stochastic(topology: Topology) -> Matrix:
    """1/(1 + out-degree) to each out-neighbor and itself; see `mixing_matrix`.

    Push-sum (Kempe, Dobra & Gehrke 2003) makes a mean of it.
    """
    adjacency = nx.to_numpy_array(topology.graph, nodelist=range(topology.n), weight=None)
    w: Matrix = adjacency.T + np.eye(topology.n)  # networkx: row sends, here: row receives
    return np.asarray(w / w.sum(axis=0))


def file_weights(topology: Topology) -> Matrix:
    """The edge weights of the topology file; see `mixing_matrix`."""
    w = edge_weights(topology)
    for i, total in enumerate(w.sum(axis=1)):
        if total > 1 + SUM_TOLERANCE:
            raise TopologyError(
                f"{topology.source}: the weights into {topology.names[i]!r} add up to {total:.6g}; at most "
                f"1 is possible, the rest is the peer's self-weight{_or_push_sum(w.sum(axis=0))}"
            )
    outgoing = w.sum(axis=0)
    w = _fill_diagonal(w)
    for j, total in enumerate(w.sum(axis=0)):
        if abs(total - 1) > SUM_TOLERANCE:
            raise TopologyError(
                f"{topology.source}: the self-weight of {topology.names[j]!r} and the weights out of it add up to "
                f"{total:.6g} instead of 1, so the mean of the peers would drift; make the weights out of "
                f"each peer add up to the weights into it{_or_push_sum(outgoing)}"
            )
    return w


def _or_push_sum(outgoing: Vector) -> str:
    """Further remedy for a file's weights of which those out of each peer fit."""
    return ", or use --algorithm push-sum" if bool((outgoing < 1 - SUM_TOLERANCE).all()) else ""


def edge_weights(topology: Topology) -> Matrix:
    """Weights of the file's edges, (n, n): row i has those into i, the diagonal 0."""
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
    return w


def automatic(topology: Topology) -> Matrix:
    """The file's weights where they keep the mean, else those of `mean_keeping`.

    Raises TopologyError where none does.
    """
    return mixing_matrix(topology, automatic_choice(topology))


def automatic_choice(topology: Topology, push_sum: bool = False) -> str:
    """Mixing that `auto` stands for on one graph.

    Where none keeps the mean `column-stochastic` with push-sum, else `uniform`, which is refused.
    """
    if all("weight" in data for *_, data in topology.graph.edges(data=True)):
        with contextlib.suppress(TopologyError):
            mixing_matrix(topology, "weights", push_sum=push_sum)
            return "weights"
    return mean_keeping(topology) or ("column-stochastic" if push_sum else "uniform")


def weights_text(topology: Topology, mixing: str, push_sum: bool = False) -> str:
    """Weights of a mixing in words; for `auto` those that it stands for."""
    if mixing == "auto":
        chosen = Counter(weights_text(one, automatic_choice(one, push_sum)) for one in topology.by_round)
        if len(chosen) == 1:
            return next(iter(chosen))
        return " and ".join(f"{weights} of {counted(count, 'graph')}" for weights, count in chosen.items())
    return "the file's weights" if mixing == "weights" else f"{mixing} weights"


def exact_by_weights(topology: Topology, push_sum: bool = False) -> int | None:
    """Rounds in which a schedule's own weights average exactly; None if they do not."""
    if not all("weight" in data for graph in topology.rounds for *_, data in graph.edges(data=True)):
        return None
    try:
        return schedule_convergence(mixing_matrices(topology, "weights", push_sum=push_sum)).exact
    except TopologyError:
        return None


def undirected_command(topology: Topology) -> str:
    """Command `topology fix --undirected` for a topology; empty without a file."""
    is_file = Path(topology.source).suffix.lower() in ENDINGS
    return fix_command(topology.source, ("--undirected",)) if is_file else ""


def _other_ways(topology: Topology) -> str:
    return f"or {_made_undirected(topology)}, or use {PUSH_SUM}"


def _made_undirected(topology: Topology) -> str:
    command = undirected_command(topology)
    return f"make it undirected{f' with: {command}' if command else ''}"


def mean_keeping(topology: Topology) -> str | None:
    """Mixing computed from the edges that keeps the mean of the peers; None if none.

    Of a schedule the first that does so in each round.
    """
    if topology.is_schedule:
        fitting = {mean_keeping(one) for one in topology.by_round}
        if fitting == {"metropolis-hastings", "uniform"}:  # where a round's edges happen to go both ways
            alike = all(_common_degree(one) is not None for one in topology.by_round)
            return "uniform" if alike else "max-degree"
        return None if None in fitting else "max-degree" if len(fitting) > 1 else fitting.pop()
    if not topology.directed:
        return "metropolis-hastings"
    if _common_degree(topology) is not None:
        return "uniform"
    return "max-degree" if _is_balanced(topology) else None


def _received(topology: Topology) -> Matrix:
    """Adjacency, (n, n), with 1 where the row's peer receives from the column's.

    In networkx's the rows send.
    """
    adjacency: Matrix = nx.to_numpy_array(topology.graph, nodelist=range(topology.n), weight=None)
    return adjacency.T


def _is_balanced(topology: Topology) -> bool:
    """Whether each peer of a directed graph has equal in- and out-degrees."""
    sent = dict(topology.graph.out_degree())
    return all(sent[peer] == received for peer, received in topology.graph.in_degree())


def _fill_diagonal(w: Matrix) -> Matrix:
    np.fill_diagonal(w, np.maximum(0.0, 1.0 - w.sum(axis=1)))
    return w


def _common_degree(topology: Topology) -> int | None:
    """Degree of all peers, in and out; None if they differ."""
    graph = topology.graph
    views = (graph.in_degree, graph.out_degree) if topology.directed else (graph.degree,)
    degrees = {int(degree) for view in views for _, degree in view()}
    return degrees.pop() if len(degrees) == 1 else None
