"""State of a model in plain attributes, outside of parameters and buffers."""

from __future__ import annotations

import enum
import itertools
import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))  # attributes of every module
_LIBRARIES = frozenset({"torch", "torchvision", "p2pfl"}) | sys.stdlib_module_names
_MAX_DEPTH = 5
_MAX_ITEMS = 1000  # of a container that are compared
_MAX_ELEMENTS = 1 << 22  # of a tensor or array that are compared
_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    np.generic,
    enum.Enum,
    itertools.count,
    type(None),
    torch.Size,
)
_DATA = (*_PLAIN, Tensor, np.ndarray, list, tuple, dict, set, deque, torch.Generator, random.Random)
_CODE = (FunctionType, BuiltinFunctionType, MethodType, ModuleType, type)
_COMPUTED = ("_orig", "_g")  # of parameters, from which torch's weight and spectral norm compute an attribute


def plain_state(model: nn.Module) -> dict[str, object]:
    """Comparable marks of a model's plain attributes and globals, by name.

    They are attributes of the modules and of their classes, and globals of the classes' Python modules. Registered
    tensors and modules are skipped, and so is state of torch itself.
    """
    kinds = dict.fromkeys(itertools.chain.from_iterable(type(module).__mro__ for module in model.modules()))
    classes = [kind for kind in kinds if kind.__module__.partition(".")[0] not in _LIBRARIES]
    marker = _Marker(model, classes)
    state: dict[str, object] = {}
    for path, module in model.named_modules():
        for name, value in _attributes(module):
            state[f"{path}.{name}".lstrip(".")] = marker.mark(value)
    for kind in classes:
        for name, value in vars(kind).items():
            if not name.startswith("__"):
                state[f"{kind.__name__}.{name}"] = marker.mark(value)
    for place in dict.fromkeys(kind.__module__ for kind in classes):
        for name, value in list(vars(sys.modules.get(place, object)).items()):
            if not name.startswith("__") and isinstance(value, _DATA):
                state[f"{place}.{name}"] = marker.mark(value)
    return state


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Names of differing entries."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    parameters = dict(module.named_parameters(recurse=False))
    for name, value in vars(module).items():
        if name not in _OWN and not any(name + ending in parameters for ending in _COMPUTED):
            yield name, value


class _Marker:
    """Comparable marks of values; anything registered in the model has a fixed mark."""

    def __init__(self, model: nn.Module, classes: list[type]) -> None:
        self._packages = {kind.__module__.partition(".")[0] for kind in classes}
        self._modules = {id(module) for module in model.modules()}
        tensors = itertools.chain(model.parameters(), model.buffers())
        self._storages = {_storage(tensor) for tensor in tensors}

    def mark(self, value: Any, depth: int = 0) -> object:
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        if isinstance(value, np.ndarray):
            small = value.size <= _MAX_ELEMENTS and not value.dtype.hasobject
            return value.shape, hash(value.tobytes()) if small else id(value)
        if isinstance(value, _CODE) or id(value) in self._modules or depth > _MAX_DEPTH:
            return type(value).__name__
        if isinstance(value, set | frozenset):
            return frozenset(map(repr, itertools.islice(value, _MAX_ITEMS)))
        if isinstance(value, Mapping):
            return self._of_items(itertools.chain.from_iterable(value.items()), len(value), depth)
        if isinstance(value, list | tuple | deque):
            return self._of_items(value, len(value), depth)
        if isinstance(value, torch.Generator):
            return hash(value.get_state().numpy().tobytes())
        if isinstance(value, random.Random):
            return hash(value.getstate())
        if isinstance(value, np.random.Generator):
            return repr(value.bit_generator.state)
        is_own = isinstance(value, nn.Module) or type(value).__module__.partition(".")[0] in self._packages
        return self.mark(vars(value), depth + 1) if is_own and hasattr(value, "__dict__") else type(value).__name__

    def _of_items(self, items: Any, count: int, depth: int) -> object:
        return count, tuple(self.mark(item, depth + 1) for item in itertools.islice(items, _MAX_ITEMS))

    def _of_tensor(self, tensor: Tensor) -> object:
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            return str(tensor.layout), tuple(tensor.shape)
        if _storage(tensor) in self._storages or tensor.numel() > _MAX_ELEMENTS:
            return "", tuple(tensor.shape)
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return tuple(tensor.shape), str(tensor.dtype), hash(content.numpy().tobytes())


def _storage(tensor: Tensor) -> int:
    """Address of a tensor's storage; 0 if it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # of sparse ones, which have none
        return 0
