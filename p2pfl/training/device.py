"""Devices of training: choice, memory errors, host copies of a GPU's model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from p2pfl.errors import ConfigError, P2PFLError, TrainingError
from p2pfl.model.vector import aligned_vector

REMEDIES = "fewer peers a GPU, a smaller --batch-size or --width, --precision bf16, or --device cpu"
_HOST_REMEDIES = "fewer peers a machine, or a smaller --batch-size or --width"
_MOST_DIGITS = 9  # Python itself refuses to read some thousands of them


def pick_device(wanted: str, index: int, from_file: str = "") -> torch.device:
    """The device of one peer: the topology file's, or auto: GPUs in turn, else CPU.

    Raises ConfigError.
    """
    name, said = wanted, f"--device {wanted}"
    if wanted == "auto" and from_file:
        name, said = from_file, f"device {from_file} in the topology file"
    count = torch.cuda.device_count()
    if name in ("auto", "cuda"):
        if count:
            return torch.device("cuda", index % count)
        if name == "cuda":
            raise ConfigError(f"{said}: there is no GPU that PyTorch can use; choose cpu or auto")
        return torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isascii() and number.isdecimal()):
        hint = ", or drop the topology file's with `topology fix --drop-addresses`" if name == from_file else ""
        raise ConfigError(f"{said}: unknown; choose auto, cpu, cuda or cuda:0{hint}")
    # Not PyTorch's own check: it keeps the number in eight bits, and quotes cuda:99999 as cuda:-97.
    if len(number) > _MOST_DIGITS or int(number) >= count:
        raise ConfigError(f"{said}: PyTorch sees {count} GPUs here; choose another or cpu")
    return torch.device("cuda", int(number))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had no memory left.

    PyTorch's allocator has a class for that, CUDA and its libraries only words.
    """
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
    """Compute on this device.

    Raises `refusal`, naming the remedies, where it or the host has no memory left.

    Which GPU is the current one is a thread's own setting, and what does not name a device goes to the current one.
    """
    with _enough_memory(device, refusal), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


def make_current(device: torch.device) -> None:
    """Compute on this GPU from now on, in this thread.

    Raises ConfigError where it has no room for a context.
    """
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


class HostCopy:
    """A GPU's vector on the host: `host`, in pinned memory.

    It may be set to another such vector.

    The wire's bfloat16 numbers are not made on the GPU, since that gains nothing: on the host the cast of VGG-11's
    9.8 million numbers takes 3.2 ms, and merely copying them from where the GPU had left them 2.2 ms, to which comes
    a second transfer. (They must be copied: neighbors may still take the last round's.)
    """

    def __init__(self, vector: Tensor) -> None:
        self._vector = vector
        self.host = aligned_vector(vector.numel(), pin=True)
        self._stream = torch.cuda.Stream(vector.device)  # type: ignore[no-untyped-call]

    def fetch(self) -> None:
        """host := vector, once the device's work until now is done."""
        self._copy(self.host, self._vector)

    def push(self) -> None:
        """vector := host, before the device's work from now on."""
        self._copy(self._vector, self.host)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        """Copy, and return when it is done: the host reads or writes `host` next."""
        self._stream.wait_stream(torch.cuda.current_stream(self._vector.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            sleep_until_done()


def host_copy_of(vector: Tensor) -> HostCopy | None:
    """Host copy of a GPU's vector; None for a vector that is on the host."""
    return HostCopy(vector) if vector.is_cuda else None


def sleep_until_done() -> None:
    """Wait for the current stream without keeping a core busy.

    CUDA does keep one busy by default, and peers share the cores.
    """
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()
    done.synchronize()
