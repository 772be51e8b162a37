"""Initial model of a run: the same weights in every peer, from the run's seed alone."""

from __future__ import annotations

import torch
from torch import nn

from p2pfl import seeding
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError
from p2pfl.globalstate import RANDOMNESS, seed_everything, undisturbed
from p2pfl.models import build_model, find_function
from p2pfl.plugins import one_line
from p2pfl.structure import convert


def initial_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Build the model in float32 on the CPU, with the initial weights that the seed gives: the same in every peer.

    Raises ConfigError for a model that cannot be built, trained or saved.
    """
    name = config.model.model
    with RANDOMNESS, undisturbed():
        find_function(name)  # a user's module may draw while it is imported, which happens only once in a process
    with RANDOMNESS, undisturbed():
        seed_everything(seeding.derive(config.record.seed, "init"))
        try:
            model = build_model(
                name, num_classes=num_classes, batch_norm=config.model.batch_norm, width=config.model.width
            )
        except (RuntimeError, MemoryError) as error:  # out of memory is a RuntimeError in torch
            raise ConfigError(f"--model {name}, --width {config.model.width}: {one_line(error)}") from None
        convert(model, lambda whole: whole.to(torch.device("cpu")))
        convert(model, nn.Module.float)
    return model
