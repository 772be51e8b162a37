"""Parser of fault scripts, and checks that a script fits the run."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from p2pfl.errors import ConfigError, unreadable
from p2pfl.faults.script import (
    BEFORE_EXCHANGE,
    AttackFault,
    Corrupt,
    Delay,
    Drop,
    Fault,
    FaultScript,
    Kill,
    NetworkPartition,
    Pause,
    Point,
    kind_of,
    words,
)
from p2pfl.registry import ATTACKS
from p2pfl.util.files import read_text


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fault: list[Fault]
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None


def load_faults(path: str | Path, seed: int) -> FaultScript:
    """Read a fault script; `seed` is the run's, for a script without one.

    Raises ConfigError naming file, fault and field.
    """
    try:
        plain = tomllib.loads(read_text(path))
    except OSError as error:
        raise ConfigError(f"--faults {unreadable(Path(path), error)}") from None
    except ValueError as error:  # what tomllib raises, and Python for numbers of thousands of digits, and no UTF-8
        raise ConfigError(f"--faults {path}: not TOML ({error})") from None
    except RecursionError:
        raise ConfigError(f"--faults {path}: not TOML that can be read (too deeply nested)") from None
    try:
        found = msgspec.convert(plain, _File)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        what = what.replace("`", "'")
        place = _place(where.strip("`"), plain)
        form = "; write each fault as a [[fault]] table" if where.strip("`") in ("", "$", "$.fault") else ""
        raise ConfigError(f"--faults {path}: {place}{what[:1].lower()}{what[1:]}{_choices(where)}{form}") from None
    for number, fault in enumerate(found.fault, 1):
        problem = _problem(fault)
        if problem:
            raise ConfigError(f"--faults {path}: fault {number} ({kind_of(fault)}): {problem}")
    for number, problem in _unreachable(found.fault):
        raise ConfigError(f"--faults {path}: fault {number} ({kind_of(found.fault[number - 1])}): {problem}")
    return FaultScript(tuple(found.fault), seed if found.seed is None else found.seed)


def check_faults(
    script: FaultScript, path: str, names: Sequence[str], rounds: int, coordinator: str | None, overlapped: bool
) -> FaultScript:
    """Check a script against a run, and give it the names of the run's processes.

    Raises ConfigError naming file, fault and remedy.
    """
    for number, fault in enumerate(script.faults, 1):
        problem = _unknown(fault, names) or _misplaced(fault, rounds, coordinator, overlapped)
        if problem:
            raise ConfigError(f"--faults {path}: fault {number} ({kind_of(fault)}): {problem}")
    return FaultScript(script.faults, script.seed, tuple(names))


def idle_faults(script: FaultScript, has_edge: Callable[[int, int], bool]) -> list[str]:
    """Faults whose edges do not exist in the run's graph, in plain words."""
    place = {name: peer for peer, name in enumerate(script.names)}
    idle = []
    for fault in script.faults:
        if isinstance(fault, Delay | Drop | Corrupt):
            used = has_edge(place[fault.edge[0]], place[fault.edge[1]])
        elif isinstance(fault, NetworkPartition):
            used = any(has_edge(a, b) for a, b in script.partitioned_edges(fault))
        else:
            used = True
        if not used:
            idle.append(words(fault))
    return idle


def _problem(fault: Fault) -> str:
    """Problem of a fault by itself; empty if none."""
    if isinstance(fault, Kill) and fault.restart is not None and fault.restart <= fault.round:
        return f"restart: {fault.restart} must be a later round than {fault.round}"
    if isinstance(fault, Pause) and fault.resume <= fault.round + 1:
        return f"resume: {fault.resume} must be at least two rounds after {fault.round}, for others to continue"
    if not isinstance(fault, Kill | Pause) and fault.rounds[0] > fault.rounds[1]:
        return f"rounds: {list(fault.rounds)} must be [first, last]"
    if isinstance(fault, NetworkPartition):
        members = [name for part in fault.parts for name in part]
        if len(fault.parts) < 2 or not all(fault.parts):
            return "parts: must be two or more lists of nodes"
        if len(set(members)) < len(members):
            return "parts: a node can be in one part only"
    if isinstance(fault, Delay | Drop | Corrupt) and fault.edge[0] == fault.edge[1]:
        return "edge: must be two different nodes"
    return attack_problem(fault.attack, fault.scale) if isinstance(fault, AttackFault) else ""


def attack_problem(name: str, scale: float | None) -> str:
    """Reason why an attack's name or scale is refused; empty if it is not."""
    if name not in ATTACKS:
        return f"attack: {name!r} is unknown; choose one of {', '.join(ATTACKS)}"
    if scale is None:
        return ""
    if "scale" not in ATTACKS[name].options:
        return f"scale: {scale}, but {name} has none; leave it out"
    return "" if math.isfinite(scale) and scale > 0 else f"scale: {scale} must be a number above 0"


def _unreachable(faults: Sequence[Fault]) -> list[tuple[int, str]]:
    """Kills and pauses of a peer that is away at that time, by number in the script."""
    ordered = sorted(
        ((fault.round, number, fault) for number, fault in enumerate(faults, 1) if isinstance(fault, Kill | Pause)),
        key=lambda item: item[:2],
    )
    back: dict[str, int | None] = {}
    found = []
    for round, number, fault in ordered:
        until = back.get(fault.peer, 0)
        if until is None:
            found.append((number, f"round: {fault.peer} has been killed for good before; give that kill a restart"))
        elif round < until:
            found.append((number, f"round: {fault.peer} is away until round {until}; choose that or a later one"))
        else:
            back[fault.peer] = fault.restart if isinstance(fault, Kill) else fault.resume
    return found


def _unknown(fault: Fault, names: Collection[str]) -> str:
    if isinstance(fault, NetworkPartition):
        fields = [("parts", name) for part in fault.parts for name in part]
    elif isinstance(fault, Delay | Drop | Corrupt):
        fields = [("edge", name) for name in fault.edge]
    else:
        fields = [("peer", fault.peer)]
    some = ", ".join(list(names)[:8]) + (", …" if len(names) > 8 else "")
    return next(
        (f"{field}: there is no node {name!r}; choose one of {some}" for field, name in fields if name not in names), ""
    )


def _misplaced(fault: Fault, rounds: int, coordinator: str | None, overlapped: bool) -> str:
    if isinstance(fault, Kill | Pause):
        back = ("restart", fault.restart) if isinstance(fault, Kill) else ("resume", fault.resume)
        for field, round in (("round", fault.round), back):
            if round is not None and round > rounds:
                return f"{field}: {round}, but the run has {rounds} rounds of training (--rounds)"
        if overlapped:
            return "needs --order atc: in the overlapped order messages may be in flight when it fires"
        if fault.peer == coordinator and (isinstance(fault, Pause) or fault.at in BEFORE_EXCHANGE or fault.restart):
            return 'a coordinator can only be killed, for good, at = "evaluate" or "checkpoint"'
        if coordinator is not None and isinstance(fault, Pause):
            return "peer: clients cannot be paused; kill one, with restart"
    elif fault.rounds[1] > rounds:
        return f"rounds: {fault.rounds[1]}, but the run has {rounds} rounds of training (--rounds)"
    if isinstance(fault, AttackFault) and fault.peer == coordinator:
        return "peer: a coordinator does not attack"
    return ""


def _place(where: str, plain: Any) -> str:
    """Path of msgspec, such as $.fault[2].round, in words."""
    if "[" not in where:
        return f"{where.removeprefix('$.')}: " if where.startswith("$.") else ""
    index, _, field = where.partition("[")[2].partition("]")
    faults = plain.get("fault") if isinstance(plain, dict) else None
    there = faults[int(index)] if isinstance(faults, list) and index.isdecimal() and int(index) < len(faults) else {}
    kind = there.get("kind") if isinstance(there, dict) else None
    return f"fault {int(index) + 1}{f' ({kind})' if kind else ''}: {field.lstrip('.') + ': ' if field else ''}"


def _choices(where: str) -> str:
    """Choices of a field that msgspec refuses without naming them."""
    field = where.strip("`").rpartition(".")[2]
    names = {"kind": [kind_of(kind) for kind in get_args(Fault)], "at": get_args(Point)}.get(field, [])
    return f"; choose one of {', '.join(names)}" if names else ""
