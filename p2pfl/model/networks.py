"""Networks: VGG for 32×32 images, or the user's own by `module:function`."""

from __future__ import annotations

import inspect
import math
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
GROUPS = 2  # of channels; Hsieh et al. 2020, "The non-IID data quagmire of decentralized machine learning"


def build_vgg(depth: int, *, num_classes: int = 10, norm: str = "batch", width: float = 1.0) -> nn.Module:
    """VGG-11, 13, 16 or 19 (Simonyan & Zisserman 2015, table 1) for 32×32 images.

    Images are (B, 3, 32, 32) in float. The head is Linear(512, 512), ReLU, Linear(512, 512), ReLU, Linear(512,
    classes), without dropout; the output (B, num_classes) holds logits. `width` scales every channel, the head's too,
    to at least one. `norm` after every convolution is batch, group (`group_norms`) or none. Weights are PyTorch's
    default initialization, drawn from torch's global generator: the caller seeds it. Raises ConfigError for another
    depth or norm, or a width or number of classes that is not positive.
    """
    if depth not in CONFIGURATIONS:
        raise ConfigError(f"--model vgg{depth}: there is vgg11, vgg13, vgg16 and vgg19")
    if not 0 < width < float("inf"):
        raise ConfigError(f"--width {width}: must be a positive number")
    if norm not in ("batch", "group", "none"):
        raise ConfigError(f"--norm {norm}: choose batch, group or none")
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
    features = make_layers(layers, batch_norm=norm != "none")
    if norm == "group":
        features = group_norms(features)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=head))


def group_norms(layers: nn.Sequential) -> nn.Sequential:
    """Layers with group normalization (Wu & He 2018) in place of batch normalization.

    The channels form two groups, as in Hsieh et al. 2020, or one where their number is odd (a rule of ours). Like batch
    normalization it begins with scales of 1 and shifts of 0, so that the other weights follow the seed as before.
    """

    def replaced(layer: nn.Module) -> nn.Module:
        if not isinstance(layer, nn.BatchNorm2d):
            return layer
        return nn.GroupNorm(math.gcd(GROUPS, layer.num_features), layer.num_features)

    return nn.Sequential(*map(replaced, layers))


vgg11, vgg13, vgg16, vgg19 = (partial(build_vgg, depth) for depth in CONFIGURATIONS)


def build_model(name: str, *, num_classes: int, norm: str, width: float) -> nn.Module:
    """Build the model of a name of the registry, or of `module:function`.

    The user's function is called with those of the keyword arguments `num_classes`, `norm`, `batch_norm` (whether the
    norm is "batch") and `width` that its signature accepts; it maps images (B, 3, 32, 32) to logits (B, num_classes)
    and needs at least one floating-point parameter that requires gradients. Lazy layers get their shapes by one forward
    pass. Weights come from torch's global generator: the caller seeds it.
    Raises ConfigError where the name is unknown, the function fails or takes no such `norm`, or the module cannot be
    trained or saved.

    Examples:
        >>> shape = {"num_classes": 10, "norm": "batch", "width": 0.25}
        >>> model = build_model("vgg11", **shape)
        >>> sum(parameter.numel() for parameter in model.parameters())
        612810
    """
    function = find_function(name)
    if name in MODELS:
        built: nn.Module = function(num_classes=num_classes, norm=norm, width=width)
        return built
    if isinstance(function, nn.Module):
        raise ConfigError(f"--model {name}: is a module; name a function that builds one, so that it follows the seed")
    settings = {"num_classes": num_classes, "norm": norm, "batch_norm": norm == "batch", "width": width}
    accepted = _accepted(name, function, settings)
    _check_norm(name, norm, accepted)
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
            f"--model {name}: the function needs {', '.join(unknown)}; it is given num_classes, norm, batch_norm "
            "and width by keyword, where it takes them: give the others a default"
        )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(settings)
    names = {parameter.name for parameter in parameters if parameter.kind in by_keyword}
    return {name: value for name, value in settings.items() if name in names}


def _check_norm(name: str, norm: str, accepted: Mapping[str, Any]) -> None:
    """Raise ConfigError for a norm that the user's function is not told."""
    told = norm == "batch" or "norm" in accepted or (norm == "none" and "batch_norm" in accepted)
    if not told:
        raise ConfigError(
            f"--norm {norm}: the function of --model {name} takes no argument norm; give it one, or leave --norm out"
        )


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
