"""One flat vector whose views are the model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from p2pfl.errors import ConfigError
from p2pfl.model.networks import build_vgg
from p2pfl.model.vector import ALIGNMENT, Layout, aligned_vector, integer_buffers


def seeded() -> nn.Sequential:
    """Convolutions of several kinds, batch norm, odd sizes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 1, 1, bias=False),
        nn.Conv2d(1, 7, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, 4),
    )


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def bound(model: nn.Module) -> tuple[Layout, torch.Tensor]:
    layout = Layout.of(model)
    vector = aligned_vector(layout.size)
    layout.bind(model, vector)
    return layout, vector


@pytest.mark.parametrize("build", [seeded, lambda: build_vgg(11, width=0.0625)], ids=["small", "vgg11"])
def test_binding_changes_no_value_and_makes_views(build: object) -> None:
    model: nn.Module = build()  # type: ignore[operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layout, vector = bound(model)
    assert layout.is_bound(model, vector)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
        if value.is_floating_point():
            assert vector.data_ptr() <= value.data_ptr() < vector.data_ptr() + 4 * layout.size, name
            assert value.data_ptr() % 64 == 0, name
            if value.dim() == 4:
                assert value.is_contiguous(memory_format=torch.channels_last), name
    assert all(slot.offset % ALIGNMENT == 0 for slot in layout.slots)
    vector.zero_()
    assert not any(value.any() for value in model.state_dict().values() if value.is_floating_point())


def test_forward_and_gradients_are_the_same_before_and_after() -> None:
    plain = seeded()
    model = copy.deepcopy(plain)
    layout, _ = bound(model)
    for training in (False, True):
        outputs = []
        for candidate in (plain, model):
            candidate.train(training).zero_grad()
            output = candidate(IMAGES)
            output.square().sum().backward()
            outputs.append(output)
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert layout.parameter_count == sum(p.numel() for p in plain.parameters())


def test_padding_stays_zero_and_everything_else_is_covered_once() -> None:
    model = seeded()
    layout = Layout.of(model)
    vector = torch.full((layout.size,), torch.nan)
    layout.bind(model, vector)
    counts = torch.zeros(layout.size)
    for slot in layout.slots:
        slot.view(counts).add_(1)
    assert counts.max() == 1
    assert vector[counts == 0].abs().sum() == 0
    assert counts.sum() == sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())


def test_batch_statistics_are_in_the_vector_and_move_with_it() -> None:
    model = seeded()
    layout, vector = bound(model)
    slots = {slot.name: slot for slot in layout.slots}
    model.train()(IMAGES)
    assert slots["1.running_mean"].view(vector).any()
    assert torch.equal(slots["1.running_mean"].view(vector), model[1].running_mean)
    assert not slots["1.running_mean"].is_parameter
    vector.mul_(0.5)
    expected = copy.deepcopy(model[1].running_var)
    vector.mul_(2.0)
    assert torch.equal(2 * expected, model[1].running_var)


def test_integer_buffers_stay_local() -> None:
    model = seeded()
    layout, vector = bound(model)
    assert list(integer_buffers(model)) == ["1.num_batches_tracked"]
    assert "1.num_batches_tracked" not in {slot.name for slot in layout.slots}
    model.train()(IMAGES)
    vector.zero_()
    assert int(model[1].num_batches_tracked) == 1


def test_two_peers_average_by_their_vectors() -> None:
    first, second = seeded(), seeded()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    expected = {name: value + 0.5 for name, value in first.named_parameters()}
    (_, a), (_, b) = bound(first), bound(second)
    a.add_(b).mul_(0.5)
    for name, value in first.named_parameters():
        torch.testing.assert_close(value, expected[name])


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=True)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def test_tied_parameters_stay_tied() -> None:
    model = Tied()
    layout, vector = bound(model)
    assert [slot.name for slot in layout.slots] == ["first.weight", "second.bias"]
    vector.fill_(2.0)
    assert model.second.weight is model.first.weight
    assert (model.second.weight == 2.0).all()


def test_odd_tensors() -> None:
    model = nn.Module()
    model.register_parameter("scalar", nn.Parameter(torch.tensor(3.0)))
    model.register_parameter("empty", nn.Parameter(torch.zeros(0, 5)))
    model.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    model.register_buffer("mask", torch.tensor([True, False]))
    layout, vector = bound(model)
    assert layout.is_bound(model, vector)
    assert vector[0] == 3.0
    assert layout.size == 2 * ALIGNMENT
    assert list(integer_buffers(model)) == ["mask"]


def test_a_model_that_was_moved_is_no_longer_bound() -> None:
    model = seeded()
    layout, vector = bound(model)
    model[0].weight.data = model[0].weight.data.clone()
    assert not layout.is_bound(model, vector)


def test_digest_tells_layouts_apart() -> None:
    models = {
        "one": nn.Sequential(nn.Linear(4, 6)),
        "wider": nn.Sequential(nn.Linear(4, 7)),
        "transposed": nn.Sequential(nn.Linear(6, 4)),
        "renamed": nn.ModuleDict({"x": nn.Linear(4, 6)}),
        "with statistics": nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)),
        "statistics first": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6)),
    }
    digests = {Layout.of(model).digest for model in models.values()}
    assert len(digests) == len(models)
    assert Layout.of(nn.Sequential(nn.Linear(4, 6))).digest in digests
    assert all(len(digest) == 16 for digest in digests)
    with torch.device("meta"):  # values do not matter, and neither does the device
        assert Layout.of(seeded()).digest == Layout.of(build := seeded()).digest
        assert build[0].weight.is_meta
    assert Layout.of(seeded()).digest == Layout.of(build).digest


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_number_formats_are_refused(kind: torch.dtype) -> None:
    with pytest.raises(ConfigError, match=r"--model: 0\.weight is torch.*; p2pfl keeps float32 weights"):
        Layout.of(nn.Sequential(nn.Linear(2, 2)).to(kind))
    model = nn.Sequential(nn.BatchNorm1d(2))
    model[0].running_mean = model[0].running_mean.to(kind)
    with pytest.raises(ConfigError, match=r"--model: 0\.running_mean is"):
        Layout.of(model)


@pytest.mark.parametrize("size", [0, 1, 17, 100_003])
def test_vectors_are_aligned_zeros(size: int) -> None:
    vector = aligned_vector(size)
    assert vector.shape == (size,)
    assert vector.data_ptr() % 64 == 0
    assert not vector.any()
