"""Checkpoints of a peer, one after each training round: safetensors with a checksum, written atomically; never pickle.

A checkpoint says of which run, peer and round it is, and is refused anywhere else. It holds everything that changes the
rest of the run: weights, momentum, integer buffers and the state of the algorithm. It also holds the payloads of its
round, so that after a stop of the whole swarm, when peers may be one round apart, those ahead can send them again to
those behind; and the record of its round, from which a lost one is rebuilt. The two newest are kept, and whatever else
lies in the folder, such as checkpoints of others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from p2pfl.errors import CheckpointError, OtherVersionError, UnreadableError, is_missing, unreadable, unwritable
from p2pfl.run.paths import CHECKPOINT_NAME, checkpoint_name
from p2pfl.util.files import check_regular, opener, sync_folder

_OTHER_VERSION = "resume with that version, or start a new run without --resume"
KEPT = 2
FORMAT = 5
_UNFINISHED = re.compile(rf"\.{CHECKPOINT_NAME.pattern}\.\d+")


@dataclass(frozen=True)
class Origin:
    """Owner of a checkpoint: the run's lasting id, the peer's label and number. An empty `run` is not known."""

    run: str = ""
    peer: str = ""
    index: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A peer after `round` rounds. Vectors are (size,) as in the run's layout; `sent` is by name and neighbor.

    `algorithm` is the state of the gossip algorithm, tensors of any shape and numbers by name. `record` is the round's
    record as JSON, and `recorded` the number of records that the peer has up to it.
    """

    round: int
    steps: int
    layout: str
    settings: str
    x: Tensor
    momentum: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    sent: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    scalars: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    algorithm: Mapping[str, Tensor | float] = field(default_factory=dict)
    origin: Origin = Origin()
    record: str = ""
    recorded: int = 0


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and forget those of the same origin before the last. Raises CheckpointError naming the file.

    Later rounds are left alone, too: a process that begins again may have nothing else of them.
    """
    tensors: dict[str, Tensor] = {"x": checkpoint.x, "momentum": checkpoint.momentum}
    tensors |= {f"buffer/{name}": buffer for name, buffer in checkpoint.buffers.items()}
    state = checkpoint.algorithm.items()
    tensors |= {f"algorithm/{name}": value for name, value in state if isinstance(value, Tensor)}
    stored: dict[tuple[int, str], str] = {}  # neighbors that were sent the same tensor share one copy
    sent: dict[str, dict[str, str]] = {}
    for neighbor, vectors in checkpoint.sent.items():
        for name, vector in vectors.items():
            key = stored.setdefault((vector.data_ptr(), name), f"sent/{len(stored)}/{name}")
            tensors[key] = vector
            sent.setdefault(str(neighbor), {})[name] = key
    about: dict[str, Any] = {
        "format": FORMAT,
        **asdict(checkpoint.origin),
        "round": checkpoint.round,
        "steps": checkpoint.steps,
        "layout": checkpoint.layout,
        "settings": checkpoint.settings,
        "sent": sent,
        "scalars": {str(neighbor): dict(values) for neighbor, values in checkpoint.scalars.items()},
        "algorithm": {name: float(value) for name, value in state if not isinstance(value, Tensor)},
        "record": checkpoint.record,
        "recorded": checkpoint.recorded,
    }
    about["digest"] = _digest(about, tensors)
    path = folder / checkpoint_name(checkpoint.round)
    try:
        folder.mkdir(exist_ok=True)
        save_tensors(path, tensors, {"p2pfl": json.dumps(about)})
        for old in _outdated(folder, checkpoint) + _unfinished(folder):
            old.unlink()
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(unwritable(path, error)) from None
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file so that after a crash there is the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        mode = _ordinary_mode(temporary)
        safetensors.torch.save_file(separated(tensors), temporary, metadata=dict(about))
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as of a folder that was replaced by a file, which has been reported
            temporary.unlink()
    sync_folder(path.parent)


def separated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: contiguous on the CPU, and no two in the same memory, as tied ones are."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(plain.items(), key=lambda item: item[1].data_ptr()):
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        if size and start < end:
            plain[name] = tensor.clone()
        end = max(end, start + size)
    return plain


def _ordinary_mode(path: Path) -> int:
    """The permissions that a new file gets here; safetensors writes files that only their owner can read."""
    with open(path, "wb") as file:
        return os.fstat(file.fileno()).st_mode & 0o777


def load(path: Path, origin: Origin | None = None) -> Checkpoint:
    """Read one checkpoint; `origin` says whose it must be.

    Raises CheckpointError naming the file if it is truncated, altered or none at all, or of another run, peer or round
    than it stands for. What says nothing of its content has errors of its kind: UnreadableError where the system does
    not let it be read, and OtherVersionError.
    """
    _check_readable(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = about.pop("digest")
        if about.get("format") != FORMAT:
            raise OtherVersionError(f"{path}: written by another version of p2pfl")
        if _digest(about, tensors) != digest:
            raise CheckpointError(f"{path}: altered since it was written (checksum differs)")
        found = _parsed(about, tensors)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error})") from None
    except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError is PyTorch's, such as of too many open files
        raise UnreadableError(unreadable(path, error)) from None
    if why := _misplaced(found, path, origin):
        raise CheckpointError(f"{path}: {why}")
    return found


_DAMAGED = (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError)


def _check_readable(path: Path) -> None:
    """Read a file through: what maps it into memory hides the system's errors, or dies of them."""
    try:
        with open(path, "rb", buffering=0, opener=opener) as file:
            buffer = bytearray(1 << 20)
            while file.readinto(buffer):
                pass
    except OSError as error:
        if is_missing(path, error) or isinstance(error, (IsADirectoryError, NotADirectoryError)):
            raise CheckpointError(f"{path}: not a whole checkpoint ({error.strerror})") from None
        raise UnreadableError(unreadable(path, error)) from None


def _parsed(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    return Checkpoint(
        round=int(about["round"]),
        steps=int(about["steps"]),
        layout=str(about["layout"]),
        settings=str(about["settings"]),
        x=tensors["x"],
        momentum=tensors["momentum"],
        buffers=_below("buffer/", tensors),
        sent={int(k): {n: tensors[key] for n, key in v.items()} for k, v in about["sent"].items()},
        scalars={int(k): dict(v) for k, v in about["scalars"].items()},
        algorithm={**_below("algorithm/", tensors), **{n: float(v) for n, v in about["algorithm"].items()}},
        origin=Origin(str(about["run"]), str(about["peer"]), int(about["index"])),
        record=str(about["record"]),
        recorded=int(about["recorded"]),
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _misplaced(found: Checkpoint, path: Path, origin: Origin | None) -> str:
    """Why a whole checkpoint must not be used in this place; nothing if it may."""
    if CHECKPOINT_NAME.fullmatch(path.name) and path.name != checkpoint_name(found.round):
        return f"holds round {found.round}, not the one that its name says"
    if origin is None:
        return ""
    if (found.origin.peer, found.origin.index) != (origin.peer, origin.index):
        theirs, ours = (f"{o.peer!r} (number {o.index})" for o in (found.origin, origin))  # repr: one line, escaped
        return f"a checkpoint of {theirs}, not of {ours}"
    if origin.run not in ("", found.origin.run):
        return "a checkpoint of another run"
    return ""


def newest(
    folder: Path, at_most: float = math.inf, origin: Origin | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of at most that round that can be used, if any, and a line about each newer one that
    cannot. `origin` says whose they must be.

    Raises UnreadableError where one that may be the newest cannot be read now, and OtherVersionError where there are
    some of another version and none that can be used: neither is lost.
    """
    refused: list[str] = []
    foreign: OtherVersionError | None = None
    try:
        numbered = _numbered(folder)
    except OSError as error:
        raise UnreadableError(unreadable(folder, error)) from None
    for number, path in reversed(numbered):
        if number > at_most:
            continue
        try:
            return load(path, origin), refused
        except UnreadableError:
            raise
        except CheckpointError as error:
            refused.append(str(error))
            foreign = foreign or (error if isinstance(error, OtherVersionError) else None)
    if foreign is not None:
        raise OtherVersionError(str(foreign), remedy=_OTHER_VERSION)
    return None, refused


def latest_number(folder: Path) -> int:
    """The newest round of which there is a file, whole or not; 0 where there is none."""
    with contextlib.suppress(OSError):
        return max((number for number, _ in _numbered(folder)), default=0)
    return 0


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        if is_missing(folder, error) or isinstance(error, NotADirectoryError):
            return []
        raise
    matches = (CHECKPOINT_NAME.fullmatch(name) for name in names)
    return sorted((int(match[1]), folder / match[0]) for match in matches if match)


def _outdated(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """Checkpoints not needed after a save: those of this origin and an earlier round, but for the newest of them."""
    before = [path for number, path in _numbered(folder) if number < checkpoint.round]
    if len(before) < KEPT:
        return []
    return [path for path in before if _origin_in(path) == checkpoint.origin][: 1 - KEPT]


def _origin_in(path: Path) -> Origin | None:
    """Origin of a checkpoint, from its header alone; None where that does not say, or says another round."""
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
        mine = about["format"] == FORMAT and checkpoint_name(about["round"]) == path.name
        return Origin(about["run"], about["peer"], about["index"]) if mine else None
    except (*_DAMAGED, OSError, RuntimeError):
        return None


def _unfinished(folder: Path) -> list[Path]:
    """Remains of checkpoints in whose middle the process was killed; only one at a time writes into a folder."""
    return [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name)]


def _digest(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of everything: against accidents, which are all that it can be against, at twice the speed of SHA-256."""
    digest = zlib.crc32(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest = zlib.crc32(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}/".encode(), digest)
        digest = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, digest)
    return f"{digest:08x}"
