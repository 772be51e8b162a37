"""Outputs of a user's model as scores: whether they depend on the image, and on that alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p2pfl.model.global_state import seed_everything
from p2pfl.preflight.noise import varied_images

IMAGES = 3  # images, besides a single one: an evaluation's last batch has as many as are left
CLOSE = 1e-3  # of the largest output: how far outputs of equal weights may differ by rounding
_CLOSE_IN_BF16 = 5e-2  # the same between batches of two sizes, for which bf16 may round in another order
_SAME = 2e-7  # of the largest output: outputs of different images that differ by less are the same
_SURELY_ONE = 1e-2  # how far from 1 the sum of probabilities may be

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


def evaluated(model: nn.Module, images: Tensor, bf16: bool) -> Tensor:
    """Outputs in evaluation mode, as float32."""
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        output: Tensor = model(images)
    return output.float()


def batch_and_single(model: nn.Module, bf16: bool) -> Tensor:
    """Outputs for the varied images in one batch and, in the last row, for the first alone."""
    images = varied_images(IMAGES)
    seed_everything(0)  # so that models that draw random numbers are compared with the same ones
    return torch.cat([evaluated(model, images, bf16), evaluated(model, images[:1], bf16)])


def evaluation_problem(model: nn.Module, outputs: Tensor, bf16: bool) -> str:
    """Why an evaluation of the model means nothing; empty where it does. `outputs`: of `batch_and_single`."""
    images, batch = varied_images(IMAGES), outputs[:IMAGES]
    scale = float(batch.abs().max())
    if not _is_close(evaluated(model, images, bf16), batch, CLOSE * scale):
        return (
            "gives other outputs when the same images are evaluated again; switch randomness off in evaluation mode "
            "(F.dropout(x, training=self.training)), and keep nothing from one batch for the next"
        )
    alone = torch.cat([outputs[IMAGES:], *(evaluated(model, image[None], bf16) for image in images[1:])])
    if not _is_close(alone, batch, (_CLOSE_IN_BF16 if bf16 else CLOSE) * scale):
        return (
            "gives an image other outputs alone than in a batch, in evaluation mode; let nothing there depend on the "
            "batch (no mean over dimension 0, no BatchNorm without running statistics)"
        )
    if batch.shape[1] > 1 and _are_same(batch) and (not bf16 or _are_same(evaluated(model, images, False))):
        return "gives the same outputs for different images in evaluation mode, after one training step"
    return ""


def training_problem(model: nn.Module, count: int) -> tuple[str, str]:
    """What is wrong with the outputs in training mode, and what is odd, after a step; empty where nothing is.

    `count`: images of a training batch. Statistics of the model are updated.
    """
    model.train()
    try:
        output = model(varied_images(IMAGES)[:count])
    except Exception:  # it is particular about batches, and has passed with the run's
        return "", ""
    if output.shape[1] == 1:
        return "", ""
    if len(output) > 1 and _are_same(output.detach()):
        return "gives the same outputs for different images in training mode, after one training step", ""
    return "", _oddity(output)


def probability_note(outputs: Tensor) -> str:
    """A note where the rows are probabilities, which cross-entropy takes for logits; else empty."""
    sums = outputs.detach().float().sum(1)
    if outputs.shape[1] == 1 or float(outputs.min()) < 0 or float((sums - 1).abs().max()) > _SURELY_ONE:
        return ""
    return "its scores are probabilities (each row sums to 1), of which cross-entropy takes the softmax once more"


def _oddity(output: Tensor) -> str:
    if note := probability_note(output):
        return note
    node = output.grad_fn
    while node is not None:
        kind = node.name().partition("Backward")[0]
        if kind in _BOUNDED:
            return f"its scores come out of {_BOUNDED[kind]}, which bounds them"
        node = node.next_functions[0][0] if kind in _TRANSPARENT else None
    values = output.detach()
    if float(values.min()) == 0.0 < float(values.max()):
        return "none of its scores is below 0, and some are 0"
    return ""


def _is_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool(((one - other).abs() <= tolerance).all())  # not so for NaN


def _are_same(rows: Tensor) -> bool:
    return _is_close(rows, rows[:1], _SAME * float(rows.abs().max()))
