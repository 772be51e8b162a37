"""Running statistics of batch normalization in a flat vector, and their pooling."""

from __future__ import annotations

import torch
from torch import nn

from p2pfl.model.statistics import RunningStatistics
from p2pfl.model.vector import Layout


def statistics_of(model: nn.Module) -> tuple[RunningStatistics, Layout]:
    layout = Layout.of(model)
    return RunningStatistics.of(model, layout), layout


def test_layers_of_batch_normalization_are_found_once_and_others_are_not() -> None:
    shared = nn.BatchNorm2d(2)
    without = nn.BatchNorm2d(2, track_running_stats=False)
    other = nn.InstanceNorm2d(2, track_running_stats=True)
    found, _ = statistics_of(nn.Sequential(nn.Conv2d(3, 2, 1), shared, shared, without, other, nn.BatchNorm1d(4)))
    names = [(mean.name, variance.name) for mean, variance in found.layers]
    assert names == [("1.running_mean", "1.running_var"), ("5.running_mean", "5.running_var")]
    alone, _ = statistics_of(nn.BatchNorm2d(3))
    assert [(mean.name, variance.name) for mean, variance in alone.layers] == [("running_mean", "running_var")]
    assert statistics_of(nn.Linear(2, 2))[0].layers == ()


def test_averages_of_moments_are_the_statistics_of_all_samples() -> None:
    """The average of the variances is another one, since the means differ."""
    found, layout = statistics_of(nn.BatchNorm1d(3))
    ((mean, variance),) = found.layers
    samples = torch.randn(4, 50, 3) * torch.tensor([1.0, 2.0, 0.1]) + torch.arange(4.0)[:, None, None]
    vectors = torch.zeros(4, layout.size)
    for vector, own in zip(vectors, samples, strict=True):
        found.write(vector, (own.mean(0), own.var(0, correction=0)))
    plain = vectors.mean(0)
    for vector in vectors:
        found.to_moments(vector)
    pooled = vectors.mean(0)
    found.to_variances(pooled)
    of_all = samples.flatten(0, 1)
    torch.testing.assert_close(mean.view(pooled), of_all.mean(0))
    torch.testing.assert_close(variance.view(pooled), of_all.var(0, correction=0), rtol=1e-4, atol=1e-4)
    assert (variance.view(plain) < 0.9 * variance.view(pooled)).all()


def test_no_variance_is_negative_and_nothing_else_changes() -> None:
    found, layout = statistics_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    vector = torch.randn(layout.size, generator=torch.Generator().manual_seed(0))
    found.write(vector, (torch.tensor([3.0, 0.5]), torch.tensor([8.9999, 1.0])))
    before = vector.clone()
    found.to_variances(vector)
    _, variances = found.copies(vector)
    assert variances.tolist() == [0.0, 0.75]
    assert (vector != before).sum() == 2
