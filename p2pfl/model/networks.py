"""Networks: VGG for 32×32 images, or the user's own by `module:function`."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torchvision.models.vgg import cfgs, make_layers

from p2pfl.errors import ConfigError, one_line
from p2pfl.model.structure import lazy_names, structure_problem, wrapper_problem
from p2pfl.registry import MODELS, check, load

CONFIGURATIONS = {11: "A", 13: "B", 16: "D", 19: "E"}  # the columns of table 1 in Simonyan & Zisserman
_SIDE = 32  # pixels of an image
LAST_CHANNELS = 512  # five poolings leave 1×1 of a 32×32 image, so this is also the head's width


def build_vgg(depth: int, *, num_classes: int = 10, batch_norm: bool = True, width: float = 1.0) -> nn.Module:
    """VGG-11, 13, 16 or 19 (Simonyan & Zisserman 2015, table 1) for 32×32 images.

    Images are (B, 3, 32, 32) in float. The head is Linear(512, 512), ReLU, Linear(512, 512), ReLU, Linear(512,
    classes), without dropout; the output (B, num_classes) holds logits. `width` scales every channel, the head's too,
    to at least one. Weights are PyTorch's default initialization, drawn from torch's global generator: the caller seeds
    it. Raises ConfigError for another depth, or a width or number of classes that is not positive.
    """
    if depth not in CONFIGURATIONS:
        raise ConfigError(f"--model vgg{depth}: there is vgg11, vgg13, vgg16 and vgg19")
    if not 0 < width < float("inf"):
        raise ConfigError(f"--width {width}: must be a positive number")
    if num_classes < 1:
        raise ConfigError(f"--model vgg{depth}: {num_classes} classes; the data set must have at least one")

    def scaled(channels: int) -> int:
        return max(1, round(channels * width))

    layers = [item if isinstance(item, str) else scaled(item) for item in cfgs[CONFIGURATIONS[depth]]]
    hidden = scaled(LAST_CHANNELS)
    head = nn.Sequential(
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, num_classes),
    )
    features = make_layers(layers, batch_norm=batch_norm)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=head))


vgg11, vgg13, vgg16, vgg19 = (partial(build_vgg, depth) for depth in CONFIGURATIONS)


def build_model(name: str, *, num_classes: int, batch_norm: bool, width: float) -> nn.Module:
    """Build the model of a name of the registry, or of `module:function`.

    The user's function is called with those of the keyword arguments `num_classes`, `batch_norm` and
    `width` that its signature accepts; it maps images (B, 3, 32, 32) to logits (B, num_classes) and needs at
    least one floating-point parameter that requires gradients. Lazy layers get their shapes by one forward pass.
    Weights come from torch's global generator: the caller seeds it.
    Raises ConfigError where the name is unknown, the function fails, or the module cannot be trained or saved.

    Examples:
        >>> shape = {"num_classes": 10, "batch_norm": True, "width": 0.25}
        >>> model = build_model("vgg11", **shape)
        >>> sum(parameter.numel() for parameter in model.parameters())
        612810
    """
    settings = {"num_classes": num_classes, "batch_norm": batch_norm, "width": width}
    function = find_function(name)
    if name in MODELS:
        built: nn.Module = function(**settings)
        return built
    if isinstance(function, nn.Module):
        raise ConfigError(f"--model {name}: is a module; name a function that builds one, so that it follows the seed")
    accepted = _accepted(name, function, settings)
    try:
        model = function(**accepted)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--model {name}: the function raised {one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--model {name}: returned a {type(model).__name__}, not a torch.nn.Module")
    problem = wrapper_problem(model) or _give_shapes(model) or structure_problem(model)
    if problem:
        raise ConfigError(f"--model {name}: {problem}")
    return model


def find_function(name: str) -> Callable[..., Any]:
    """Function that builds the model of a name; the user's module is imported.

    Raises ConfigError if there is none.
    """
    check("model", name)
    found: Callable[..., Any] = load(MODELS.get(name, name), "--model")
    return found


def _accepted(name: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the function takes by keyword.

    Raises ConfigError if it needs others.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--model {name}: the function raised {one_line(error)}") from error
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = (p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    unknown = [p.name for p in needed if p.kind not in by_keyword or p.name not in settings]
    if unknown:
        raise ConfigError(
            f"--model {name}: the function needs {', '.join(unknown)}; it is given num_classes, batch_norm and width "
            "by keyword, where it takes them: give the others a default"
        )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(settings)
    names = {parameter.name for parameter in parameters if parameter.kind in by_keyword}
    return {name: value for name, value in settings.items() if name in names}


def _give_shapes(model: nn.Module) -> str:
    """Initialize lazy layers by one forward pass in evaluation mode.

    Returns a problem in words, or an empty string. Nothing else changes: no gradients, no statistics, and each module's
    mode and buffers are put back.
    """
    if not lazy_names(model):
        return ""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    try:
        with torch.no_grad():
            model.eval()
            model(torch.zeros(2, 3, _SIDE, _SIDE).contiguous(memory_format=torch.channels_last))
    except (Exception, SystemExit) as error:
        return f"fails on images, which its lazy layers need for their shapes: {one_line(error)}"
    finally:
        for module, mode in modes.items():
            module.training = mode
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    if names := lazy_names(model):
        return f"{names[0]} has no shape after a forward pass in evaluation mode; give that layer its sizes"
    return ""
