"""Safetensors files: written atomically, with a checksum of their content."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from p2pfl.errors import CheckpointError, UnreadableError, is_missing, unreadable
from p2pfl.util.files import opener, sync_folder


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


def check_readable(path: Path) -> None:
    """Read a file through, to find system errors.

    Mapping it into memory, as safetensors does, would hide them or die of them. Raises CheckpointError for a
    missing file, and UnreadableError for one that cannot be read now.
    """
    try:
        with open(path, "rb", buffering=0, opener=opener) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass
    except OSError as error:
        if is_missing(path, error) or isinstance(error, (IsADirectoryError, NotADirectoryError)):
            raise CheckpointError(f"{path}: not an intact checkpoint ({error.strerror})") from None
        raise UnreadableError(unreadable(path, error)) from None


def checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of metadata and tensors, against accidental damage.

    It protects from nothing else, and takes half the time of SHA-256.
    """
    digest = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest = zlib.crc32(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode(), digest)
        digest = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, digest)
    return f"{digest:08x}"


def _ordinary_mode(path: Path) -> int:
    """Permissions of a new file here; safetensors writes files for their owner only."""
    with open(path, "wb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777
