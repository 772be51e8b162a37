"""Running statistics of batch normalization and their places in a flat vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from p2pfl.model.vector import Layout, Slot


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Layers of batch normalization that keep running statistics, by name."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    return {name: module for name, module in found if module.running_mean is not None}


@dataclass(frozen=True)
class RunningStatistics:
    """Places of running statistics: for each layer the slots of mean and variance."""

    layers: tuple[tuple[Slot, Slot], ...] = ()

    @classmethod
    def of(cls, model: nn.Module, layout: Layout) -> RunningStatistics:
        """Running statistics of a model's layers; of shared ones once."""
        slots = {slot.name: slot for slot in layout.slots}
        names = ((f"{name}.running_mean".lstrip("."), f"{name}.running_var".lstrip(".")) for name in batch_norms(model))
        return cls(tuple((slots[mean], slots[var]) for mean, var in names if mean in slots and var in slots))

    def copies(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Copies of all means and variances."""
        return tuple(slot.view(vector).clone() for pair in self.layers for slot in pair)

    def write(self, vector: Tensor, values: Sequence[Tensor]) -> None:
        """Write means and variances, in the order of `copies`."""
        for slot, value in zip((slot for pair in self.layers for slot in pair), values, strict=True):
            slot.view(vector).copy_(value)

    def to_moments(self, vector: Tensor) -> None:
        """Replace variances by second moments E x² = Var x + (E x)², in place.

        The averages of first and second moments over the peers are those of all their samples together, if each peer
        counts alike. The average of variances would leave out how far the peers' means are apart.
        """
        for mean, variance in self.layers:
            mu = mean.view(vector)
            variance.view(vector).addcmul_(mu, mu)

    def to_variances(self, vector: Tensor) -> None:
        """Replace second moments by variances, in place; below 0, by rounding, they are 0."""
        for mean, variance in self.layers:
            mu = mean.view(vector)
            variance.view(vector).addcmul_(mu, mu, value=-1.0).clamp_(min=0.0)
