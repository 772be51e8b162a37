"""Fault scripts: what is to go wrong in a run, in which round and where, so that it can be played again.

A script is a TOML file of `[[fault]]` tables. Every fault is carried out by the process that it happens to, at a named
point of a round, because a kill by the clock never hits the same instant twice. What is random in it is drawn from its
`seed` and from where the run is, never from time.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from p2pfl.errors import ConfigError
from p2pfl.seeding import derive

Point = Literal["start", "train", "exchange", "evaluate", "checkpoint"]
"""Where in a round: as it begins; amid its steps; trained, nothing sent; mixed, not evaluated; recorded, not saved."""

_Round = Annotated[int, msgspec.Meta(ge=1)]
_Rounds = tuple[_Round, _Round]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=60)]
_BEFORE_EXCHANGE = ("start", "train", "exchange")


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="kill", forbid_unknown_fields=True):
    """SIGKILL; it takes part again in round `restart`, if given."""

    peer: str
    round: _Round
    at: Point = "train"
    restart: _Round | None = None


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pause", forbid_unknown_fields=True):
    """SIGSTOP until a neighbor has done the round before `resume`, in which it takes part again."""

    peer: str
    round: _Round
    resume: _Round
    at: Point = "train"


class Partition(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="partition", forbid_unknown_fields=True
):
    """Edges between different `parts` carry nothing in these rounds, both ends included."""

    rounds: _Rounds
    parts: list[list[str]]


class Delay(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="delay", forbid_unknown_fields=True):
    """Every message on an edge is under way for so many seconds."""

    edge: tuple[str, str]
    rounds: _Rounds
    seconds: _Seconds


class Drop(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="drop", forbid_unknown_fields=True):
    """Some messages on an edge get lost."""

    edge: tuple[str, str]
    rounds: _Rounds
    probability: _Share


class Corrupt(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="corrupt", forbid_unknown_fields=True):
    """Some messages on an edge arrive damaged, so that they are refused."""

    edge: tuple[str, str]
    rounds: _Rounds
    probability: _Share


class AttackFault(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="attack", forbid_unknown_fields=True
):
    """A peer sends, or learns, something else than it should; see `p2pfl.gossip.attacks`."""

    peer: str
    rounds: _Rounds
    attack: str
    scale: float | None = None


Fault = Kill | Pause | Partition | Delay | Drop | Corrupt | AttackFault


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fault: list[Fault]
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None


@dataclass(frozen=True)
class FaultScript:
    """The faults of a file, in its order; `names` are the processes of the run that plays them, by number."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0
    names: tuple[str, ...] = ()

    def of(self, peer: int) -> list[tuple[int, Kill | Pause]]:
        """The kills and pauses of one process, with their numbers in the script."""
        own = self.names[peer]
        return [(n, f) for n, f in enumerate(self.faults) if isinstance(f, Kill | Pause) and f.peer == own]

    def attacks_of(self, peer: int) -> list[AttackFault]:
        """The attacks of one process."""
        return [f for f in self.faults if isinstance(f, AttackFault) and f.peer == self.names[peer]]

    @property
    def attackers(self) -> list[str]:
        """The names of all that attack."""
        return sorted({fault.peer for fault in self.faults if isinstance(fault, AttackFault)})

    def victims(self) -> frozenset[int]:
        """All that are killed or paused at some time."""
        return frozenset(peer for peer in range(len(self.names)) if self.of(peer))

    def returns_of(self, peer: int) -> frozenset[int]:
        """The rounds in which a process takes part again."""
        rounds = (f.restart if isinstance(f, Kill) else f.resume for _, f in self.of(peer))
        return frozenset(round for round in rounds if round is not None)

    def away(self, peer: int, round: int) -> bool:
        """Whether a process is known to be away in a round after the one in which it was killed or paused."""
        for _, fault in self.of(peer):
            back = fault.restart if isinstance(fault, Kill) else fault.resume
            if fault.round < round and (back is None or round < back):
                return True
        return False

    def settles(self, peers: Iterable[int]) -> frozenset[int]:
        """Rounds after which it must be known who has what, since one of these is about to be killed or paused."""
        found = (fault for peer in peers for _, fault in self.of(peer))
        return frozenset(fault.round - (fault.at in _BEFORE_EXCHANGE) for fault in found)

    def cuts(self, round: int) -> frozenset[tuple[int, int]]:
        """Pairs (a, b) with a < b between which nothing travels in a round."""
        pairs: set[tuple[int, int]] = set()
        for fault in self.faults:
            if isinstance(fault, Partition) and fault.rounds[0] <= round <= fault.rounds[1]:
                part = {name: number for number, names in enumerate(fault.parts) for name in names}
                known = [peer for peer, name in enumerate(self.names) if name in part]
                pairs |= {(a, b) for a in known for b in known if a < b and part[self.names[a]] != part[self.names[b]]}
        return frozenset(pairs)

    def on_edge(self, sender: int, receiver: int) -> list[Delay | Drop | Corrupt]:
        """What happens to messages between two processes."""
        ends = {self.names[sender], self.names[receiver]}
        return [f for f in self.faults if isinstance(f, Delay | Drop | Corrupt) and set(f.edge) == ends]

    def draw(self, sender: int, receiver: int, round: int, number: int) -> random.Random:
        """The generator for what happens to one message: the `number`th from a sender to a receiver in a round."""
        return random.Random(derive(self.seed, "fault", sender * len(self.names) + receiver, round * 2**20 + number))

    def text(self) -> str:
        """Its content as one line, the same for the same faults: a part of what a run is."""
        return json.dumps([self.seed, msgspec.to_builtins(self.faults)], sort_keys=True)

    def described(self) -> list[str]:
        """Each fault in plain words."""
        return [_words(fault) for fault in self.faults]


def load_faults(path: str | Path, seed: int) -> FaultScript:
    """Read a script; `seed` is the run's, for a script without one. Raises ConfigError naming file, fault and field."""
    try:
        plain = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--faults {path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--faults {path}: not TOML ({error})") from None
    except RecursionError:
        raise ConfigError(f"--faults {path}: not TOML (too deeply nested)") from None
    try:
        found = msgspec.convert(plain, _File)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        what = what.replace("`", "'")
        place = _place(where.strip("`"), plain)
        raise ConfigError(f"--faults {path}: {place}{what[:1].lower()}{what[1:]}{_choices(where)}") from None
    for number, fault in enumerate(found.fault, 1):
        problem = _problem(fault)
        if problem:
            raise ConfigError(f"--faults {path}: fault {number} ({_kind(fault)}): {problem}")
    for number, problem in _unreachable(found.fault):
        raise ConfigError(f"--faults {path}: fault {number} ({_kind(found.fault[number - 1])}): {problem}")
    return FaultScript(tuple(found.fault), seed if found.seed is None else found.seed)


def check_faults(
    script: FaultScript, path: str, names: Sequence[str], rounds: int, coordinator: str | None, overlapped: bool
) -> FaultScript:
    """The script for a run with these processes, in their order. Raises ConfigError naming file, fault and remedy."""
    for number, fault in enumerate(script.faults, 1):
        problem = _unknown(fault, names) or _misplaced(fault, rounds, coordinator, overlapped)
        if problem:
            raise ConfigError(f"--faults {path}: fault {number} ({_kind(fault)}): {problem}")
    return FaultScript(script.faults, script.seed, tuple(names))


def idle_faults(script: FaultScript, has_edge: Callable[[int, int], bool]) -> list[str]:
    """Faults that change nothing in a run, in plain words: their edges do not exist in its graph."""
    place = {name: peer for peer, name in enumerate(script.names)}
    idle = []
    for fault in script.faults:
        if isinstance(fault, Delay | Drop | Corrupt):
            used = has_edge(place[fault.edge[0]], place[fault.edge[1]])
        elif isinstance(fault, Partition):
            used = any(has_edge(a, b) for a, b in script.cuts(fault.rounds[0]))
        else:
            used = True
        if not used:
            idle.append(_words(fault))
    return idle


def _problem(fault: Fault) -> str:
    """What is wrong with a fault by itself."""
    if isinstance(fault, Kill) and fault.restart is not None and fault.restart <= fault.round:
        return f"restart: {fault.restart} must be a later round than {fault.round}"
    if isinstance(fault, Pause) and fault.resume <= fault.round + 1:
        return f"resume: {fault.resume} must be at least two rounds after {fault.round}, for others to go on without it"
    if not isinstance(fault, Kill | Pause) and fault.rounds[0] > fault.rounds[1]:
        return f"rounds: {list(fault.rounds)} must be [first, last]"
    if isinstance(fault, Partition):
        members = [name for part in fault.parts for name in part]
        if len(fault.parts) < 2 or not all(fault.parts):
            return "parts: must be two or more lists of nodes"
        if len(set(members)) < len(members):
            return "parts: a node can be in one part only"
    if isinstance(fault, Delay | Drop | Corrupt) and fault.edge[0] == fault.edge[1]:
        return "edge: must be two different nodes"
    return ""


def _unreachable(faults: Sequence[Fault]) -> list[tuple[int, str]]:
    """Kills and pauses that could never fire, since their peer is away by an earlier one; by number in the script."""
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
    if isinstance(fault, Partition):
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
            return "needs --order atc: in the overlapped order nobody knows who has what when it fires"
        if fault.peer == coordinator and (isinstance(fault, Pause) or fault.at in _BEFORE_EXCHANGE or fault.restart):
            return 'a coordinator can only be killed, for good, at = "evaluate" or "checkpoint"'
        if coordinator is not None and isinstance(fault, Pause):
            return "peer: clients cannot be paused; kill one, with restart"
    elif fault.rounds[1] > rounds:
        return f"rounds: {fault.rounds[1]}, but the run has {rounds} rounds of training (--rounds)"
    if isinstance(fault, AttackFault) and fault.peer == coordinator:
        return "peer: a coordinator does not attack"
    return ""


def _place(where: str, plain: Any) -> str:
    """msgspec's path, such as $.fault[2].round, in words."""
    if "[" not in where:
        return f"{where.removeprefix('$.')}: " if where.startswith("$.") else ""
    index, _, field = where.partition("[")[2].partition("]")
    faults = plain.get("fault") if isinstance(plain, dict) else None
    there = faults[int(index)] if isinstance(faults, list) and index.isdecimal() and int(index) < len(faults) else {}
    kind = there.get("kind") if isinstance(there, dict) else None
    return f"fault {int(index) + 1}{f' ({kind})' if kind else ''}: {field.lstrip('.') + ': ' if field else ''}"


def _choices(where: str) -> str:
    """What there is to choose from, where msgspec only says that something else was said."""
    field = where.strip("`").rpartition(".")[2]
    names = {"kind": [_kind_of(kind) for kind in get_args(Fault)], "at": get_args(Point)}.get(field, [])
    return f"; choose one of {', '.join(names)}" if names else ""


def _kind_of(kind: type) -> str:
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]


def _kind(fault: Fault) -> str:
    return _kind_of(type(fault))


def _words(fault: Fault) -> str:
    if isinstance(fault, Kill):
        back = "" if fault.restart is None else f", back in round {fault.restart}"
        return f"{fault.peer} killed in round {fault.round} ({fault.at}){back}"
    if isinstance(fault, Pause):
        return f"{fault.peer} frozen in round {fault.round} ({fault.at}), back in round {fault.resume}"
    span = f"round {fault.rounds[0]}" + (f"–{fault.rounds[1]}" if fault.rounds[1] > fault.rounds[0] else "")
    if isinstance(fault, Partition):
        return f"{span}: parts " + " | ".join(", ".join(part) for part in fault.parts)
    if isinstance(fault, AttackFault):
        return f"{span}: {fault.peer} attacks by {fault.attack}"
    edge = "–".join(fault.edge)
    if isinstance(fault, Delay):
        return f"{span}: messages between {edge} delayed by {fault.seconds:g} s"
    return f"{span}: {100 * fault.probability:g} % of messages between {edge} {_DONE[type(fault)]}"


_DONE: dict[type, str] = {Drop: "lost", Corrupt: "damaged"}
