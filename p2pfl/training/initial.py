"""Initial model of a run: the same weights in every peer, from the run's seed or from a file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from p2pfl import seeding
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, one_line
from p2pfl.model.global_state import RANDOMNESS, seed_everything, undisturbed
from p2pfl.model.networks import build_model, find_function
from p2pfl.model.structure import convert
from p2pfl.model.weights_file import read_weights


def initial_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Build the model in float32 on the CPU, with the initial weights that the seed or --init gives: the same in every
    peer.

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
    if config.training.init is not None:
        load_initial(model, config.training.init)
    return model


def load_initial(model: nn.Module, path: str) -> None:
    """Give a model the weights in a safetensors file, which must hold every key of its state dict and nothing else.

    Raises ConfigError naming the file and the first keys that do not fit.
    """
    weights = read_weights(path)
    expected = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    missing, unknown = [n for n in expected if n not in weights], [n for n in weights if n not in expected]
    if missing or unknown:
        said = {"lacks": missing, "has an unknown": unknown}
        text = " and ".join(_named(what, names) for what, names in said.items() if names)
        raise ConfigError(f"--init {path}: {text}; {_REMEDY}")
    given = {name: torch.tensor(weights[name]) for name in expected}
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            shapes = f"{tuple(given[name].shape)}, and {tuple(tensor.shape)} in the model"
            raise ConfigError(f"--init {path}: {name!a} has the shape {shapes}; {_REMEDY}")
        if given[name].dtype != tensor.dtype:
            raise ConfigError(f"--init {path}: {name!a} is {given[name].dtype}, and {tensor.dtype} in the model")
    model.load_state_dict(given, strict=False)  # keys have been compared; what is no tensor stays
    loaded = model.state_dict()
    # Two names of one tensor, of which the last one loaded holds for both.
    torn = next((name for name, tensor in given.items() if not torch.equal(loaded[name].cpu(), tensor)), None)
    if torn is not None:
        raise ConfigError(f"--init {path}: {torn!a} shares its weights with another name, which has others; {_REMEDY}")


_REMEDY = "choose a file of the same --model, --width, --batch-norm and classes"


def _named(what: str, names: Sequence[str]) -> str:
    """Such as: lacks 'a.weight' and 3 more."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{what} {names[0][:120]!a}{more}"
