"""What a run needs, foretold: the same numbers as the run's own parts give."""

from __future__ import annotations

import pytest
from helpers import matrix

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.estimate import WINDOW, estimate
from p2pfl.parameters import Layout
from p2pfl.peer import inbox
from p2pfl.topology import consensus_rounds, make_topology
from p2pfl.training import initial_model


def digits(**options: object) -> RunConfig:
    return RunConfig.of(dataset="digits", width=0.125, **options)


def test_numbers_are_those_of_the_parts() -> None:
    w = matrix("star", 5)
    config = digits(rounds=7, local_epochs=2, wire_dtype="bf16")
    found = estimate(make_topology("star", 5), w, config)
    model = initial_model(config, 10)
    layout = Layout.of(model)
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.vector_bytes == 2 * layout.size
    assert found.weights_memory == 12 * layout.size
    assert found.bytes_per_round == 8 * found.vector_bytes  # four edges, both ways
    assert found.busiest_bytes_per_round == 4 * found.vector_bytes
    assert found.consensus_rounds == consensus_rounds(w, 1e-3)
    assert found.consensus_bytes == found.consensus_rounds * 8 * 4 * layout.size
    assert found.smallest_shard == found.train_samples // 5
    assert found.steps_per_round == 2 * (found.smallest_shard // 32)
    assert found.rounds == 7
    assert found.classes == 10
    assert inbox.WINDOW == WINDOW


def test_memory_does_not_grow_with_the_degree_but_does_with_the_batch() -> None:
    few, many = (estimate(make_topology("complete", n), matrix("complete", n), digits()) for n in (5, 9))
    assert few.exchange_memory == many.exchange_memory
    double = estimate(make_topology("complete", 5), matrix("complete", 5), digits(batch_size=64))
    assert few.activations_memory > 32 * 8 * 32 * 32 * 4  # the first convolution's output is kept
    assert double.activations_memory == pytest.approx(2 * few.activations_memory, rel=0.05)


def test_what_the_run_would_refuse_is_refused() -> None:
    with pytest.raises(ConfigError, match="--batch-size 5000"):
        estimate(make_topology("ring", 4), matrix("ring", 4), digits(batch_size=5000))
    with pytest.raises(ConfigError, match="--model vgg12"):
        estimate(make_topology("ring", 4), matrix("ring", 4), digits(model="vgg12"))
