"""Local optimizers, SGD and AdamW, whose state is vectors laid out like the model.

SGD with Nesterov momentum β as torch has it (g: the gradient with an L2 penalty):
    m ← β m + g,  w ← w − η (g + β m)
AdamW (Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2; η also scales the decay λ):
    m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,
    w ← w − η λ w − η m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)
t: steps since the state was 0. Terms that an algorithm adds to the gradient are in g.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from p2pfl.config import TrainingConfig
from p2pfl.model.vector import Slot

BETA2 = 0.999
EPSILON = 1e-8
_LARGE_RATE = 0.01  # ten times what is usual


def state_vectors(training: TrainingConfig) -> int:
    """Vectors as long as the model in the optimizer's state, the momentum among them."""
    return 2 if training.optimizer == "adamw" else 1


def rate_notes(training: TrainingConfig) -> tuple[str, ...]:
    """Note on a learning rate that suits SGD, and is too large for AdamW."""
    if training.optimizer != "adamw" or training.lr < _LARGE_RATE:
        return ()
    return (f"--lr {training.lr:g} is large for AdamW, which moves each weight by about that in a step; try 0.001",)


def build_optimizer(
    training: TrainingConfig, parameters: Sequence[tuple[Slot, nn.Parameter]], momentum: Tensor
) -> tuple[torch.optim.Optimizer, dict[str, Tensor]]:
    """Optimizer of the settings, and the part of its state that is not in `momentum`.

    `parameters`: each with its place in a flat vector. `momentum`: (size,) float32 on their device: the momentum of
    SGD, or the first moment of AdamW. The second item is empty for SGD; for AdamW it has `second_moment` (size,) and
    `steps` (parameters,), both float32. The optimizer moves all of them in place, so that setting them sets its state.
    """
    if training.optimizer == "adamw":
        return _adamw(training, parameters, momentum)
    sgd = torch.optim.SGD(
        [parameter for _, parameter in parameters],
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
        fused=True,
    )
    if training.momentum > 0:
        for slot, parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = slot.view(momentum)
    return sgd, {}


def _adamw(
    training: TrainingConfig, parameters: Sequence[tuple[Slot, nn.Parameter]], momentum: Tensor
) -> tuple[torch.optim.Optimizer, dict[str, Tensor]]:
    adamw = torch.optim.AdamW(
        [parameter for _, parameter in parameters],
        lr=training.lr,
        betas=(training.momentum, BETA2),
        eps=EPSILON,
        weight_decay=training.weight_decay,
        fused=True,
    )
    second = torch.zeros_like(momentum)
    # One count for each parameter, since torch leaves out those without a gradient.
    steps = momentum.new_zeros(len(parameters))
    for place, (slot, parameter) in enumerate(parameters):
        state = {"step": steps[place], "exp_avg": slot.view(momentum), "exp_avg_sq": slot.view(second)}
        adamw.state[parameter].update(state)
    return adamw, {"second_moment": second, "steps": steps}
