"""Generators of common topologies, from a kind and a number of peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import networkx as nx

from p2pfl.errors import TopologyError
from p2pfl.seeding import derive
from p2pfl.topology.formats.json_schedules import MAX_GRAPHS
from p2pfl.topology.graph import MAX_PEERS, Topology, build_schedule, build_topology
from p2pfl.topology.parameters import BASE_K_DEGREE, DEGREE, TRIES, Parameters, check_regular
from p2pfl.topology.schedule_generators import RANDOM_SCHEDULES, SCHEDULES, random_regular_each_round

SMALLEST_TORUS_SIDE = 3  # with 2, a peer's two neighbors on that side would be the same one


# More than 6 parameters: the options of `topology make`.
def make_topology(
    kind: str,
    n: int,
    *,
    seed: int = 0,
    degree: int | None = None,
    probability: float | None = None,
    period: int | None = None,
) -> Topology:
    """Generate a topology of exactly n peers; `kind` is one of KINDS or SCHEDULES.

    `degree` (neighbors a peer) is for random-regular, small-world (default 4) and base-k (at most, default 1). `period`
    is the number of graphs that random-matching (default 32) and random-regular (default: one for all rounds) draw.
    `probability` is small-world's chance
    that an edge is rewired (default 0.1) and erdos-renyi's chance of each edge (default 2 ln n / n, twice the
    threshold of connectivity). Random kinds are drawn from `seed` and are connected. Raises TopologyError
    where n or an option does not fit the kind, and names a possible value.

    Examples:
        >>> ring = make_topology("ring", 8)
        >>> ring.name, ring.n, sorted(ring.graph.neighbors(0))
        ('ring-8', 8, [1, 7])
    """
    if kind not in (*KINDS, *SCHEDULES):
        raise TopologyError(f"topology kind {kind!r} is unknown; use one of {', '.join((*KINDS, *SCHEDULES))}")
    if not 2 <= n <= MAX_PEERS:
        raise TopologyError(f"{kind}: n is {n}; it must be from 2 to {MAX_PEERS} peers")
    if probability is not None and not 0 <= probability <= 1:
        raise TopologyError(f"{kind}: probability is {probability}; it must be from 0 to 1")
    if period is not None and kind not in RANDOM_SCHEDULES:
        raise TopologyError(f"{kind}: has no period; {' and '.join(RANDOM_SCHEDULES)} draw a graph for each round")
    if period is not None and not 1 <= period <= MAX_GRAPHS:
        raise TopologyError(f"{kind}: period is {period}; it must be from 1 to {MAX_GRAPHS} graphs")
    if degree is None:
        degree = BASE_K_DEGREE if kind == "base-k" else DEGREE
    params, name = Parameters(n, seed, degree, probability, period), f"{kind}-{n}"
    if kind in SCHEDULES:
        name = f"base-{degree + 1}-{n}" if kind == "base-k" else name
        return build_schedule(SCHEDULES[kind](params), name=name, source=name)
    if period is not None and period > 1:
        return build_schedule(random_regular_each_round(params, period), name=name, source=name)
    return build_topology(KINDS[kind](params), name=name, source=name)


def _ring(params: Parameters) -> nx.Graph:
    """Cycle: every peer has two neighbors."""
    if params.n < 3:
        raise TopologyError(f"ring: needs at least 3 peers, not {params.n}; use path for 2")
    return nx.cycle_graph(params.n)


def _path(params: Parameters) -> nx.Graph:
    """Path, or chain in papers on relayed sums: a ring without its last edge."""
    return nx.path_graph(params.n)


def _star(params: Parameters) -> nx.Graph:
    """Star: peer 0 is the center, and the only neighbor of all others."""
    return nx.star_graph(params.n - 1)


def _complete(params: Parameters) -> nx.Graph:
    """Full mesh: each peer is a neighbor of all others."""
    return nx.complete_graph(params.n)


def _torus_sides(n: int) -> tuple[int, int] | None:
    """Most square factorization, rows × columns = n."""
    for rows in range(math.isqrt(n), SMALLEST_TORUS_SIDE - 1, -1):
        if n % rows == 0:
            return rows, n // rows
    return None


def _torus(params: Parameters) -> nx.Graph:
    """Grid of rows × columns, as square as n allows, whose borders are joined."""
    sides = _torus_sides(params.n)
    if sides is None:
        nearest = _nearest(params.n, lambda n: _torus_sides(n) is not None)
        raise TopologyError(
            f"torus: {params.n} is not rows × columns with both at least {SMALLEST_TORUS_SIDE}; nearest n: {nearest}"
        )
    rows, columns = sides
    grid = nx.grid_2d_graph(rows, columns, periodic=True)
    return nx.relabel_nodes(grid, {(r, c): r * columns + c for r, c in grid})


def _hypercube(params: Parameters) -> nx.Graph:
    """Hypercube of 2^k peers: neighbors differ in one bit of their number."""
    n = params.n
    if not _power_of_two(n):
        raise TopologyError(f"hypercube: needs a power of two, not {n}; nearest n: {_nearest(n, _power_of_two)}")
    bits = [1 << k for k in range(n.bit_length() - 1)]
    return nx.Graph((i, i ^ bit) for i in range(n) for bit in bits if i < i ^ bit)


def _exponential(params: Parameters) -> nx.DiGraph:
    """Static exponential graph, directed: i → i + 2^k mod n (Ying et al. 2021)."""
    n = params.n
    hops = [1 << k for k in range((n - 1).bit_length())]
    return nx.DiGraph((i, (i + hop) % n) for i in range(n) for hop in hops)


def _tree(params: Parameters) -> nx.Graph:
    """Balanced binary tree: the parent of i is (i − 1) // 2."""
    return nx.Graph(((i - 1) // 2, i) for i in range(1, params.n))


def _double_binary_tree(params: Parameters) -> nx.Graph:
    """Edges of two binary trees, in which no peer has children in both.

    Source: Sanders, Speck & Träff 2009, Two-tree algorithms for full bandwidth broadcast, reduction and scan. Peer r's
    parent in the first tree: r without its lowest set bit, with the next higher one set where that peer exists. The
    second tree is the first one mirrored, or shifted by a peer where n is odd, as in NCCL.
    """
    n = params.n
    first = [(child, _binary_parent(child, n)) for child in range(1, n)]
    second = [((a + 1) % n, (b + 1) % n) if n % 2 else (n - 1 - a, n - 1 - b) for a, b in first]
    return nx.Graph([*first, *second])


def _binary_parent(child: int, n: int) -> int:
    lowest = child & -child
    above = (child ^ lowest) | (lowest << 1)
    return above if above < n else child ^ lowest


def _random_regular(params: Parameters) -> nx.Graph:
    """Random graph of equal degrees; with a period, one for each round."""
    n, degree = params.n, params.degree
    check_regular(params)
    return _connected(
        "random-regular",
        lambda draw: nx.random_regular_graph(degree, n, seed=derive(params.seed, "random-regular", round=draw)),
        "a larger degree",
    )


def _small_world(params: Parameters) -> nx.Graph:
    """Small-world graph (Watts & Strogatz 1998), drawn until connected."""
    n, degree = params.n, params.degree
    if degree % 2 or not 2 <= degree < n:
        raise TopologyError(f"small-world: degree is {degree}; with {n} peers it must be even and from 2 to {n - 1}")
    probability = 0.1 if params.probability is None else params.probability
    return _connected(
        "small-world",
        lambda draw: nx.watts_strogatz_graph(
            n, degree, probability, seed=derive(params.seed, "small-world", round=draw)
        ),
        "a larger degree or a smaller probability",
    )


def _erdos_renyi(params: Parameters) -> nx.Graph:
    """Random graph with each edge at a probability (Erdős & Rényi 1959), connected."""
    n = params.n
    probability = min(1.0, 2 * math.log(n) / n) if params.probability is None else params.probability
    return _connected(
        "erdos-renyi",
        lambda draw: nx.gnp_random_graph(n, probability, seed=derive(params.seed, "erdos-renyi", round=draw)),
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


KINDS: Mapping[str, Callable[[Parameters], nx.Graph]] = {
    "ring": _ring,
    "path": _path,
    "chain": _path,  # another name
    "star": _star,
    "complete": _complete,
    "torus": _torus,
    "hypercube": _hypercube,
    "exponential": _exponential,
    "tree": _tree,
    "double-binary-tree": _double_binary_tree,
    "random-regular": _random_regular,
    "small-world": _small_world,
    "erdos-renyi": _erdos_renyi,
}
