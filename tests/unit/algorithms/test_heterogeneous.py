"""Algorithms for different data on the peers, against dense references.

Each reference is written from the paper, over all peers at once in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.support.helpers import disagreement, matrix
from tests.support.quadratics import SIZE, Quadratics, QuadraticSwarm

from p2pfl.algorithms import DPSGD, build_algorithm
from p2pfl.algorithms.adaptive_consensus import AdaptiveConsensus
from p2pfl.algorithms.averaged_momentum import AveragedMomentum
from p2pfl.algorithms.base import Algorithm
from p2pfl.algorithms.exact_diffusion import ExactDiffusion
from p2pfl.algorithms.gradient_tracking import GradientTracking
from p2pfl.algorithms.quasi_global import QuasiGlobal
from p2pfl.config import RunConfig
from p2pfl.topology import lazy

N, BETA = 6, 0.9
W = lazy(matrix("ring", N))
RATES = [0.05, 0.05, 0.05, 0.08, 0.02, 0.02]  # of six rounds
Reference = Callable[[np.ndarray, Quadratics, list[list[float]], float], list[np.ndarray]]


def local_steps(
    x: np.ndarray, problem: Quadratics, rates: list[float], m: np.ndarray, beta: float, c: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nesterov steps as torch's; returns x, momentum and the sum of gradients."""
    total = np.zeros_like(x)
    for rate in rates:
        g = problem.gradient(x) + c
        total += g
        m = beta * m + g
        x = x - rate * (g + beta * m if beta else g)
    return x, m, total


def d_squared(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """Tang et al. 2018, algorithm 1, for K = 1 and a constant rate."""
    ((rate,), *_) = rates
    found, x, before, g_before = [], np.zeros((N, SIZE)), None, None
    for _ in rates:
        g = problem.gradient(x)
        half = x - rate * g if before is None else 2 * x - before - rate * g + rate * g_before
        before, g_before, x = x, g, w @ half
        found.append(x)
    return found


def exact_diffusion(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """The rule of the docstring, for any K, rates and momentum."""
    found, x, psi, m, last = [], np.zeros((N, SIZE)), np.zeros((N, SIZE)), np.zeros((N, SIZE)), None
    for steps in rates:
        trained, m, _ = local_steps(x, problem, steps, m, beta)
        correction = 0.0 if last is None else sum(steps) / last * (x - psi)
        psi, last = trained, sum(steps)
        x = w @ (trained + correction)
        found.append(x)
    return found


def quasi_global(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """Lin et al. 2021, algorithm 1, Nesterov; K steps from the same momentum."""
    found, x, m = [], np.zeros((N, SIZE)), np.zeros((N, SIZE))
    for steps in rates:
        half = x
        for rate in steps:
            g = problem.gradient(half)
            half = half - rate * (g + beta * (beta * m + g))
        following = w @ half
        m = beta * m + (1 - beta) * (x - following) / sum(steps)
        x = following
        found.append(x)
    return found


def tracking(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """K = 1: y⁺ = W y + g⁺ − g, x⁺ = W (x − η y); momentum acts on y."""
    found, x, m = [], np.zeros((N, SIZE)), np.zeros((N, SIZE))
    y = g = problem.gradient(x)
    for (rate,) in rates:
        m = beta * m + y
        x = w @ (x - rate * (y + beta * m if beta else y))
        following = problem.gradient(x)
        y, g = w @ y + following - g, following
        found.append(x)
    return found


def k_gt(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """Liu et al. 2024, algorithm 1 (server rate 1, corrections 0 at the start)."""
    found, x, c, m = [], np.zeros((N, SIZE)), np.zeros((N, SIZE)), np.zeros((N, SIZE))
    for steps in rates:
        trained, m, total = local_steps(x, problem, steps, m, beta, c)
        z = total / len(steps)
        c = c - z + w @ z
        x = w @ trained
        found.append(x)
    return found


def tracked_adam(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """GTAdam's moments (Carnevale et al. 2023), of g + c with the c of K-GT.

    With Adam's correction of their bias.
    """
    zeros = np.zeros((N, SIZE))
    found, x, c, m, v, t = [], zeros, zeros, zeros, zeros, 0
    for steps in rates:
        trained, total = x, zeros
        for rate in steps:
            g, t = problem.gradient(trained) + c, t + 1
            m, v, total = beta * m + (1 - beta) * g, 0.999 * v + 0.001 * g**2, total + g
            trained = trained - rate * m / (1 - beta**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        z = total / len(steps)
        c = c - z + w @ z
        x = w @ trained
        found.append(x)
    return found


def averaged(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
    """Yu et al. 2019: x and m are mixed with the same weights; Nesterov steps."""
    found, x, m = [], np.zeros((N, SIZE)), np.zeros((N, SIZE))
    for steps in rates:
        x, m, _ = local_steps(x, problem, steps, m, beta)
        x, m = w @ x, w @ m
        found.append(x)
    return found


def adaptive(order: str) -> Reference:
    def reference(w: np.ndarray, problem: Quadratics, rates: list[list[float]], beta: float) -> list[np.ndarray]:
        """Wang & Johansson 2026: γ = 1 until the peak in round 4, then (η / 0.08)³."""
        found, x, m = [], np.zeros((N, SIZE)), np.zeros((N, SIZE))
        for number, steps in enumerate(rates, 1):
            gamma = 1.0 if number <= 4 else (np.mean(steps) / 0.08) ** 3
            trained, m, _ = local_steps(x, problem, steps, m, beta)
            start = trained if order == "atc" else x
            x = trained + gamma * (w @ start - start)
            found.append(x)
        return found

    return reference


def in_steps(k: int, constant: bool = False) -> list[list[float]]:
    return [[(RATES[0] if constant else rate) * (1 - 0.1 * step) for step in range(k)] for rate in RATES]


CASES = [
    ("D² at one constant step", ExactDiffusion(), d_squared, in_steps(1, constant=True), 0.0),
    ("exact diffusion, changing rates", ExactDiffusion(), exact_diffusion, in_steps(1), 0.0),
    ("exact diffusion, four steps", ExactDiffusion(), exact_diffusion, in_steps(4), BETA),
    ("quasi-global", QuasiGlobal(BETA), quasi_global, in_steps(1), BETA),
    ("quasi-global, four steps", QuasiGlobal(BETA), quasi_global, in_steps(4), BETA),
    ("tracking", GradientTracking(), tracking, in_steps(1), 0.0),
    ("tracking with momentum", GradientTracking(), tracking, in_steps(1), BETA),
    ("tracking, four steps", GradientTracking(), k_gt, in_steps(4), 0.0),
    ("tracking, four steps with momentum", GradientTracking(), k_gt, in_steps(4), BETA),
    ("averaged momentum", AveragedMomentum(), averaged, in_steps(1), BETA),
    ("averaged momentum, four steps", AveragedMomentum(), averaged, in_steps(4), BETA),
    *(
        (f"adaptive, {order}, {k} steps", AdaptiveConsensus(DPSGD(order == "overlapped"), 0.08, 4), rule, rates, BETA)
        for order, rule in (("atc", adaptive("atc")), ("overlapped", adaptive("overlapped")))
        for k, rates in ((1, in_steps(1)), (4, in_steps(4)))
    ),
]


@pytest.mark.parametrize(
    ("algorithm", "reference", "rates", "beta"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_update_rule(algorithm: Algorithm, reference: Reference, rates: list[list[float]], beta: float) -> None:
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(algorithm, W, problem, beta)
    for number, expected in enumerate(reference(W, problem, rates, beta), 1):
        np.testing.assert_allclose(swarm.round(number, rates[number - 1]), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("k", [1, 4])
def test_gradient_tracking_with_adamw(k: int) -> None:
    """The correction reaches the gradient before the moments."""
    problem, rates = Quadratics.random(N), in_steps(k)
    swarm = QuadraticSwarm(GradientTracking(), W, problem, BETA, adamw=True)
    for number, expected in enumerate(tracked_adam(W, problem, rates, BETA), 1):
        np.testing.assert_allclose(swarm.round(number, rates[number - 1]), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("k", "same"), [(1, False), (4, True)], ids=["one step", "four steps on the same data"])
def test_averaged_momentum_on_a_full_mesh_is_sgd_with_the_mean_gradient(k: int, same: bool) -> None:
    """Uniform weights: every peer has the model of one process, and its momentum."""
    problem, uniform, rates = Quadratics.random(N), np.full((N, N), 1 / N), in_steps(k)
    if same:
        problem = Quadratics(np.tile(problem.curvature[0], (N, 1)), np.tile(problem.minima[0], (N, 1)))
    swarm = QuadraticSwarm(AveragedMomentum(), uniform, problem, BETA)
    pooled = Quadratics(problem.curvature.mean(0, keepdims=True), problem.solution[None])
    x, m = np.zeros((1, SIZE)), np.zeros((1, SIZE))
    for number, steps in enumerate(rates, 1):
        x, m, _ = local_steps(x, pooled, steps, m, BETA)
        found = swarm.round(number, steps)
        momenta = np.stack([state.momenta.buffers.x.numpy() for state in swarm.states])
        np.testing.assert_allclose(found, np.tile(x, (N, 1)), rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(momenta, np.tile(m, (N, 1)), rtol=1e-4, atol=1e-5)


def test_bf16_keeps_the_mean_momentum() -> None:
    swarm = QuadraticSwarm(AveragedMomentum(DPSGD(wire_dtype="bf16")), W, Quadratics.random(N), BETA)
    for number in range(1, 5):
        swarm.round(number, [0.05])
        mixed = np.stack([state.momenta.buffers.x.numpy() for state in swarm.states])
        own = np.stack([momentum.numpy() for momentum in swarm.momenta])
        np.testing.assert_allclose(mixed.mean(0), own.mean(0), atol=1e-6)
        assert disagreement(mixed) < 0.9 * disagreement(own)


@pytest.mark.parametrize("wire", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["exact-diffusion", "gradient-tracking", "adaptive-consensus"])
def test_mixing_keeps_the_mean_on_either_wire(name: str, wire: str) -> None:
    """The mean of the peers moves by the mean of their local steps alone."""
    problem = Quadratics(np.ones((N, SIZE)), np.random.default_rng(1).standard_normal((N, SIZE)))
    algorithm = build_algorithm(RunConfig.of(algorithm=name, wire_dtype=wire, schedule="constant", lr=0.1))
    swarm = QuadraticSwarm(algorithm, W, problem)
    mean = np.zeros(SIZE)
    for number in range(1, 9):
        mean = mean - 0.1 * (mean - problem.minima.mean(0))  # equal curvatures: the mean gradient is that at the mean
        found = swarm.round(number, [0.1]).mean(0)
        np.testing.assert_allclose(found, mean, atol=5e-6)


@pytest.mark.parametrize("make", [ExactDiffusion, GradientTracking])
def test_they_reach_the_solution_that_local_sgd_misses(make: Callable[..., Algorithm]) -> None:
    problem = Quadratics.random(N)
    errors = {}
    for algorithm in (DPSGD(), make()):
        swarm = QuadraticSwarm(algorithm, W, problem)
        for number in range(1, 201):
            x = swarm.round(number, [0.1])
        errors[type(algorithm)] = np.abs(x - problem.solution).max()
    assert errors[make] < 1e-5
    assert errors[DPSGD] > 0.1


def test_corrections_of_gradient_tracking_sum_to_zero() -> None:
    swarm = QuadraticSwarm(GradientTracking(), W, Quadratics.random(N))
    for number in range(1, 30):
        swarm.round(number, [0.1, 0.05])
    total = torch.stack([state.correction for state in swarm.states]).sum(0)
    assert total.abs().max() < 1e-5


def test_adaptive_consensus_lets_peers_disagree_where_the_rate_is_low() -> None:
    distances = []
    for algorithm in (DPSGD(), AdaptiveConsensus(max_lr=0.1)):
        swarm = QuadraticSwarm(algorithm, W, Quadratics.random(N))
        for number in range(1, 60):
            x = swarm.round(number, [0.1 if number < 30 else 0.02])
        distances.append(disagreement(x))
    assert distances[1] > 3 * distances[0]


@pytest.mark.parametrize(
    "algorithm",
    [ExactDiffusion(buffers=(slice(4, 8),)), QuasiGlobal(buffers=(slice(4, 8),))],
    ids=["exact diffusion", "quasi-global"],
)
def test_buffers_are_mixed_plainly(algorithm: Algorithm) -> None:
    """Buffers that no gradient moves are those of plain mixing."""
    problem = Quadratics.random(N)
    problem.curvature[:, 4:8] = 0.0
    swarm = QuadraticSwarm(algorithm, W, problem, BETA)
    expected = np.random.default_rng(2).uniform(0.1, 1.0, (N, 4))
    for x, row in zip(swarm.x, expected, strict=True):
        x[4:8] = torch.from_numpy(row)
    for number in range(1, 6):
        expected = W @ expected
        np.testing.assert_allclose(swarm.round(number, [0.1])[:, 4:8], expected, rtol=1e-5)


@pytest.mark.parametrize("algorithm", [ExactDiffusion(), GradientTracking()], ids=["exact diffusion", "tracking"])
def test_after_a_death_the_others_continue_as_if_its_last_gradients_still_counted(algorithm: Algorithm) -> None:
    """They stay at the minimum of all objectives, and do not move to their own."""
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(algorithm, W, problem)
    for number in range(1, 401):
        swarm.round(number, [0.2])
    np.testing.assert_allclose(swarm.values, np.tile(problem.solution, (N, 1)), atol=1e-4)
    swarm.dead.add(2)
    alive = [peer for peer in range(N) if peer not in swarm.dead]
    for number in range(401, 801):
        swarm.round(number, [0.2])
    np.testing.assert_allclose(swarm.values[alive], np.tile(problem.solution, (N - 1, 1)), atol=1e-3)
    theirs = Quadratics(problem.curvature[alive], problem.minima[alive]).solution
    assert float(np.linalg.norm(problem.solution - theirs)) > 0.3


def test_after_a_death_dpsgd_follows_the_objectives_that_are_left() -> None:
    problem = Quadratics.random(N)
    swarm = QuadraticSwarm(DPSGD(), W, problem)
    swarm.dead.add(2)
    alive = [peer for peer in range(N) if peer not in swarm.dead]
    for number in range(1, 801):
        swarm.round(number, [0.005])
    theirs = Quadratics(problem.curvature[alive], problem.minima[alive]).solution
    mean = swarm.values[alive].mean(axis=0)
    assert float(np.linalg.norm(mean - theirs)) < 0.1 * float(np.linalg.norm(mean - problem.solution))
