"""What a run needs, foretold: the same numbers as the run's own parts give."""

from __future__ import annotations

import pytest
import torch
from helpers import matrix
from torch import nn

from p2pfl.config import RunConfig
from p2pfl.data import describe
from p2pfl.errors import ConfigError
from p2pfl.estimate import Estimate, check, estimate
from p2pfl.parameters import Layout
from p2pfl.roles import cast, topology_of
from p2pfl.topology import consensus_rounds, make_topology
from p2pfl.training import initial_model


def digits(**options: object) -> RunConfig:
    return RunConfig.of(dataset="digits", width=0.125, **options)


def needs(kind: str, n: int, **options: object) -> Estimate:
    config = digits(**options)
    return estimate(cast(config, make_topology(kind, n)), config)


def test_numbers_are_those_of_the_parts() -> None:
    w = matrix("star", 5)
    config = digits(rounds=7, local_epochs=2, wire_dtype="bf16")
    found = estimate(cast(config, make_topology("star", 5)), config)
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


def test_memory_does_not_grow_with_the_degree_but_does_with_the_batch() -> None:
    few, many = (needs("complete", n) for n in (5, 9))
    assert few.exchange_memory == many.exchange_memory
    double = needs("complete", 5, batch_size=64)
    assert few.activations_memory > 32 * 8 * 32 * 32 * 4  # the first convolution's output is kept
    assert double.activations_memory == pytest.approx(2 * few.activations_memory, rel=0.05)


SHARD = 1438 // 4  # samples of a peer of four

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5000}, f"--batch-size 5000: a peer's shard has {SHARD} samples; choose 1 to {SHARD}"),
        ({"batch_size": SHARD + 1}, f"--batch-size {SHARD + 1}: a peer's shard has {SHARD} samples"),
        ({"model": "vgg12"}, "--model vgg12"),
        pytest.param({"device": "cuda"}, "--device cuda: there is no GPU that PyTorch can use", marks=NO_GPU),
        ({"device": "cuda:99"}, "device cuda:99: PyTorch sees "),
        ({"model": "test_estimate:fails_on_images"}, "--model test_estimate:fails_on_images: fails on a batch of im"),
        ({"model": "test_estimate:too_many"}, "--model test_estimate:too_many: gives (8, 11) for 8 images, not (8, 10"),
        ({"model": "test_estimate:one_image"}, "--model test_estimate:one_image: gives (10,) for 8 images"),
    ],
)
def test_what_the_run_would_refuse_is_refused_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        needs("ring", 4, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_batch_may_be_the_whole_shard() -> None:
    found = needs("ring", 4, batch_size=SHARD)
    assert found.steps_per_round == 1


def test_check_refuses_more_peers_than_samples_and_returns_the_model() -> None:
    info = describe("digits", None)
    with pytest.raises(ConfigError, match=f"^--dataset digits: {info.train_samples} samples for 5000 peers$"):
        check(digits(batch_size=1), 5000, info)
    model, expected = check(digits(), 4, info).state_dict(), initial_model(digits(), 10).state_dict()
    assert model.keys() == expected.keys()
    assert all(torch.equal(model[name], expected[name]) for name in expected)


class Scores(nn.Module):
    """Scores of any shape, whatever the images."""

    def __init__(self, per_image: bool, count: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, count)
        self.per_image = per_image

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(x.flatten(1))
        return scores if self.per_image else scores[0]


def too_many(num_classes: int) -> nn.Module:
    return Scores(True, num_classes + 1)


def one_image(num_classes: int) -> nn.Module:
    return Scores(False, num_classes)


def fails_on_images(num_classes: int) -> nn.Module:
    return nn.Linear(7, num_classes)


def test_what_a_mode_without_a_mesh_needs() -> None:
    config = RunConfig.of(mode="centralized", num_clients=6, num_selected=2, dataset="digits", width=0.125)
    star = topology_of(config)
    assert star is not None
    found = estimate(cast(config, star), config)
    assert found.bytes_per_round == 4 * found.vector_bytes  # two models out, two updates back
    assert found.busiest_bytes_per_round == 2 * found.vector_bytes
    assert found.consensus_bytes == found.consensus_rounds == 0
    assert found.smallest_shard == found.train_samples // 6
    lonely = RunConfig.of(mode="local", dataset="digits", width=0.125)
    alone = estimate(cast(lonely, make_topology("ring", 4)), lonely)
    assert alone.bytes_per_round == alone.exchange_memory == alone.consensus_bytes == 0
