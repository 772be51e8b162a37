"""Re-estimation of running statistics, and the statistics that a run treats apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.model.statistics import RunningStatistics, batch_norms
from p2pfl.model.vector import Layout
from p2pfl.training.evaluation import Stopped


def statistics_of_run(config: RunConfig, model: nn.Module, layout: Layout) -> RunningStatistics:
    """Running statistics that the run does not mix like weights.

    None with --batch-norm-statistics averaged. Raises ConfigError where it is another and the model has none.
    """
    chosen = config.gossip.batch_norm_statistics
    if chosen == "averaged":
        return RunningStatistics()
    found = RunningStatistics.of(model, layout)
    if not found.layers:
        raise ConfigError(
            f"--batch-norm-statistics {chosen}: --model {config.model.model} with --norm {config.model.norm} has no "
            "batch normalization with running statistics; leave it out"
        )
    return found


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor], stopped: Callable[[], bool] = lambda: False) -> None:
    """Re-estimate running statistics as averages over batches of images, in place.

    As after the averaging of weights in Izmailov et al. 2018, "Averaging weights leads to wider optima and better
    generalization", algorithm 1: forward passes in training mode, each batch counting alike. Layers that the model
    itself keeps in evaluation mode are left alone. Raises Stopped between two batches.
    """
    model.train()
    layers = [layer for layer in batch_norms(model).values() if layer.training]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch then averages over all batches
    try:
        for images in batches:
            model(images)
            if stopped():
                raise Stopped("stopped while running statistics were re-estimated")
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
