"""Where a process computes, and what it says when the memory there is used up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from p2pfl.errors import ConfigError, P2PFLError, TrainingError

REMEDIES = "fewer peers a GPU, a smaller --batch-size or --width, --precision bf16, or --device cpu"
_HOST_REMEDIES = "fewer peers a machine, or a smaller --batch-size or --width"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had no memory left: PyTorch's allocator has a class for that, CUDA and its libraries only words."""
    words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether this machine had no memory left: PyTorch has only words for that."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error) and "memory" in str(error)
    )


@contextmanager
def on_device(device: torch.device, refusal: type[P2PFLError] = TrainingError) -> Iterator[None]:
    """Compute on this device. Raises `refusal`, naming the remedies, where it or the host has no memory left.

    Which GPU is the current one is a thread's own setting, and what does not name a device goes to the current one.
    """
    with _enough_memory(device, refusal), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


def make_current(device: torch.device) -> None:
    """Compute on this GPU from now on, in this thread. Raises ConfigError where it has no room for a context."""
    with _enough_memory(device, ConfigError):
        torch.cuda.set_device(device)


@contextmanager
def _enough_memory(device: torch.device, refusal: type[P2PFLError]) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_host_memory(error):
            raise refusal(f"cpu: out of memory; choose {_HOST_REMEDIES}") from error
        if not is_out_of_memory(error):
            raise
        raise refusal(f"{device}: out of memory; choose {REMEDIES}") from error
