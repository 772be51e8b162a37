"""Safetensors files of tensors, written atomically, and their tensors' bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from p2pfl.util.files import sync_folder


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file with metadata, atomically.

    After a crash the old file is there or the new one, never half of one. Raises OSError and SafetensorError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        mode = _ordinary_mode(temporary)
        safetensors.torch.save_file(separated(tensors), temporary, metadata=dict(about))
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as of a folder that no longer exists, which is reported already
            temporary.unlink()
    sync_folder(path.parent)


def separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: contiguous, on the CPU, in separate memory.

    Tied tensors, which share memory, are copied.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(plain.items(), key=lambda item: item[1].data_ptr()):
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        if size and start < end:
            plain[name] = tensor.clone()
        end = max(end, start + size)
    return plain


def raw_tensor(tensor: Tensor) -> tuple[str, tuple[int, ...], memoryview]:
    """Type in the safetensors format, shape and bytes of a tensor, a view on the CPU."""
    plain = tensor.detach().cpu().contiguous()
    return _TYPES[plain.dtype], tuple(plain.shape), plain.reshape(-1).view(torch.uint8).numpy().data


_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.float64: "F64",
}


def _ordinary_mode(path: Path) -> int:
    """Permissions of a new file here; safetensors writes files for their owner only."""
    with open(path, "wb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777
