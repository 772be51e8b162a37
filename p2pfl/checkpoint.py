"""What a peer saves after each round, as safetensors with a checksum, written atomically; never pickle.

A checkpoint also holds what the peer sent in its last round, so that after a stop of the whole swarm, when peers
may be one round apart, those ahead can send it again to those behind. The two newest are kept.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from p2pfl.errors import CheckpointError, unwritable

KEPT = 2
FORMAT = 2
_NAME = re.compile(r"round-(\d{6,})\.safetensors")
_UNFINISHED = re.compile(rf"\.{_NAME.pattern}\.\d+")


@dataclass(frozen=True)
class Checkpoint:
    """A peer after `round` rounds. Vectors are (size,) as in the run's layout; `sent` is by name and neighbor."""

    round: int
    steps: int
    layout: str
    settings: str
    x: Tensor
    momentum: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    sent: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    scalars: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and forget all but the two newest. Raises CheckpointError naming the file."""
    tensors: dict[str, Tensor] = {"x": checkpoint.x, "momentum": checkpoint.momentum}
    tensors |= {f"buffer/{name}": buffer for name, buffer in checkpoint.buffers.items()}
    stored: dict[tuple[int, str], str] = {}  # neighbors that were sent the same tensor share one copy
    sent: dict[str, dict[str, str]] = {}
    for neighbor, vectors in checkpoint.sent.items():
        for name, vector in vectors.items():
            key = stored.setdefault((vector.data_ptr(), name), f"sent/{len(stored)}/{name}")
            tensors[key] = vector
            sent.setdefault(str(neighbor), {})[name] = key
    about: dict[str, Any] = {
        "format": FORMAT,
        "round": checkpoint.round,
        "steps": checkpoint.steps,
        "layout": checkpoint.layout,
        "settings": checkpoint.settings,
        "sent": sent,
        "scalars": {str(neighbor): dict(values) for neighbor, values in checkpoint.scalars.items()},
    }
    about["digest"] = _digest(about, tensors)
    path = folder / f"round-{checkpoint.round:06d}.safetensors"
    try:
        folder.mkdir(exist_ok=True)
        save_tensors(path, tensors, {"p2pfl": json.dumps(about)})
        for old in [old for _, old in _numbered(folder)[:-KEPT]] + _unfinished(folder):
            old.unlink()
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(unwritable(path, error)) from None
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file so that after a crash there is the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        mode = _ordinary_mode(temporary)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(plain, temporary, metadata=dict(about))
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as of a folder that is none any more, which has been said already
            temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _ordinary_mode(path: Path) -> int:
    """The permissions that a new file gets here; safetensors writes files that only their owner can read."""
    with open(path, "wb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777


def load(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises CheckpointError naming the file if it is truncated, altered or none at all."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = about.pop("digest")
        if about.get("format") != FORMAT:
            raise CheckpointError(f"{path}: written by another version of p2pfl")
        if _digest(about, tensors) != digest:
            raise CheckpointError(f"{path}: altered since it was written (checksum differs)")
        return Checkpoint(
            round=int(about["round"]),
            steps=int(about["steps"]),
            layout=str(about["layout"]),
            settings=str(about["settings"]),
            x=tensors["x"],
            momentum=tensors["momentum"],
            buffers={n.removeprefix("buffer/"): t for n, t in tensors.items() if n.startswith("buffer/")},
            sent={int(k): {n: tensors[key] for n, key in v.items()} for k, v in about["sent"].items()},
            scalars={int(k): dict(v) for k, v in about["scalars"].items()},
        )
    except (
        OSError,
        safetensors.SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error})") from None


def newest(folder: Path, at_most: float = math.inf) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of at most that round, if any, and a line about each newer one that is not whole."""
    refused: list[str] = []
    for number, path in reversed(_numbered(folder)):
        if number > at_most:
            continue
        try:
            return load(path), refused
        except CheckpointError as error:
            refused.append(str(error))
    return None, refused


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _unfinished(folder: Path) -> list[Path]:
    """What is left of checkpoints in whose middle the process was killed; only one at a time writes into a folder."""
    return [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name)]


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of everything: against accidents, which are all that it can be against, at twice the speed of SHA-256."""
    digest = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest = zlib.crc32(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode(), digest)
        digest = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, digest)
    return f"{digest:08x}"
