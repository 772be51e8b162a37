"""Outputs of a user's model: what they must be, also for batches that are tried by their shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from p2pfl import data
from p2pfl.errors import one_line


def large_batch_problem(model: nn.Module, classes: int, trained: tuple[int, int], evaluated: int) -> str:
    """What is wrong with the outputs for batches as large as the run's; empty where nothing is.

    `trained`: images of the training batch that has been tried, and of the run's; `evaluated`: of an evaluation that
    has been tried. A copy of the model gets them on torch's meta device, which knows shapes and computes nothing. A
    model that fails there with few images too needs values, and nothing is said of it.
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
    """What is wrong with a model's output, which must be scores (count, classes); empty where nothing is."""
    mode = "in training mode" if training else "in evaluation mode"
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        many = f" of {len(output)}" if isinstance(output, Sequence | dict) else ""
        return (
            f"gives a {kind}{many} {mode}, not one tensor ({count}, {classes}); switch auxiliary outputs off "
            "(such as aux_logits=False), or wrap it in a module that returns the first alone"
        )
    if tuple(output.shape) != (count, classes):
        images = f"{count} image{'s' * (count > 1)}"
        return f"gives {tuple(output.shape)} for {images} {mode}, not ({count}, {classes})"
    if not output.is_floating_point() or output.layout != torch.strided:
        return f"gives a tensor of {str(output.dtype).removeprefix('torch.')} {mode}, not of floating-point scores"
    return ""
