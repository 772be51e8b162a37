"""Checkpoints of a peer, one after each training round, as safetensors files.

A checkpoint states its run, peer and round, and is refused anywhere else. It holds everything that changes the rest of
the run: weights, momentum, other state of the optimizer, integer buffers and the state of the algorithm. It also holds
the payloads of its round, of all its exchanges, so that after a stop of the whole swarm, when peers may be one round
apart, those ahead can send them again to those behind; and the record of its round, from which a lost one is rebuilt. A
peer's two newest are kept; other files in the folder, such as checkpoints of other peers, stay. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from p2pfl.errors import CheckpointError, OtherVersionError, UnreadableError, is_missing, unreadable, unwritable
from p2pfl.run.paths import CHECKPOINT_NAME, checkpoint_name
from p2pfl.run.tensor_file import check_readable, checksum, save_tensors
from p2pfl.util.files import check_regular

_OTHER_VERSION = "resume with that version, or start a new run without --resume"
KEPT = 2  # at least; more on a schedule of graphs, where neighbors may be further apart
FORMAT = 7
_UNFINISHED = re.compile(rf"\.{CHECKPOINT_NAME.pattern}\.\d+")


@dataclass(frozen=True)
class Origin:
    """Origin of a checkpoint: the run's id, the peer's label and its number.

    The id is the same over all resumes; it is empty where it is not known.
    """

    run: str = ""
    peer: str = ""
    index: int = 0


@dataclass(frozen=True)
class Sent:
    """Payloads of one exchange: vectors and scalars by neighbor and name."""

    vectors: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    scalars: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """State of a peer after `round` rounds.

    Vectors are (size,) as in the run's layout. `optimizer` is its state besides `momentum`, by name. `sent` and
    `scalars` are the payloads of the round's last exchange by neighbor and name, and `earlier` those of the exchanges
    before it in the round, oldest first. `algorithm` is the state of the gossip algorithm by name: tensors of any
    shape, and numbers. `record` is the round's record as JSON, and `recorded` the number of the peer's records so far.
    """

    round: int
    steps: int
    layout: str
    settings: str
    x: Tensor
    momentum: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    sent: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    scalars: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    algorithm: Mapping[str, Tensor | float] = field(default_factory=dict)
    earlier: tuple[Sent, ...] = ()
    origin: Origin = Origin()
    record: str = ""
    recorded: int = 0


def save(folder: Path, checkpoint: Checkpoint, kept: int = KEPT) -> Path:
    """Write a checkpoint, and remove those of the same origin before the last `kept`.

    Those of later rounds stay: a process that begins again may have nothing else of them. Raises CheckpointError naming
    the file.
    """
    tensors: dict[str, Tensor] = {"x": checkpoint.x, "momentum": checkpoint.momentum}
    tensors |= {f"buffer/{name}": buffer for name, buffer in checkpoint.buffers.items()}
    tensors |= {f"optimizer/{name}": tensor for name, tensor in checkpoint.optimizer.items()}
    state = checkpoint.algorithm.items()
    tensors |= {f"algorithm/{name}": value for name, value in state if isinstance(value, Tensor)}
    sent = _stored(Sent(checkpoint.sent, checkpoint.scalars), "sent", tensors)
    earlier = [_stored(one, f"earlier/{place}", tensors) for place, one in enumerate(checkpoint.earlier)]
    about: dict[str, Any] = {
        "format": FORMAT,
        **asdict(checkpoint.origin),
        "round": checkpoint.round,
        "steps": checkpoint.steps,
        "layout": checkpoint.layout,
        "settings": checkpoint.settings,
        **sent,
        "earlier": earlier,
        "algorithm": {name: float(value) for name, value in state if not isinstance(value, Tensor)},
        "record": checkpoint.record,
        "recorded": checkpoint.recorded,
    }
    about["digest"] = checksum(about, tensors)
    path = folder / checkpoint_name(checkpoint.round)
    try:
        folder.mkdir(exist_ok=True)
        save_tensors(path, tensors, {"p2pfl": json.dumps(about)})
        for old in _outdated(folder, checkpoint, kept) + _unfinished(folder):
            old.unlink()
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(unwritable(path, error)) from None
    return path


def _stored(sent: Sent, folder: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Add an exchange's vectors to a file's tensors; returns their names and scalars."""
    stored: dict[tuple[int, str], str] = {}  # neighbors that were sent the same tensor share one copy
    names: dict[str, dict[str, str]] = {}
    for neighbor, vectors in sent.vectors.items():
        for name, vector in vectors.items():
            key = stored.setdefault((vector.data_ptr(), name), f"{folder}/{len(stored)}/{name}")
            tensors[key] = vector
            names.setdefault(str(neighbor), {})[name] = key
    return {"sent": names, "scalars": {str(neighbor): dict(values) for neighbor, values in sent.scalars.items()}}


def _restored(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sent:
    """Payloads of an exchange, as `_stored` has described them."""
    return Sent(
        {int(k): {n: tensors[key] for n, key in v.items()} for k, v in about["sent"].items()},
        {int(k): dict(v) for k, v in about["scalars"].items()},
    )


def load(path: Path, origin: Origin | None = None) -> Checkpoint:
    """Read one checkpoint, which must have this origin if one is given.

    Raises CheckpointError naming the file if it is missing, truncated or altered, or of another run, peer or round.
    Two subclasses say nothing about its content: UnreadableError for one that cannot be read now, and
    OtherVersionError.
    """
    check_readable(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = about.pop("digest")
        if about.get("format") != FORMAT:
            raise OtherVersionError(f"{path}: written by another version of p2pfl")
        if checksum(about, tensors) != digest:
            raise CheckpointError(f"{path}: altered since it was written (checksum differs)")
        found = _parsed(about, tensors)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: not an intact checkpoint ({error})") from None
    except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError: PyTorch's, as of too many open files
        raise UnreadableError(unreadable(path, error)) from None
    if why := _misplaced(found, path, origin):
        raise CheckpointError(f"{path}: {why}")
    return found


_DAMAGED = (safetensors.SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError)


def _parsed(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    last = _restored(about, tensors)
    return Checkpoint(
        round=int(about["round"]),
        steps=int(about["steps"]),
        layout=str(about["layout"]),
        settings=str(about["settings"]),
        x=tensors["x"],
        momentum=tensors["momentum"],
        buffers=_below("buffer/", tensors),
        optimizer=_below("optimizer/", tensors),
        sent=last.vectors,
        scalars=last.scalars,
        earlier=tuple(_restored(one, tensors) for one in about["earlier"]),
        algorithm={**_below("algorithm/", tensors), **{n: float(v) for n, v in about["algorithm"].items()}},
        origin=Origin(str(about["run"]), str(about["peer"]), int(about["index"])),
        record=str(about["record"]),
        recorded=int(about["recorded"]),
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _misplaced(found: Checkpoint, path: Path, origin: Origin | None) -> str:
    """Reason not to use an intact checkpoint here; empty if there is none."""
    if CHECKPOINT_NAME.fullmatch(path.name) and path.name != checkpoint_name(found.round):
        return f"holds round {found.round}, not the one in its name"
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
    """Find the newest usable checkpoint, up to round `at_most` and of this origin.

    Returns None if there is none, and a line about each newer one that cannot be used. Raises UnreadableError where one
    that may be the newest cannot be read now, and OtherVersionError where some are of another version and none is
    usable: in both cases nothing is lost.
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
    """Newest round with a file, intact or not; 0 if there is none."""
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


def _outdated(folder: Path, checkpoint: Checkpoint, kept: int) -> list[Path]:
    """Checkpoints to remove after a save.

    Those are of the same origin and of earlier rounds, except the newest ones of these.
    """
    before = [path for number, path in _numbered(folder) if number < checkpoint.round]
    if len(before) < kept:
        return []
    return [path for path in before if _origin_in(path) == checkpoint.origin][: 1 - kept]


def _origin_in(path: Path) -> Origin | None:
    """Origin in a checkpoint's header; None if that is damaged or of another round."""
    try:
        check_regular(path)
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
        mine = about["format"] == FORMAT and checkpoint_name(about["round"]) == path.name
        return Origin(about["run"], about["peer"], about["index"]) if mine else None
    except (*_DAMAGED, OSError, RuntimeError):
        return None


def _unfinished(folder: Path) -> list[Path]:
    """Temporary files of killed processes; only one process at a time writes here."""
    return [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name)]
