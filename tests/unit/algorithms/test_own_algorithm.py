"""An algorithm of the user's own, --algorithm module:Class.

`test_resumed_algorithms` stops and resumes it.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_algorithm
from tests.support.helpers import driven, exchange, matrix, random_vectors

from p2pfl.algorithms import Chebyshev, build_algorithm, build_consensus
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.modes import assign_roles
from p2pfl.preflight.estimate import estimate
from p2pfl.topology import make_topology

ROOT = Path(__file__).parents[3]


def test_a_toy_of_25_lines_gossips_by_its_formula() -> None:
    code = inspect.getsource(toy_algorithm.HeavyBall)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 25
    w = matrix("ring", 5)
    vectors = random_vectors(5, 33)
    x, velocity = np.stack([vector.numpy() for vector in vectors]).astype(np.float64), np.zeros((5, 33))
    algorithm = build_algorithm(RunConfig.of(algorithm="toy_algorithm:HeavyBall"))
    peers = driven(algorithm, w, vectors)
    for round in range(1, 5):
        exchange(peers, round, vectors)
        velocity = velocity / 2 + w @ x - x
        x = x + velocity
    np.testing.assert_allclose(torch.stack(vectors), x, atol=1e-5)


def test_the_page_on_adding_an_algorithm_shows_the_toy() -> None:
    assert inspect.getsource(toy_algorithm.HeavyBall) in (ROOT / "docs/how-to/add-an-algorithm.md").read_text()


def test_its_consensus_rounds_are_chebyshevs() -> None:
    config = RunConfig.of(algorithm="toy_algorithm:HeavyBall", rounds=7)
    assert build_consensus(config, 0.5) == Chebyshev(0.5, 8)


def test_it_needs_a_final_merge_where_mixing_does_not_keep_the_mean() -> None:
    config = RunConfig.of(algorithm="toy_algorithm:HeavyBall", mixing="column-stochastic")
    with pytest.raises(ConfigError, match=r"^--mixing column-stochastic: toy_algorithm:HeavyBall has no final merge"):
        build_algorithm(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy_algorithm:no_class", "not a class that implements p2pfl.algorithms.base.Algorithm"),
        ("toy_algorithm:Nothing", "'Nothing' does not exist in"),
        ("no_such_module:Toy", "cannot import 'no_such_module'"),
    ],
)
def test_anything_else_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_algorithm(RunConfig.of(algorithm=name))
    assert str(caught.value).startswith(f"--algorithm {name}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "overlapped"}, "--order overlapped: .* exchanges as --order atc does; use that"),
        ({"wire_dtype": "bf16"}, "--wire-dtype bf16: .* sends fp32 .*; use that"),
        ({"byzantine": 1}, "--byzantine 1: .* is not robust .*; leave it out"),
    ],
)
def test_settings_that_it_does_not_heed_are_refused(options: dict[str, object], message: str) -> None:
    """Records would name an order or a number format that the run did not have."""
    with pytest.raises(ConfigError, match=f"^{message}$"):
        build_algorithm(RunConfig.of(algorithm="toy_algorithm:HeavyBall", **options))


def test_it_is_looked_for_before_a_run_begins() -> None:
    config = RunConfig.of(dataset="digits", algorithm="toy_algorithm:Nothing")
    with pytest.raises(ConfigError, match=r"^--algorithm toy_algorithm:Nothing: .*does not exist"):
        estimate(assign_roles(config, make_topology("ring", 3)), config)
