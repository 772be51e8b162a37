"""Weights of a run: the same initial ones in every peer, checked to stay finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from p2pfl import seeding
from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, DivergenceError, one_line
from p2pfl.model.global_state import RANDOMNESS, preserved_global_state, seed_everything
from p2pfl.model.networks import build_model, find_function
from p2pfl.model.sketches import Vector
from p2pfl.model.structure import convert
from p2pfl.model.vector import is_finite, largest
from p2pfl.model.weights_file import read_weights


def initial_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Build the model, with its initial weights from the seed or --init.

    In float32 on the CPU; every peer gets the same.

    Raises ConfigError for a model that cannot be built, trained or saved.
    """
    name = config.model.model
    with RANDOMNESS, preserved_global_state():
        find_function(name)  # a user's module may draw while it is imported, which happens only once in a process
    with RANDOMNESS, preserved_global_state():
        seed_everything(seeding.derive(config.record.seed, "init"))
        try:
            model = build_model(name, num_classes=num_classes, norm=config.model.norm, width=config.model.width)
        except (RuntimeError, MemoryError) as error:  # out of memory is a RuntimeError in torch
            raise ConfigError(f"--model {name}, --width {config.model.width}: {one_line(error)}") from None
        convert(model, lambda whole: whole.to(torch.device("cpu")))
        convert(model, nn.Module.float)
    if config.training.init is not None:
        load_initial(model, config.training.init)
    return model


def load_initial(model: nn.Module, path: str) -> None:
    """Load the weights of a safetensors file into a model.

    The file must hold every key of its state dict and nothing else.

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


_REMEDY = "choose a file of the same --model, --width, --norm and classes"


def _named(what: str, names: Sequence[str]) -> str:
    """Such as: lacks 'a.weight' and 3 more."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{what} {names[0][:120]!a}{more}"


# Halfway between the largest bfloat16 and the next power of two: from here on rounding gives infinity.
BF16_LIMIT = 2.0**128 - 2.0**119


def check_weights(weights: Tensor, wire_dtype: str, when: str, sketch: Vector | None = None) -> None:
    """Check that weights are finite and fit the encoding in which they travel.

    Raises DivergenceError where they do not.

    `sketch`: that of these weights, if there is one. A finite one tells that they are finite without a pass over them;
    one that is not may just have overflowed. It tells nothing of their size, since opposite numbers cancel in it.
    """
    if wire_dtype == "bf16":
        size = largest(weights)
        finite = math.isfinite(size)
    else:
        size = 0.0
        finite = (sketch is not None and bool(np.isfinite(sketch).all())) or is_finite(weights)
    if not finite:
        raise DivergenceError(f"the weights are not finite {when}", remedy="lower --lr")
    if size >= BF16_LIMIT:
        raise DivergenceError(f"a weight of {size:.3g} {when} is too large for --wire-dtype bf16", remedy="lower --lr")
