"""Re-estimation of running statistics, and which runs treat them apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.model.vector import Layout
from p2pfl.training import Stopped, statistics_of_run
from p2pfl.training.statistics import reestimate


class Frozen(nn.BatchNorm2d):
    """Batch normalization that stays in evaluation mode."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def test_statistics_are_the_averages_over_all_batches() -> None:
    frozen = Frozen(3)
    frozen.running_mean.fill_(0.5)
    model = nn.Sequential(frozen, nn.BatchNorm2d(3, momentum=0.3))
    model[1].running_mean.fill_(7.0)
    batches = [torch.randn(4, 3, 2, 2) + shift for shift in (0.0, 5.0)]
    reestimate(model, batches)
    seen = [frozen(batch) for batch in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    assert (model[1].momentum, model[1].training) == (0.3, True)
    assert frozen.running_mean.tolist() == [0.5] * 3, "a layer that is frozen keeps its statistics"


def test_it_stops_between_two_batches() -> None:
    model, seen = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)), []

    def batches() -> object:
        for _ in range(3):
            seen.append(1)
            yield torch.randn(2, 3, 2, 2)

    with pytest.raises(Stopped):
        reestimate(model, batches(), lambda: len(seen) == 2)
    assert len(seen) == 2
    assert model[0].momentum == 0.3


@pytest.mark.parametrize("chosen", ["local", "reestimated"])
def test_a_model_without_batch_normalization_is_refused(chosen: str) -> None:
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, track_running_stats=True))
    config = RunConfig.of(batch_norm_statistics=chosen, norm="group")
    with pytest.raises(ConfigError) as caught:
        statistics_of_run(config, model, Layout.of(model))
    assert str(caught.value) == (
        f"--batch-norm-statistics {chosen}: --model vgg11 with --norm group has no batch normalization with running "
        "statistics; leave it out"
    )
    assert statistics_of_run(RunConfig.of(norm="group"), model, Layout.of(model)).layers == ()
