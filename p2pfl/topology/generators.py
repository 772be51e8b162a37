"""Generators of the usual topologies: from a kind and a number of peers to a checked graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.seeding import derive
from p2pfl.topology.graph import MAX_PEERS, Topology, build_topology

TRIES = 100  # draws of a random graph before one gives up on a connected one
SMALLEST_TORUS_SIDE = 3  # with 2, a peer's two neighbors on that side would be the same one


@dataclass(frozen=True)
class Wanted:
    """What a generator is asked for; `probability` None means the kind's own default."""

    n: int
    seed: int
    degree: int
    probability: float | None


def make_topology(kind: str, n: int, *, seed: int = 0, degree: int = 4, probability: float | None = None) -> Topology:
    """A topology of exactly n peers; `kind` is one of KINDS.

    `degree` (neighbors a peer) is for random-regular and small-world. `probability` is small-world's chance
    that an edge is rewired (default 0.1) and erdos-renyi's chance of each edge (default 2 ln n / n, twice the
    threshold of connectivity). Random kinds are drawn from `seed` and are connected. Raises TopologyError,
    naming what would be possible, where n or an option does not fit the kind.
    """
    if kind not in KINDS:
        raise TopologyError(f"topology kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if not 2 <= n <= MAX_PEERS:
        raise TopologyError(f"{kind}: n is {n}; it must be from 2 to {MAX_PEERS} peers")
    if probability is not None and not 0 <= probability <= 1:
        raise TopologyError(f"{kind}: probability is {probability}; it must be from 0 to 1")
    graph = KINDS[kind](Wanted(n, seed, degree, probability))
    return build_topology(graph, name=f"{kind}-{n}", source=f"{kind}-{n}")


def _ring(wanted: Wanted) -> nx.Graph:
    if wanted.n < 3:
        raise TopologyError(f"ring: needs at least 3 peers, not {wanted.n}; use path for 2")
    return nx.cycle_graph(wanted.n)


def _path(wanted: Wanted) -> nx.Graph:
    return nx.path_graph(wanted.n)


def _star(wanted: Wanted) -> nx.Graph:
    return nx.star_graph(wanted.n - 1)  # peer 0 is the center


def _complete(wanted: Wanted) -> nx.Graph:
    return nx.complete_graph(wanted.n)


def _torus_sides(n: int) -> tuple[int, int] | None:
    """The most square rows × columns = n."""
    for rows in range(math.isqrt(n), SMALLEST_TORUS_SIDE - 1, -1):
        if n % rows == 0:
            return rows, n // rows
    return None


def _torus(wanted: Wanted) -> nx.Graph:
    sides = _torus_sides(wanted.n)
    if sides is None:
        nearest = _nearest(wanted.n, lambda n: _torus_sides(n) is not None)
        raise TopologyError(
            f"torus: {wanted.n} is not rows × columns with both at least {SMALLEST_TORUS_SIDE}; nearest n: {nearest}"
        )
    rows, columns = sides
    grid = nx.grid_2d_graph(rows, columns, periodic=True)
    return nx.relabel_nodes(grid, {(r, c): r * columns + c for r, c in grid})


def _hypercube(wanted: Wanted) -> nx.Graph:
    n = wanted.n
    if not _power_of_two(n):
        raise TopologyError(f"hypercube: needs a power of two, not {n}; nearest n: {_nearest(n, _power_of_two)}")
    bits = [1 << k for k in range(n.bit_length() - 1)]
    return nx.Graph((i, i ^ bit) for i in range(n) for bit in bits if i < i ^ bit)


def _exponential(wanted: Wanted) -> nx.DiGraph:
    """i → i + 2^k (mod n): the static exponential graph (Ying et al. 2021)."""
    n = wanted.n
    hops = [1 << k for k in range((n - 1).bit_length())]
    return nx.DiGraph((i, (i + hop) % n) for i in range(n) for hop in hops)


def _tree(wanted: Wanted) -> nx.Graph:
    """The balanced binary tree: the parent of i is (i − 1) // 2."""
    return nx.Graph(((i - 1) // 2, i) for i in range(1, wanted.n))


def _random_regular(wanted: Wanted) -> nx.Graph:
    n, degree = wanted.n, wanted.degree
    if not 1 <= degree < n:
        raise TopologyError(f"random-regular: degree is {degree}; with {n} peers it must be from 1 to {n - 1}")
    if n * degree % 2:
        raise TopologyError(
            f"random-regular: n × degree must be even, not {n} × {degree}; take n {n + 1} or another degree"
        )
    return _connected(
        "random-regular",
        lambda draw: nx.random_regular_graph(degree, n, seed=derive(wanted.seed, "random-regular", round=draw)),
        "a larger degree",
    )


def _small_world(wanted: Wanted) -> nx.Graph:
    """Watts & Strogatz 1998, drawn until connected."""
    n, degree = wanted.n, wanted.degree
    if degree % 2 or not 2 <= degree < n:
        raise TopologyError(f"small-world: degree is {degree}; with {n} peers it must be even and from 2 to {n - 1}")
    probability = 0.1 if wanted.probability is None else wanted.probability
    return _connected(
        "small-world",
        lambda draw: nx.watts_strogatz_graph(
            n, degree, probability, seed=derive(wanted.seed, "small-world", round=draw)
        ),
        "a larger degree or a smaller probability",
    )


def _erdos_renyi(wanted: Wanted) -> nx.Graph:
    n = wanted.n
    probability = min(1.0, 2 * math.log(n) / n) if wanted.probability is None else wanted.probability
    return _connected(
        "erdos-renyi",
        lambda draw: nx.gnp_random_graph(n, probability, seed=derive(wanted.seed, "erdos-renyi", round=draw)),
        f"a larger probability than {probability:.3g}: connected graphs are likely above ln n / n = "
        f"{math.log(n) / n:.2g}",
    )


def _connected(kind: str, draw: Callable[[int], nx.Graph], remedy: str) -> nx.Graph:
    for attempt in range(TRIES):
        graph = draw(attempt)
        if nx.is_connected(graph):
            return graph
    raise TopologyError(f"{kind}: none of {TRIES} random graphs was connected; take {remedy}")


def _power_of_two(n: int) -> bool:
    return n >= 2 and n & (n - 1) == 0


def _nearest(n: int, valid: Callable[[int], bool]) -> str:
    below = next((m for m in range(n - 1, 1, -1) if valid(m)), None)
    above = next((m for m in range(n + 1, MAX_PEERS + 1) if valid(m)), None)
    return " or ".join(str(m) for m in (below, above) if m is not None)


KINDS: Mapping[str, Callable[[Wanted], nx.Graph]] = {
    "ring": _ring,
    "path": _path,
    "star": _star,
    "complete": _complete,
    "torus": _torus,
    "hypercube": _hypercube,
    "exponential": _exponential,
    "tree": _tree,
    "random-regular": _random_regular,
    "small-world": _small_world,
    "erdos-renyi": _erdos_renyi,
}
