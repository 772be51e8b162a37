"""Flat layout: a model as one float32 vector whose views are its parameters.

What is averaged is the whole vector: parameters and floating-point buffers (such as batch normalization's running
statistics). Integer buffers (`num_batches_tracked`) stay local.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from p2pfl.errors import ConfigError

ALIGNMENT = 16  # float32 elements: every view starts on a 64-byte boundary, a cache line


@dataclass(frozen=True)
class Slot:
    """Place of one tensor of the model in the vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    is_parameter: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def view(self, vector: Tensor) -> Tensor:
        """This tensor as a view of the vector, in the model's shape.

        Convolution weights (four dimensions) always lie channels-last in the vector, whatever the device, so that
        the order of elements is canonical and the view has the memory format that training wants.
        """
        flat = vector[self.offset : self.offset + self.size]
        if len(self.shape) != 4:
            return flat.view(self.shape)
        out_channels, in_channels, height, width = self.shape
        return flat.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """Order of a model's tensors in the vector.

    `size` counts float32 elements, padding (always zero) included.
    """

    slots: tuple[Slot, ...]
    size: int

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Layout of a model with float32 parameters.

        Raises ConfigError for other floating-point types.
        """
        slots: list[Slot] = []
        offset = 0
        for name, tensor, is_parameter in _tensors(model):
            if tensor.dtype != torch.float32:
                raise ConfigError(f"--model: {name} is {tensor.dtype}; p2pfl keeps float32 weights: call .float()")
            slots.append(Slot(name, tuple(tensor.shape), offset, is_parameter))
            offset += -(-tensor.numel() // ALIGNMENT) * ALIGNMENT
        return cls(tuple(slots), offset)

    @property
    def digest(self) -> str:
        """Digest of names, shapes and order: 16 hexadecimal digits."""
        text = "channels-last/" + "/".join(f"{slot.name}:{slot.shape}:{slot.offset}" for slot in self.slots)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def parameter_count(self) -> int:
        """Trainable elements, padding and buffers left out."""
        return sum(slot.size for slot in self.slots if slot.is_parameter)

    @property
    def buffers(self) -> tuple[slice, ...]:
        """Places of floating-point buffers, such as running statistics."""
        return tuple(slice(slot.offset, slot.offset + slot.size) for slot in self.slots if not slot.is_parameter)

    def bind(self, model: nn.Module, vector: Tensor) -> Binding:
        """Copy the model's tensors into a (size,) float32 vector and make them its views.

        Returns the binding, which can move the model to another vector. The model must already be on the vector's
        device. Convert nothing afterwards: `.to(...)` would silently replace the views.
        """
        assert vector.shape == (self.size,)
        assert vector.dtype == torch.float32
        vector.zero_()
        for slot, (_, tensor, _) in zip(self.slots, _tensors(model), strict=True):
            slot.view(vector).copy_(tensor.detach())
        binding = Binding(self.slots, [tensor for _, tensor, _ in _tensors(model)])
        binding.move_to(vector)
        return binding

    def is_bound(self, model: nn.Module, vector: Tensor) -> bool:
        """Return whether every parameter and buffer still is its view of the vector."""
        tensors = (tensor for _, tensor, _ in _tensors(model))
        return all(
            tensor.data_ptr() == slot.view(vector).data_ptr()
            for slot, tensor in zip(self.slots, tensors, strict=True)
            if slot.size
        )


class Binding:
    """Tensors of a model, bound as views to one of several vectors."""

    def __init__(self, slots: Sequence[Slot], tensors: Sequence[Tensor]) -> None:
        """`tensors` in the order of `slots`."""
        self._slots = slots
        self._tensors = tensors
        self._last: list[tuple[Tensor, list[Tensor]]] = []  # the last two vectors and their views

    def move_to(self, vector: Tensor) -> None:
        """Make the tensors views of another vector, whose values become the model's.

        A peer's model changes between the same two vectors round after round; their views are made once.
        """
        found = next((entry for entry in self._last if entry[0] is vector), None)
        if found is None:
            found = (vector, [slot.view(vector) for slot in self._slots])
        self._last = [found, *(entry for entry in self._last if entry is not found)][:2]
        for tensor, view in zip(self._tensors, found[1], strict=True):
            tensor.data = view


def aligned_vector(size: int, pin: bool = False) -> Tensor:
    """Zero (size,) float32 vector on the CPU, aligned to 64 bytes.

    torch's allocator aligns so.
    """
    vector = torch.zeros(size, dtype=torch.float32, pin_memory=pin)
    assert vector.data_ptr() % 64 == 0
    return vector


def is_finite(vector: Tensor) -> bool:
    """Return whether all numbers, float32 or bfloat16, are finite.

    A sum that is finite has only finite terms; one that is not may just have overflowed, and then extremes tell. It
    takes about a third as long as adding the vector to another; `torch.isfinite` takes nine times as long as the sum.
    """
    return math.isfinite(float(vector.sum())) or math.isfinite(largest(vector))


def largest(vector: Tensor) -> float:
    """Largest magnitude; NaN or infinite if a number is not finite."""
    low, high = (float(extreme) for extreme in torch.aminmax(vector)) if vector.numel() else (0.0, 0.0)
    return math.nan if math.isnan(low) or math.isnan(high) else max(-low, high)


def integer_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Integer buffers, which are not averaged, by name."""
    return {name: buffer for name, buffer in model.named_buffers() if not buffer.is_floating_point()}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    for name, parameter in model.named_parameters():
        yield name, parameter, True
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer, False
