"""Kinds of faults, and scripts of them: kills, pauses, partitions, links, attacks."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from p2pfl.seeding import derive

Point = Literal["start", "train", "exchange", "evaluate", "checkpoint"]
POINTS: Mapping[Point, str] = {
    "start": "at the beginning of the round",
    "train": "amid its training steps",
    "exchange": "trained, nothing sent yet",
    "evaluate": "mixed, not evaluated yet",
    "checkpoint": "recorded, not saved yet",
}
"""Points of a round at which a process can be killed or stopped."""

_Round = Annotated[int, msgspec.Meta(ge=1)]
_Rounds = tuple[_Round, _Round]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=60)]
BEFORE_EXCHANGE = ("start", "train", "exchange")


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="kill", forbid_unknown_fields=True):
    """Kill of a peer (SIGKILL), which takes part again in round `restart`, if given."""

    peer: str
    """Label of the process."""
    round: _Round
    """Round in which it is killed."""
    at: Point = "train"
    """Point of the round."""
    restart: _Round | None = None
    """Round in which it takes part again; without it, it stays away."""


class Pause(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pause", forbid_unknown_fields=True):
    """Pause of a peer (SIGSTOP), which takes part again in round `resume`.

    It is woken when a neighbor has completed the round before.
    """

    peer: str
    """Label of the process."""
    round: _Round
    """Round in which it is stopped."""
    resume: _Round
    """Round in which it takes part again, at least two after `round`."""
    at: Point = "train"
    """Point of the round."""


class NetworkPartition(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="partition", forbid_unknown_fields=True
):
    """Partition of the network: no messages between different `parts` in these rounds.

    The first and the last round are included.
    """

    rounds: _Rounds
    """First and last round."""
    parts: list[list[str]]
    """Two or more lists of labels; nodes in none of them keep all their edges."""


class Delay(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="delay", forbid_unknown_fields=True):
    """Delay of every message on an edge, in seconds."""

    edge: tuple[str, str]
    """Labels of the edge's ends; messages in both directions are delayed."""
    rounds: _Rounds
    """First and last round."""
    seconds: _Seconds
    """Seconds by which each message is late."""


class Drop(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="drop", forbid_unknown_fields=True):
    """Loss of messages on an edge, at random."""

    edge: tuple[str, str]
    """Labels of the edge's ends; messages in both directions may be lost."""
    rounds: _Rounds
    """First and last round."""
    probability: _Share
    """Share of the messages that are lost."""


class Corrupt(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="corrupt", forbid_unknown_fields=True):
    """Damage of messages on an edge, at random, so that they are refused."""

    edge: tuple[str, str]
    """Labels of the edge's ends; messages in both directions may be damaged."""
    rounds: _Rounds
    """First and last round."""
    probability: _Share
    """Share of the messages that are damaged."""


class AttackFault(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="attack", forbid_unknown_fields=True
):
    """Attack by a peer; see `p2pfl.algorithms.attacks`."""

    peer: str
    """Label of the attacker."""
    rounds: _Rounds
    """First and last round."""
    attack: str
    """Name of the attack."""
    scale: float | None = None
    """Strength of the attack, above 0, for attacks that have one; each has its own default."""


Fault = Kill | Pause | NetworkPartition | Delay | Drop | Corrupt | AttackFault


@dataclass(frozen=True)
class FaultScript:
    """Faults of a file, in its order; `names` are the processes of the run, by number."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0
    names: tuple[str, ...] = ()

    def of(self, peer: int) -> list[tuple[int, Kill | Pause]]:
        """Kills and pauses of one process, with their numbers in the script."""
        own = self.names[peer]
        return [(n, f) for n, f in enumerate(self.faults) if isinstance(f, Kill | Pause) and f.peer == own]

    def attacks_of(self, peer: int) -> list[AttackFault]:
        """Attacks of one process."""
        return [f for f in self.faults if isinstance(f, AttackFault) and f.peer == self.names[peer]]

    @property
    def attackers(self) -> list[str]:
        """Names of all attackers."""
        return sorted({fault.peer for fault in self.faults if isinstance(fault, AttackFault)})

    def victims(self) -> frozenset[int]:
        """Processes that are killed or paused in some round."""
        return frozenset(peer for peer in range(len(self.names)) if self.of(peer))

    def returns_of(self, peer: int) -> frozenset[int]:
        """Rounds in which a process takes part again."""
        rounds = (f.restart if isinstance(f, Kill) else f.resume for _, f in self.of(peer))
        return frozenset(round for round in rounds if round is not None)

    def is_absent(self, peer: int, round: int) -> bool:
        """Return whether a process is away in a round, killed or paused in an earlier one."""
        for _, fault in self.of(peer):
            back = fault.restart if isinstance(fault, Kill) else fault.resume
            if fault.round < round and (back is None or round < back):
                return True
        return False

    def away_until(self, peer: int, round: int, done: Collection[int], never: int) -> int:
        """Round in which a process is back that could be in `round`; 0: it is there.

        `done`: numbers of the faults that were carried out on it. `never`: the answer where it does not come back.
        """
        for number, fault in self.of(peer):
            is_kill = isinstance(fault, Kill)
            first = fault.round if is_kill else fault.round + 1  # the round of a kill is not done again
            back = fault.restart if isinstance(fault, Kill) else fault.resume
            last = never if back is None else back
            if number in done and first <= round < last:
                return last
        return 0

    def may_lose(self, least: int) -> bool:
        """Whether at least so many are left without all that are killed for good."""
        gone = sum(isinstance(fault, Kill) and fault.restart is None for fault in self.faults)
        return len(self.names) - gone >= least

    def barrier_rounds(self, peers: Iterable[int]) -> frozenset[int]:
        """Rounds that these peers complete together, before one is killed or paused."""
        found = (fault for peer in peers for _, fault in self.of(peer))
        return frozenset(fault.round - (fault.at in BEFORE_EXCHANGE) for fault in found)

    def cuts(self, round: int) -> frozenset[tuple[int, int]]:
        """Pairs (a, b), a < b, without messages between them in a round."""
        pairs: set[tuple[int, int]] = set()
        for fault in self.faults:
            if isinstance(fault, NetworkPartition) and fault.rounds[0] <= round <= fault.rounds[1]:
                pairs |= self.partitioned_edges(fault)
        return frozenset(pairs)

    def partitioned_edges(self, fault: NetworkPartition) -> set[tuple[int, int]]:
        """Pairs (a, b), a < b, in different parts of one partition."""
        part = {name: number for number, names in enumerate(fault.parts) for name in names}
        known = [peer for peer, name in enumerate(self.names) if name in part]
        return {(a, b) for a in known for b in known if a < b and part[self.names[a]] != part[self.names[b]]}

    def on_edge(self, sender: int, receiver: int) -> list[Delay | Drop | Corrupt]:
        """Faults of messages between two processes."""
        ends = {self.names[sender], self.names[receiver]}
        return [f for f in self.faults if isinstance(f, Delay | Drop | Corrupt) and set(f.edge) == ends]

    def draw(self, sender: int, receiver: int, round: int, number: int) -> random.Random:
        """Random generator for one message: the `number`th of a round to a receiver."""
        return random.Random(derive(self.seed, "fault", sender * len(self.names) + receiver, round * 2**20 + number))

    def text(self) -> str:
        """Content as one line, the same for the same faults, to compare runs by."""
        return json.dumps([self.seed, msgspec.to_builtins(self.faults)], sort_keys=True)

    def described(self) -> list[str]:
        """Each fault in plain words."""
        return [words(fault) for fault in self.faults]


def kind_of(fault: Fault | type) -> str:
    """Name of a fault, or of a class of faults, in files."""
    kind = fault if isinstance(fault, type) else type(fault)
    return str(kind.__struct_config__.tag)  # type: ignore[attr-defined]


def words(fault: Fault) -> str:
    """A fault in plain words."""
    if isinstance(fault, Kill):
        back = "" if fault.restart is None else f", back in round {fault.restart}"
        return f"{fault.peer} killed in round {fault.round} ({fault.at}){back}"
    if isinstance(fault, Pause):
        return f"{fault.peer} paused in round {fault.round} ({fault.at}), back in round {fault.resume}"
    span = f"round {fault.rounds[0]}" + (f"–{fault.rounds[1]}" if fault.rounds[1] > fault.rounds[0] else "")
    if isinstance(fault, NetworkPartition):
        return f"{span}: parts " + " | ".join(", ".join(part) for part in fault.parts)
    if isinstance(fault, AttackFault):
        return f"{span}: {fault.peer} attacks by {fault.attack}"
    edge = "–".join(fault.edge)
    if isinstance(fault, Delay):
        return f"{span}: messages between {edge} delayed by {fault.seconds:g} s"
    return f"{span}: {100 * fault.probability:g} % of messages between {edge} {_DONE[type(fault)]}"


_DONE: dict[type, str] = {Drop: "lost", Corrupt: "damaged"}
