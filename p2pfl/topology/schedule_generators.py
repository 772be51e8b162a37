"""Generators of schedules: a list of graphs, one for each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.seeding import derive, numpy_generator
from p2pfl.topology.base_graph import base_graph
from p2pfl.topology.parameters import PERIOD, TRIES, Parameters, check_regular
from p2pfl.util.units import counted


def _one_peer_exponential(params: Parameters) -> list[nx.Graph]:
    """One-peer exponential graphs, directed: i → i + 2^t mod n (Ying et al. 2021).

    They average exactly in one period where n is a power of 2.
    """
    n = params.n
    return [nx.DiGraph((i, (i + (1 << t)) % n) for i in range(n)) for t in range((n - 1).bit_length())]


def _base_k(params: Parameters) -> list[nx.Graph]:
    """Base-(k+1) graph, which averages exactly for every n (Takezawa et al. 2023).

    With the weights of the file, in one period. k is the largest degree.
    """
    if not 1 <= params.degree < params.n:
        raise TopologyError(
            f"base-k: degree is {params.degree}; with {params.n} peers it must be from 1 to {params.n - 1}"
        )
    graphs = []
    for edges in base_graph(params.n, params.degree):
        graph = _without_edges(params.n)
        graph.add_weighted_edges_from((i, j, weight) for (i, j), weight in edges.items())
        graphs.append(graph)
    return graphs


def _random_matching(params: Parameters) -> list[nx.Graph]:
    """Random pairs in each round; of an odd number of peers one is alone."""
    n, period = params.n, params.period or PERIOD

    def draw(number: int) -> nx.Graph:
        order = numpy_generator(params.seed, "random-matching", round=number).permutation(n).tolist()
        graph = _without_edges(n)
        graph.add_edges_from(zip(order[::2], order[1::2], strict=False))
        return graph

    return _connected_together("random-matching", draw, period)


def random_regular_each_round(params: Parameters, period: int) -> list[nx.Graph]:
    """Random graph for each round in which every peer has `degree` neighbors."""
    check_regular(params)

    def draw(number: int) -> nx.Graph:
        graph = _without_edges(params.n)
        seed = derive(params.seed, "random-regular", round=number)
        graph.add_edges_from(nx.random_regular_graph(params.degree, params.n, seed=seed).edges)
        return graph

    return _connected_together("random-regular", draw, period)


def _without_edges(n: int) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    return graph


def _connected_together(kind: str, draw: Callable[[int], nx.Graph], period: int) -> list[nx.Graph]:
    """Graphs of which those of one period connect all peers."""
    for attempt in range(TRIES):
        graphs = [draw(attempt * period + number) for number in range(period)]
        if nx.is_connected(nx.compose_all(graphs)):
            return graphs
    raise TopologyError(
        f"{kind}: none of {TRIES} draws of {counted(period, 'graph')} connected all peers; take a longer period"
    )


SCHEDULES: Mapping[str, Callable[[Parameters], list[nx.Graph]]] = {
    "one-peer-exponential": _one_peer_exponential,
    "base-k": _base_k,
    "random-matching": _random_matching,
}
RANDOM_SCHEDULES = ("random-matching", "random-regular")  # those with a period of the user's
