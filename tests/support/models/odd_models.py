"""Models of kinds that users bring, sound and broken: odd_models:FUNCTION."""

from __future__ import annotations

import random
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

PIXELS = 3 * 32 * 32
Outputs = namedtuple("Outputs", "logits aux")
MODULE = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 10))
LAYER = nn.Linear(8, 8)


class Small(nn.Module):
    """Two layers of eight, between which a test's function does something odd."""

    def __init__(self, num_classes: int, middle: Callable[[Small, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(PIXELS, 8), nn.Linear(8, 8), nn.Linear(8, num_classes)
        self.middle = middle

    def forward(self, x: Tensor) -> Any:
        hidden = self.second(self.first(x.flatten(1)).relu())
        return self.head(hidden if self.middle is None else self.middle(self, hidden))


class Ending(Small):
    """A small model whose output a test's function changes."""

    def __init__(self, num_classes: int, end: Callable[[Ending, Tensor], Any]) -> None:
        super().__init__(num_classes)
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self, super().forward(x))


class Twin(Small):
    """The second layer twice, by an own module whose weight is tied to it in some way."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.twin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.twin(self.second(self.first(x.flatten(1)).relu()).relu()))


# Sound


def plain(num_classes: int) -> nn.Module:
    return Small(num_classes)


def tied(num_classes: int) -> nn.Module:
    model = Twin(num_classes)
    model.twin.weight = model.second.weight
    return model


def tied_module(num_classes: int) -> nn.Module:
    model = Twin(num_classes)
    model.twin = model.second
    return model


def tied_buffers(num_classes: int) -> nn.Module:
    """One float64 buffer in two modules: converting it must not part them."""
    model = Twin(num_classes)
    model.second.register_buffer("scale", torch.ones(8, dtype=torch.float64))
    model.twin.register_buffer("scale", model.second.scale)

    def grow(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        if model.training:
            module.scale.mul_(0.5)
        return output * model.second.scale

    model.twin.register_forward_hook(grow)
    return model


def partly_frozen(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    model.first.requires_grad_(False)
    return model


def unused(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    model.spare = nn.Linear(3, 3)
    return model


def detached_features(num_classes: int) -> nn.Module:
    """Only the last layer is trained."""
    return Small(num_classes, lambda self, x: x.detach())


def by_values(num_classes: int) -> nn.Module:
    """Looks at what it computes, which shapes alone cannot tell."""
    return Small(num_classes, lambda self, x: x if x.isfinite().all().item() else x.nan_to_num())


def dropout(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(PIXELS, num_classes))


def weight_norm(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    parametrizations.weight_norm(model.second)
    return model


def spectral_norm(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    parametrizations.spectral_norm(model.second)
    return model


def old_spectral_norm(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    nn.utils.spectral_norm(model.second)
    return model


def double(num_classes: int) -> nn.Module:
    return Small(num_classes).double()


def chunks(num_classes: int) -> nn.Module:
    """Parameters that lie in one storage, side by side, without an element in common."""
    model = Small(num_classes)
    left, right = torch.randn(8, 16).chunk(2, dim=1)
    model.second.weight, model.extra = nn.Parameter(left), nn.Parameter(right)
    return model


def constant(num_classes: int) -> nn.Module:
    model = Small(num_classes, lambda self, x: x + self.shift)
    model.register_buffer("shift", torch.arange(8.0), persistent=False)
    return model


def other_generators(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    with torch.no_grad():
        model.second.weight.fill_(float(np.random.randn()) * 0.1)
        model.second.bias.fill_(random.random())
    return model


def careless(num_classes: int) -> nn.Module:
    """Changes the process while it is built: a run must not inherit that."""
    model = Small(num_classes)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    print("a line that nobody wants")
    return model


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(4, 3, stride=8),
        nn.LazyBatchNorm2d(),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(num_classes),
    )


def eager(num_classes: int) -> nn.Module:
    """The same as `lazy` with all sizes said."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


SOUND = [
    plain,
    tied,
    tied_module,
    tied_buffers,
    partly_frozen,
    unused,
    detached_features,
    by_values,
    dropout,
    weight_norm,
    spectral_norm,
]
SOUND += [old_spectral_norm, double, chunks, constant, other_generators, careless, lazy]


# Broken: each with words of the line that refuses it


def _attribute(**attributes: Callable[[Small], Any]) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        model = Twin(num_classes)
        for name, make in attributes.items():
            setattr(model, name, make(model))
        return model

    return build


def _ending(end: Callable[[Ending, Tensor], Any]) -> Callable[[int], nn.Module]:
    return lambda num_classes: Ending(num_classes, end)


def _middle(middle: Callable[[Small, Tensor], Any], **buffers: Tensor) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        model = Small(num_classes, middle)
        for name, value in buffers.items():
            model.register_buffer(name, value.clone(), persistent=name != "passing")
        return model

    return build


def _sharing(share: Callable[[nn.Linear], Tensor]) -> Callable[[int], nn.Module]:
    """The twin's weight shares the second layer's memory, but is another parameter."""

    def build(num_classes: int) -> nn.Module:
        model = Twin(num_classes)
        model.twin.weight = nn.Parameter(share(model.second))
        return model

    return build


def _replaced(self: Small, x: Tensor) -> Tensor:
    if self.training:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
    return x - self.mean


def _no_more_than(most: int) -> Callable[[Small, Tensor], Tensor]:
    def middle(self: Small, x: Tensor) -> Tensor:
        assert len(x) <= most, "too many images"
        return x

    return middle


def _clipped(self: Small, x: Tensor) -> Tensor:
    self.second.weight.data = self.second.weight.data.clamp(-1.0, 1.0)
    return x


class _Buffers(nn.Module):
    def __init__(self, *buffers: Tensor) -> None:
        super().__init__()
        for number, buffer in enumerate(buffers):
            self.register_buffer(f"b{number}", buffer)


def _grown(self: Small, x: Tensor) -> Tensor:
    if not hasattr(self, "grown"):
        self.grown = nn.Linear(8, 8)
    return self.grown(x)


def _stale(self: Small, x: Tensor) -> Tensor:
    """Keeps what it has computed from the weights once."""
    if not hasattr(self, "kept"):
        self.kept = self.first.weight.detach().sum(1)
    return x + self.kept


def _counted(self: Small, x: Tensor) -> Tensor:
    if self.training:
        self.count = self.count + 1
    return x


def _in_evaluation(self: Small, x: Tensor) -> Tensor:
    self.mean.mul_(0.9).add_(x.detach().mean(0))
    return x - self.mean


def _forgotten(self: Small, x: Tensor) -> Tensor:
    if self.training:
        self.passing.add_(x.detach().mean(0))
    return x - self.passing


def _hidden_state(self: Small, x: Tensor) -> Tensor:
    if self.training:
        self.state = x.detach().mean(0)
    return x - getattr(self, "state", 0.0)


def _other_dtype(self: Small, x: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    return x


class Extra(Small):
    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


class Listed(Small):
    """Layers in a plain list, which are no part of the model.

    They are never trained, and the seed draws them.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, lambda self, x: self.layers[0](x))
        self.layers = [nn.Linear(8, 8)]


class Alias(Small):
    """A plain attribute is a view of a parameter, and stays where the parameter was."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, lambda self, x: x @ self.alias)
        self.alias = self.second.weight.detach().t()


class OptimizedModule(nn.Module):
    """Called as the class that torch.compile returns, whose import takes seconds."""


class Counting(Small):
    """State outside the state dict, in each of the places where it may be kept."""

    shared = 0

    def __init__(self, num_classes: int, place: str = "steps") -> None:
        super().__init__(num_classes)
        self.steps, self.place, self.seen, self.box, self.generator = (
            0,
            place,
            [torch.zeros(8)],
            Box(),
            random.Random(1),
        )
        self.layers = [self.second, self.second.weight]  # registered, and so trained

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.steps += self.place == "steps"
            Counting.shared += self.place == "shared"
            COUNTS["all"] += self.place == "COUNTS"
            self.seen[0].add_(float(self.place == "seen"))
            self.box.level += self.place == "box"
            if self.place == "generator":
                self.generator.random()
        return super().forward(x)


class Box:
    def __init__(self) -> None:
        self.level = 0.0


COUNTS = {"all": 0}


class Attending(Small):
    """The state of a recurrent layer is kept from batch to batch."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.gru, self.h = nn.GRUCell(8, 8), None

    def forward(self, x: Tensor) -> Any:
        before = torch.zeros(1, 8) if self.h is None else self.h
        hidden = self.gru(self.first(x.flatten(1)), before.expand(len(x), 8))
        self.h = hidden.detach().mean(0, keepdim=True)
        return self.head(hidden)


class LosesKeys(Small):
    def state_dict(self, *args: Any, **options: Any) -> Any:
        return {name: value for name, value in super().state_dict(*args, **options).items() if "second" not in name}


def _flickering() -> Callable[[int], nn.Module]:
    calls: list[int] = []

    def build(num_classes: int) -> nn.Module:
        calls.append(num_classes)
        return tied(num_classes) if len(calls) % 2 else Twin(num_classes)

    return build


def _unseeded(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    with torch.no_grad():
        model.second.weight.fill_(float(np.random.default_rng().normal()))
    return model


def _partly_global(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    model.second = LAYER
    return model


def _tied_in_double(num_classes: int) -> nn.Module:
    """Converting it to float32 would part the two without a word."""
    model = Twin(num_classes).double()
    model.twin.weight = nn.Parameter(model.second.weight.data)
    return model


def _on_meta(num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return Small(num_classes)


def _exits(num_classes: int) -> nn.Module:
    raise SystemExit("not today")


def _batch_norm_1d(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.BatchNorm1d(8), nn.Linear(8, num_classes))


def _quantized(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    model.register_buffer("small", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    return model


def _half_lazy(num_classes: int) -> nn.Module:
    return _with(Ending(num_classes, lambda self, y: self.late(y) if self.training else y), late=nn.LazyLinear(10))


def _with(model: nn.Module, **parts: nn.Module) -> nn.Module:
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def _parameter(make: Callable[[], Tensor], trained: bool = True) -> Callable[[int], nn.Module]:
    return _attribute(odd=lambda model: nn.Parameter(make(), requires_grad=trained))


def _last(layer: nn.Module, only: str = "") -> Callable[[int], nn.Module]:
    """A layer behind the last one; `only` in training or evaluation mode."""
    return _ending(lambda self, y: layer(y) if only in ("", "training" if self.training else "evaluation") else y)


def _counting(place: str) -> Callable[[int], nn.Module]:
    return lambda num_classes: Counting(num_classes, place)


NOTED: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "softmax": (_last(nn.Softmax(1)), "its outputs are probabilities (each row sums to 1), to which"),
    "late_softmax": (_last(nn.Softmax(1), "evaluation"), "its outputs are probabilities"),
    "own_softmax": (_ending(lambda self, y: y.exp() / y.exp().sum(1, keepdim=True)), "its outputs are probabilities"),
    "sigmoid": (_last(nn.Sigmoid()), "its outputs come from a sigmoid, which bounds them; return the logits"),
    "relu": (_last(nn.ReLU()), "come from a ReLU"),
    "tanh_in_view": (_ending(lambda self, y: y.tanh().view(len(y), -1).float()), "come from a tanh"),
    "clamped": (_ending(lambda self, y: y.clamp(min=0)), "none of its outputs is below 0, and some are 0"),
    "counting": (Counting, "it changes steps outside of its state dict"),
    "counting_shared": (_counting("shared"), "it changes Counting.shared outside"),
    "counting_global": (_counting("COUNTS"), "it changes odd_models.COUNTS outside"),
    "counting_seen": (_counting("seen"), "it changes seen outside"),
    "counting_box": (_counting("box"), "it changes box outside"),
    "counting_generator": (_counting("generator"), "it changes generator outside"),
    "counting_below": (
        lambda num_classes: nn.Sequential(nn.Identity(), Counting(num_classes)),
        "it changes 1.steps outside",
    ),
}


def log_softmax(num_classes: int) -> nn.Module:
    return Ending(num_classes, lambda self, y: y.log_softmax(1))


def zero_head(num_classes: int) -> nn.Module:
    """Its first outputs are all the same, and its first gradients mostly zero."""
    model = Small(num_classes)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model


def keeps_nothing_new(num_classes: int) -> nn.Module:
    return Counting(num_classes, "")


def old_weight_norm(num_classes: int) -> nn.Module:
    model = Small(num_classes)
    nn.utils.weight_norm(model.second)
    return model


UNNOTED = [log_softmax, zero_head, keeps_nothing_new, old_weight_norm]

BROKEN: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "pair": (_ending(lambda self, y: (y, y) if self.training else y), "returns a tuple of 2 in training mode, not one"),
    "listed_outputs": (_ending(lambda self, y: [y]), "returns a list of 1 in training mode"),
    "named": (
        _ending(lambda self, y: Outputs(y, y) if self.training else y),
        "returns a Outputs of 2 in training mode",
    ),
    "mapping": (_ending(lambda self, y: {"out": y}), "returns a dict of 1 in training mode"),
    "nothing_out": (_ending(lambda self, y: None), "returns a NoneType in training mode"),
    "late_pair": (_ending(lambda self, y: y if self.training else (y,)), "returns a tuple of 1 in evaluation mode"),
    "too_many": (
        lambda num_classes: Small(num_classes + 3),
        "returns (8, 13) for 8 images in training mode, not (8, 10)",
    ),
    "too_few": (lambda: Small(7), "returns (8, 7) for 8 images in training mode, not (8, 10)"),
    "late_shape": (
        _ending(lambda self, y: y if self.training else y[:, :7]),
        "returns (3, 7) for 3 images in evaluation",
    ),
    "squeezed": (_ending(lambda self, y: y.squeeze(0)), "returns (10,) for 1 image in evaluation mode, not (1, 10)"),
    "labels": (_ending(lambda self, y: y if self.training else y.argmax(1, True).expand(-1, 10)), "a tensor of int64"),
    "detached_leaf": (_ending(lambda self, y: y.detach().requires_grad_()), "no gradient of the loss reaches any"),
    "no_grad_leaf": (_ending(lambda self, y: torch.tensor(y.tolist()).requires_grad_()), "no gradient of the loss rea"),
    "unused_all": (
        _ending(lambda self, y: y.new_ones(y.shape).requires_grad_()),
        "no gradient of the loss reaches any",
    ),
    "rounded": (_ending(lambda self, y: y.round()), "the gradients of all its parameters are zero"),
    "times_zero": (_ending(lambda self, y: y * 0), "the gradients of all its parameters are zero"),
    "detached": (_ending(lambda self, y: y.detach()), "fails on a training batch of 8 images: RuntimeError"),
    "infinite": (_ending(lambda self, y: y / 0), "the loss of its first step, on noise images, is not finite"),
    "bad_gradient": (_ending(lambda self, y: y + 0 * (y - y.detach()).sqrt()), "is not finite after one step"),
    "frozen": (lambda num_classes: Small(num_classes).requires_grad_(False), "has nothing to train"),
    "no_weights": (nn.Flatten, "the module has no floating-point parameter"),
    "expanded": (_parameter(lambda: torch.zeros(1).expand(5)), "odd is an expanded view"),
    "complex": (_parameter(lambda: torch.zeros(2, dtype=torch.complex64)), "odd is a parameter of complex64"),
    "whole_numbers": (_parameter(lambda: torch.zeros(2, dtype=torch.int64), False), "odd is a parameter of int64"),
    "sparse": (_parameter(lambda: torch.eye(3).to_sparse()), "odd is no dense tensor (sparse_coo)"),
    "quantized": (_quantized, "small is quantized (qint8)"),
    "meta": (_on_meta, "first.weight is on the meta device"),
    "data_tie": (_sharing(lambda layer: layer.weight.data), "second.weight and twin.weight share memory"),
    "transposed": (_sharing(lambda layer: layer.weight.data.t()), "second.weight and twin.weight share memory"),
    "data_tie_double": (_tied_in_double, "second.weight and twin.weight share memory"),
    "tied_once": (_flickering(), "different layers, shapes or ties"),
    "buffer_tie": (
        _attribute(view=lambda m: nn.Buffer(m.second.weight.data[:2])),
        "second.weight and view share memory",
    ),
    "unseeded": (_unseeded, "the initial second.weight does not follow the seed"),
    "singleton": (lambda: MODULE, "two calls of the function return the same tensors"),
    "partly_global": (_partly_global, "two calls of the function return the same tensors"),
    "replaced": (_middle(_replaced, mean=torch.zeros(8)), "replaces the tensor mean in its forward pass"),
    "clipped": (_middle(_clipped), "replaces the tensor second.weight in its forward pass"),
    "both": (
        _attribute(again=lambda m: _Buffers(m.second.weight)),
        "second.weight is registered as a parameter and as",
    ),
    "counted": (_middle(_counted, count=torch.tensor(0)), "replaces the tensor count in its forward pass"),
    "grown": (_middle(_grown), "creates the tensor grown.weight in its forward pass"),
    "stale": (_middle(_stale), "returns different outputs after its state dict is saved"),
    "late_infinity": (_ending(lambda self, y: y if self.training else y / 0), "its outputs in evaluation mode are not"),
    "in_evaluation": (_middle(_in_evaluation, mean=torch.zeros(8)), "an evaluation changes mean"),
    "forgotten": (_middle(_forgotten, passing=torch.zeros(8)), "its state dict does not restore passing"),
    "hidden_state": (_middle(_hidden_state), "returns different outputs after its state dict is saved"),
    "listed_layers": (Listed, "returns different outputs after its state dict is saved"),
    "alias": (Alias, "returns different outputs after its state dict is saved"),
    "loses_keys": (LosesKeys, "its state dict cannot be loaded again: RuntimeError"),
    "extra": (Extra, "the module keeps extra state (get_extra_state)"),
    "parallel": (lambda num_classes: nn.DataParallel(Small(num_classes)), "the module is wrapped in DataParallel"),
    "compiled": (
        lambda num_classes: _with(Small(num_classes), part=OptimizedModule()),
        "part is compiled by torch.comp",
    ),
    "scripted": (
        lambda num_classes: torch.jit.script(_batch_norm_1d(num_classes)),
        "the module is compiled by torch.jit",
    ),
    "half_lazy": (_half_lazy, "late.weight has no shape after a forward pass in evaluation mode"),
    "changes_torch": (_middle(_other_dtype), "changes torch's default dtype in its forward pass"),
    "other_arguments": (lambda classes, depth: Small(classes), "the function needs classes, depth; it is given"),
    "positional": (lambda num_classes, /: Small(num_classes), "the function needs num_classes; it is given"),
    "exits": (_exits, "the function raised SystemExit: not today"),
    "fails_on_images": (
        lambda num_classes: nn.Linear(7, num_classes),
        "fails on a training batch of 8 images: Runtime",
    ),
    "few_images": (_middle(_no_more_than(32)), "fails on an evaluation of 256 images: AssertionErr"),
    "merged_images": (
        _ending(lambda self, y: y[:64]),
        "returns (64, 10) for 256 images in evaluation mode, not (256, 1",
    ),
    "random_outputs": (
        _middle(lambda self, x: nn.functional.dropout(x)),
        "when the same images are evaluated again; switch",
    ),
    "slightly_random": (_ending(lambda self, y: y + 0.1 * torch.randn_like(y)), "when the same images are evaluated"),
    "of_the_batch": (
        _ending(lambda self, y: y - y.mean(0)),
        "returns different outputs for an image alone and in a batch",
    ),
    "slightly_of_the_batch": (
        _ending(lambda self, y: y + 0.1 * y.mean(0)),
        "returns different outputs for an image alone",
    ),
    "ignores": (_middle(lambda self, x: x * 0), "returns the same outputs for different images in evaluation mode"),
    "ignores_in_training": (
        _ending(lambda self, y: y * 0 + self.head.bias if self.training else y),
        "returns the same outputs for different images in training mode",
    ),
    "attending": (Attending, "returns different outputs"),
    "fixed_batch": (_ending(lambda self, y: y.view(8, -1)), "fails in an evaluation of 3 images, or of one: Runtime"),
}
globals().update({name: build for name, (build, _) in (BROKEN | NOTED).items()})
module = MODULE
up_to_256 = _middle(_no_more_than(256))
