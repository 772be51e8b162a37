"""Structure of a user's model: tensors that cannot be kept in a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_WRAPPERS = {
    "DataParallel": "wrapped in DataParallel",
    "DistributedDataParallel": "wrapped in DistributedDataParallel",
    "FullyShardedDataParallel": "wrapped in FullyShardedDataParallel",
    "OptimizedModule": "compiled by torch.compile",
}
_EXTRA_STATE = "_extra_state"


def wrapper_problem(model: nn.Module) -> str:
    """Problem of a model that is wrapped or compiled in part; empty if it is not."""
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        how = next((text for kind, text in _WRAPPERS.items() if kind in kinds), "")
        if not how and getattr(module, "_compiled_call_impl", None) is not None:
            how = _WRAPPERS["OptimizedModule"]
        if isinstance(module, torch.jit.ScriptModule):
            how = "compiled by torch.jit"
        if how:
            return f"{name or 'the module'} is {how}; return the plain module"
    return ""


def lazy_names(model: nn.Module) -> list[str]:
    """Names of lazy parameters and buffers, which have no shape yet."""
    return [name for name, tensor in named_tensors(model) if is_lazy(tensor)]


def structure_problem(model: nn.Module) -> str:
    """Problem of a model whose tensors all have a shape, in words; empty if none."""
    for name, tensor in named_tensors(model):
        if problem := _tensor_problem(tensor):
            return f"{name} {problem}"
    if not any(parameter.is_floating_point() for parameter in model.parameters()):
        return "the module has no floating-point parameter to train"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return "the module has nothing to train: no parameter requires gradients; call requires_grad_() on some"
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    if both := [parameters[id(buffer)] for buffer in model.buffers() if id(buffer) in parameters]:
        return f"{both[0]} is registered as a parameter and as a buffer; register it once"
    if shared := shared_memory(model):
        return (
            f"{shared[0]} and {shared[1]} share memory but are two tensors; make them one object "
            "(a.weight = b.weight), or copies (.clone())"
        )
    return _state_problem(model)


def _tensor_problem(tensor: Tensor) -> str:
    """Problem of one parameter or buffer; empty if none."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta:
        return "is on the meta device and has no values; build the model on the CPU"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"is no dense tensor ({str(tensor.layout).removeprefix('torch.')}); convert it by .to_dense()"
    if tensor.is_quantized:
        return f"is quantized ({kind}); train the float model, and quantize what comes out of the run"
    if isinstance(tensor, nn.Parameter) and not tensor.is_floating_point():
        return f"is a parameter of {kind}; parameters are kept as float32: use floats, or register it as a buffer"
    if isinstance(tensor, nn.Parameter) and _overlaps_itself(tensor):
        return "is an expanded view, whose elements share memory; make it whole by .clone()"
    return ""


def _state_problem(model: nn.Module) -> str:
    """Problem of the model's state dict; empty if none."""
    try:
        state = model.state_dict()
    except (Exception, SystemExit) as error:
        return f"its state_dict() raised {type(error).__name__}: {' '.join(str(error).split())}"
    for name, value in state.items():
        if name.rpartition(".")[2] == _EXTRA_STATE:
            return (
                f"{name.removesuffix(_EXTRA_STATE).rstrip('.') or 'the module'} keeps extra state (get_extra_state), "
                "which is neither averaged nor in checkpoints; register it as a buffer"
            )
        if not isinstance(value, Tensor):
            return f"its state dict holds {name}, a {type(value).__name__}; only tensors can be saved: make it a buffer"
    return ""


def places(model: nn.Module) -> list[list[str]]:
    """Names of each parameter and each buffer, in the model's order.

    Two or more for a tied one.
    """
    found: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model):
        found.setdefault(id(tensor), []).append(name)
    return list(found.values())


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, tied ones under each of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def convert(model: nn.Module, change: Callable[[nn.Module], object]) -> None:
    """Convert a model by `change`, such as `nn.Module.float`; tied buffers stay tied.

    It changes parameters in place, but makes a new tensor of each place of a buffer.
    """
    tied: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                tied.setdefault(id(buffer), []).append((module, name))
    change(model)
    for (first, own), *others in tied.values():
        for module, name in others:
            module._buffers[name] = first._buffers[own]


def shared_memory(model: nn.Module) -> tuple[str, str] | None:
    """Names of two distinct tensors that share memory; None if there are none."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(model):
        if tensor.numel():
            seen.setdefault(id(tensor), (name, tensor))
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in seen.values():
        by_storage.setdefault(tensor.untyped_storage()._cdata, []).append((name, tensor))
    for group in by_storage.values():
        for place, (name, tensor) in enumerate(group):
            for other, candidate in group[:place]:
                if _have_common_elements(tensor, candidate):
                    return other, name
    return None


def _have_common_elements(one: Tensor, other: Tensor) -> bool:
    (first, last), (begin, end) = _span(one), _span(other)
    if last <= begin or end <= first:
        return False
    return one.dtype != other.dtype or bool(torch.isin(_offsets(one), _offsets(other)).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """Range of bytes in the storage: the first, and the one after the last."""
    reach = sum((size - 1) * int(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + (reach + 1) * tensor.element_size()


def _offsets(tensor: Tensor) -> Tensor:
    """Position of each element in the storage."""
    found = torch.tensor(tensor.storage_offset(), device="cpu")
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        found = found.unsqueeze(-1) + torch.arange(size, device="cpu") * stride
    return found.reshape(-1)


def _overlaps_itself(tensor: Tensor) -> bool:
    """Return whether two elements share a place; exact for strides of views."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return len(set(_offsets(tensor).tolist())) < tensor.numel()
        reach += (size - 1) * stride
    return False
