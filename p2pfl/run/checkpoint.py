"""Checkpoints of a peer, each of a training round, as safetensors files.

A checkpoint states its run, peer and round, and is refused anywhere else. It holds everything that changes the rest of
the run: weights, momentum, other state of the optimizer, integer buffers and the state of the algorithm. It also holds
the payloads of its round, of all its exchanges, so that after a stop of the whole swarm, when peers may be one round
apart, those ahead can send them again to those behind; and the record of its round, from which a lost one is rebuilt.
Which are kept is the plan's; other files in the folder, such as checkpoints of other peers, stay. Nothing is pickled.

`write` makes a checkpoint that outlasts the process, `complete` waits until it also outlasts a power cut, and only then
removes older ones, so that this wait may overlap with the next round.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from p2pfl.errors import CheckpointError, OtherVersionError, UnreadableError, is_missing, unreadable, unwritable
from p2pfl.run import checked_file
from p2pfl.run.checked_file import Raw, is_whole
from p2pfl.run.paths import CHECKPOINT_NAME, checkpoint_name
from p2pfl.run.retention import EACH_ROUND, CheckpointPlan
from p2pfl.run.retention import KEPT as KEPT
from p2pfl.run.saved_state import Checkpoint as Checkpoint
from p2pfl.run.saved_state import Origin as Origin
from p2pfl.run.saved_state import Sent as Sent
from p2pfl.run.tensor_file import raw_tensor

_OTHER_VERSION = "resume with that version, or start a new run without --resume"
FORMAT = 8
_UNFINISHED = re.compile(rf"\.{CHECKPOINT_NAME.pattern}\.\d+")


def save(folder: Path, checkpoint: Checkpoint, plan: CheckpointPlan = EACH_ROUND) -> Path:
    """Write a checkpoint, and remove older ones; see `write` and `complete`."""
    path = write(folder, checkpoint)
    complete(path, checkpoint.origin, plan)
    return path


def write(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, which outlasts the process from now on.

    None of its tensors is needed any longer. Raises CheckpointError naming the file.
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
        "every": checkpoint.every,
        "steps": checkpoint.steps,
        "layout": checkpoint.layout,
        "settings": checkpoint.settings,
        **sent,
        "earlier": earlier,
        "algorithm": {name: float(value) for name, value in state if not isinstance(value, Tensor)},
        "record": checkpoint.record,
        "recorded": checkpoint.recorded,
    }
    path = folder / checkpoint_name(checkpoint.round)
    try:
        folder.mkdir(exist_ok=True)
        raw = {name: Raw(*raw_tensor(tensor)) for name, tensor in tensors.items()}
        checked_file.write(path, raw, {"p2pfl": json.dumps(about)})
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None
    return path


def complete(path: Path, origin: Origin, plan: CheckpointPlan) -> None:
    """Wait until a checkpoint is on disk, then remove older ones by the plan.

    Those of other origins stay, and those of later rounds: a process that begins again may have nothing else of them.
    Raises CheckpointError naming the file.
    """
    try:
        checked_file.sync(path)
        for old in _outdated(path, origin, plan) + _unfinished(path.parent):
            old.unlink()
    except OSError as error:
        raise CheckpointError(unwritable(path, error)) from None


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
    intact = is_whole(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["p2pfl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["round"] is not None and about.get("format") != FORMAT:
            raise OtherVersionError(f"{path}: written by another version of p2pfl")
        if not intact:
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
        every=int(about["every"]),
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


def _outdated(path: Path, origin: Origin, plan: CheckpointPlan) -> list[Path]:
    """Checkpoints of the same origin to remove after a save."""
    match = CHECKPOINT_NAME.fullmatch(path.name)
    assert match is not None
    round = int(match[1])
    before = {number: file for number, file in _numbered(path.parent) if number < round}
    if len(before) < plan.kept:
        return []
    own = [number for number, file in before.items() if _origin_in(file) == origin]
    return [before[number] for number in plan.outdated(own, round)]


def _origin_in(path: Path) -> Origin | None:
    """Origin in a checkpoint's header; None if that is damaged or of another round."""
    try:
        about = json.loads(checked_file.read_about(path)["p2pfl"])
        mine = about["format"] == FORMAT and checkpoint_name(about["round"]) == path.name
        return Origin(about["run"], about["peer"], about["index"]) if mine else None
    except (*_DAMAGED, OSError, RuntimeError):
        return None


def _unfinished(folder: Path) -> list[Path]:
    """Temporary files of killed processes; only one process at a time writes here."""
    return [path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name)]
