"""Positions of peers in the plot of a topology, by its shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import networkx as nx
import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.float64]

MAX_STRESS = 400  # peers; the layout of irregular graphs compares all pairs
# One offset a bit: a cube, a shifted copy beside it, and both again above; no two of 2^6 peers coincide.
_CUBE = np.array([(1.0, 0.0), (0.0, 1.0), (0.42, 0.37), (2.2, 0.22), (0.24, 2.2), (4.6, 0.5)])
_MAX_DOWNWARD_TREE = 20  # largest number of peers of a tree drawn downwards; larger ones are drawn from the center
_MIN_RING_SHARE = 0.6  # of the edges i, i+1, for a circle with chords


def node_positions(graph: nx.Graph) -> Positions:
    """Positions (n, 2) of the peers, by the first layout that fits; deterministic."""
    if len(graph) == 1:
        return np.zeros((1, 2))
    for layout in LAYOUTS:
        positions = layout(graph)
        if positions is not None:
            return positions
    return _stress(graph)


def circle(n: int, turn: float = 2 * math.pi) -> Positions:
    """Positions of n points on a circle, clockwise from the top."""
    angle = np.arange(n) * turn / n
    return np.column_stack([np.sin(angle), np.cos(angle)])


def _edges(graph: nx.Graph) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for i, j in graph.edges}


def _degrees(graph: nx.Graph) -> list[int]:
    return sorted(degree for _, degree in graph.degree)


def _star(graph: nx.Graph) -> Positions | None:
    n = len(graph)
    center = max(graph, key=graph.degree)
    if graph.is_directed() or n < 4 or _degrees(graph) != [1] * (n - 1) + [n - 1]:
        return None
    positions = np.zeros((n, 2))
    positions[[i for i in range(n) if i != center]] = circle(n - 1)
    return positions


def _path(graph: nx.Graph) -> Positions | None:
    n = len(graph)
    if graph.is_directed() or n < 2 or _degrees(graph) != [1, 1] + [2] * (n - 2):
        return None
    start = min(i for i in graph if graph.degree(i) == 1)
    order = list(nx.dfs_preorder_nodes(graph, start))
    positions = np.zeros((n, 2))
    if n <= 8:
        positions[order] = np.column_stack([np.arange(n), np.zeros(n)])
    else:  # an open circle: a straight line of many peers cannot be read
        positions[order] = circle(n, 2 * math.pi * 0.88)
    return positions


def _ring(graph: nx.Graph) -> Positions | None:
    n = len(graph)
    if graph.is_directed() or n < 3 or _degrees(graph) != [2] * n:
        return None
    positions = np.zeros((n, 2))
    positions[list(nx.dfs_preorder_nodes(graph, 0))] = circle(n)
    return positions


def _tree(graph: nx.Graph) -> Positions | None:
    if graph.is_directed() or graph.number_of_edges() != len(graph) - 1:
        return None
    n = len(graph)
    root = 0 if graph.degree(0) > 1 else nx.center(graph)[0]
    children: dict[int, list[int]] = dict(nx.bfs_successors(graph, root))
    depth = nx.single_source_shortest_path_length(graph, root)
    across = np.zeros(n)
    leaves = 0
    for i in nx.dfs_postorder_nodes(graph, root):
        below = children.get(i, [])
        across[i] = np.mean(across[below]) if below else leaves
        leaves += not below
    down = np.array([depth[i] for i in range(n)], float)
    if n <= _MAX_DOWNWARD_TREE:
        return np.column_stack([across, -down * max(1.0, leaves / (2 * down.max()))])
    angle = across * 2 * math.pi / leaves
    return np.column_stack([down * np.sin(angle), down * np.cos(angle)])


def _grid(graph: nx.Graph) -> Positions | None:
    """A torus or open grid numbered row by row."""
    n = len(graph)
    if graph.is_directed():
        return None
    wanted = _edges(graph)
    for rows in range(math.isqrt(n), 1, -1):
        columns = n // rows
        if n % rows:
            continue
        for periodic in (True, False):
            grid = nx.grid_2d_graph(rows, columns, periodic=periodic)
            numbered = ((a * columns + b, c * columns + d) for (a, b), (c, d) in grid.edges)
            if wanted == {(min(e), max(e)) for e in numbered}:
                return np.array([(i % columns, -(i // columns)) for i in range(n)], float)
    return None


def _hypercube(graph: nx.Graph) -> Positions | None:
    n = len(graph)
    bits = n.bit_length() - 1
    if graph.is_directed() or n != 1 << bits or not 3 <= bits <= len(_CUBE):
        return None
    if _edges(graph) != {(i, i | 1 << b) for i in range(n) for b in range(bits) if not i >> b & 1}:
        return None
    digits = np.arange(n)[:, None] >> np.arange(bits) & 1
    positions: Positions = digits @ _CUBE[:bits]
    return positions


def _ring_like(graph: nx.Graph) -> Positions | None:
    n = len(graph)
    along = sum(graph.has_edge(i, (i + 1) % n) for i in range(n))
    return circle(n) if along >= _MIN_RING_SHARE * n or n > MAX_STRESS else None


def _stress(graph: nx.Graph) -> Positions:
    """Layout by stress majorization: distances as in the graph.

    Gansner, Koren & North 2005.
    """
    n = len(graph)
    hops = np.zeros((n, n))
    for i, reached in nx.all_pairs_shortest_path_length(graph.to_undirected(as_view=True)):
        hops[i, list(reached)] = list(reached.values())
    np.fill_diagonal(hops, 1.0)
    weight = hops**-2.0
    np.fill_diagonal(weight, 0.0)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    inverse = np.linalg.pinv(laplacian)
    positions = circle(n) * hops.max() / 2
    for _ in range(200):
        gap = np.linalg.norm(positions[:, None] - positions[None], axis=2)
        np.fill_diagonal(gap, 1.0)
        pull = -weight * hops / np.maximum(gap, 1e-9)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        positions = inverse @ (pull @ positions)
    return np.asarray(positions)


LAYOUTS: tuple[Callable[[nx.Graph], Positions | None], ...] = (
    _star,
    _path,
    _ring,
    _tree,
    _grid,
    _hypercube,
    _ring_like,
)
