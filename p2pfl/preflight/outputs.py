"""Outputs of a user's model on noise images, checked for form and use as scores.

Outputs must be one tensor (images, classes), must depend on the image and on nothing else, and should be logits.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from p2pfl import data
from p2pfl.errors import one_line
from p2pfl.model.global_state import seed_everything

IMAGES = 3  # evaluated in one batch, besides a single image: an evaluation's last batch has any size
CLOSE = 1e-3  # of the largest output: difference that rounding may make with equal weights
_CLOSE_IN_BF16 = 5e-2  # the same between batches of two sizes, which bf16 may round in another order
_SAME = 2e-7  # of the largest output: outputs of different images that differ by less count as equal
_SUM_ERROR = 1e-2  # of probabilities, whose sum is 1

# Operations of bounded range, by the last node of autograd's graph.
_BOUNDED = {
    "Sigmoid": "a sigmoid",
    "Hardsigmoid": "a sigmoid",
    "Tanh": "a tanh",
    "Hardtanh": "a hardtanh or ReLU6",
    "Relu": "a ReLU",
    "Softplus": "a softplus",
    "Gelu": "a GELU",
    "Silu": "a SiLU",
    "Mish": "a Mish",
    "Elu": "an ELU",
    "Hardswish": "a hardswish",
}
_TRANSPARENT = ("ToCopy", "Clone", "View", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "Alias", "T", "Slice")


def noise_dataset(count: int, classes: int, evaluated: int) -> data.Dataset:
    """Data set of `count` random training images and `evaluated` test images.

    Their classes follow each other in turn.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(images: int) -> tuple[Tensor, Tensor]:
        shape = (images, data.IMAGE_SIDE, data.IMAGE_SIDE, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pixels, torch.arange(images) % classes

    (train_images, train_labels), (test_images, test_labels) = draw(count), draw(evaluated)
    return data.Dataset(
        name="noise",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(str(number) for number in range(classes)),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        augment=False,
    )


def varied_images(count: int) -> Tensor:
    """Normalized noise images in channels_last, of varied brightness and contrast.

    A model's outputs must differ between them.
    """
    side, generator = data.IMAGE_SIDE, torch.Generator().manual_seed(0)
    contrast, brightness = (torch.linspace(low, high, count).view(count, 1, 1, 1) for low, high in ((1, 0.5), (0, 0.5)))
    images = torch.randn(count, 3, side, side, generator=generator) * contrast + brightness
    return images.contiguous(memory_format=torch.channels_last)


def large_batch_problem(model: nn.Module, classes: int, trained: tuple[int, int], evaluated: int) -> str:
    """Problem of the outputs for batches as large as the run's; empty if none.

    `trained`: images in the training batch of the trial, and in the run's; `evaluated`: in the evaluation of the trial.
    A copy of the model gets them on torch's meta device, which knows shapes and computes nothing. A model that fails
    there with few images, too, needs values, and is not judged.
    """
    try:
        shapes = copy.deepcopy(model).to("meta")
    except Exception:  # tensors that are no leaves cannot be copied
        return ""
    for training, few, many in ((True, *trained), (False, evaluated, data.EVALUATION_BATCH)):
        if few >= many or _shape_problem(shapes, few, classes, training):
            continue
        if problem := _shape_problem(shapes, many, classes, training):
            return f"{problem} (it does not with {few} images)"
    return ""


def _shape_problem(model: nn.Module, count: int, classes: int, training: bool) -> str:
    model.train(training)
    images = torch.empty((count, 3, data.IMAGE_SIDE, data.IMAGE_SIDE), device="meta")
    try:
        with torch.set_grad_enabled(training):
            output = model(images)
    except (Exception, SystemExit) as error:
        return f"fails on {_batch(training)} of {count} images: {one_line(error)}"
    return output_problem(output, count, classes, training)


def _batch(training: bool) -> str:
    return "a training batch" if training else "an evaluation"


def output_problem(output: object, count: int, classes: int, training: bool) -> str:
    """Problem of a model's output, which must be scores (count, classes); else empty."""
    mode = "in training mode" if training else "in evaluation mode"
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        many = f" of {len(output)}" if isinstance(output, Sequence | dict) else ""
        return (
            f"returns a {kind}{many} {mode}, not one tensor ({count}, {classes}); switch auxiliary outputs off "
            "(such as aux_logits=False), or wrap it in a module that returns the first alone"
        )
    if tuple(output.shape) != (count, classes):
        images = f"{count} image{'s' * (count > 1)}"
        return f"returns {tuple(output.shape)} for {images} {mode}, not ({count}, {classes})"
    if not output.is_floating_point() or output.layout != torch.strided:
        return f"returns a tensor of {str(output.dtype).removeprefix('torch.')} {mode}, not of floating-point numbers"
    return ""


def _evaluated(model: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """Evaluate images in evaluation mode; outputs are float32."""
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output: Tensor = model(images)
    return output.float()


def batch_and_single(model: nn.Module, bf16: bool) -> Tensor:
    """Outputs for the varied images in one batch and, in the last row, for one alone."""
    images = varied_images(IMAGES)
    seed_everything(0)  # models that draw random numbers get the same ones
    return torch.cat([_evaluated(model, images, bf16), _evaluated(model, images[:1], bf16)])


def evaluation_problem(model: nn.Module, outputs: Tensor, bf16: bool) -> str:
    """Reason why an evaluation of the model is meaningless; empty if it is not.

    `outputs`: those of `batch_and_single`.
    """
    images, batch = varied_images(IMAGES), outputs[:IMAGES]
    scale = float(batch.abs().max())
    if not _is_close(_evaluated(model, images, bf16), batch, CLOSE * scale):
        return (
            "returns different outputs when the same images are evaluated again; switch randomness off in evaluation "
            "mode (F.dropout(x, training=self.training)), and keep nothing from one batch for the next"
        )
    alone = torch.cat([outputs[IMAGES:], *(_evaluated(model, image[None], bf16) for image in images[1:])])
    if not _is_close(alone, batch, (_CLOSE_IN_BF16 if bf16 else CLOSE) * scale):
        return (
            "returns different outputs for an image alone and in a batch, in evaluation mode; make nothing there "
            "depend on the batch (no mean over dimension 0, no BatchNorm without running statistics)"
        )
    if batch.shape[1] > 1 and _are_same(batch) and (not bf16 or _are_same(_evaluated(model, images, False))):
        return "returns the same outputs for different images in evaluation mode, after one training step"
    return ""


def training_problem(model: nn.Module, count: int) -> tuple[str, str]:
    """Problem and oddity of the outputs in training mode, after a step; empty if none.

    `count`: images in a training batch. The model's statistics are updated.
    """
    model.train()
    try:
        output = model(varied_images(IMAGES)[:count])
    except Exception:  # it takes special batches only, and has passed with the run's
        return "", ""
    if output.shape[1] == 1:
        return "", ""
    if len(output) > 1 and _are_same(output.detach()):
        return "returns the same outputs for different images in training mode, after one training step", ""
    return "", _oddity(output)


def probability_note(outputs: Tensor) -> str:
    """Note about outputs that are probabilities instead of logits; else empty."""
    sums = outputs.detach().float().sum(1)
    if outputs.shape[1] == 1 or float(outputs.min()) < 0 or float((sums - 1).abs().max()) > _SUM_ERROR:
        return ""
    return "its outputs are probabilities (each row sums to 1), to which cross-entropy applies a softmax again"


def _oddity(output: Tensor) -> str:
    if note := probability_note(output):
        return note
    node = output.grad_fn
    while node is not None:
        kind = node.name().partition("Backward")[0]
        if kind in _BOUNDED:
            return f"its outputs come from {_BOUNDED[kind]}, which bounds them"
        node = node.next_functions[0][0] if kind in _TRANSPARENT else None
    values = output.detach()
    if float(values.min()) == 0.0 < float(values.max()):
        return "none of its outputs is below 0, and some are 0"
    return ""


def _is_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool(((one - other).abs() <= tolerance).all())  # false for NaN


def _are_same(rows: Tensor) -> bool:
    return _is_close(rows, rows[:1], _SAME * float(rows.abs().max()))
