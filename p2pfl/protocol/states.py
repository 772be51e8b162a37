"""Tables of states and transitions, by which every transition is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar


class Stage(StrEnum):
    """Stage of a peer or a coordinator."""

    NEW = "new"
    GREETING = "greeting"
    WORKING = "working"
    RECORDING = "recording"
    ENDED = "ended"


class ClientStage(StrEnum):
    """Stage of a client."""

    NEW = "new"
    GREETING = "greeting"
    IDLE = "idle"
    TRAINING = "training"
    OFFERING = "offering"
    RECORDING = "recording"
    ENDED = "ended"


class EdgeState(StrEnum):
    """State of an edge, as one of its ends sees it."""

    OFFERED = "offered"
    UP = "up"
    DOWN = "down"
    FINISHED = "finished"


class Progress(StrEnum):
    """Progress of a selected client in a round, as the coordinator sees it."""

    WAITING = "waiting"
    SENT = "sent"
    TRAINING = "training"
    OFFERING = "offering"
    GRANTED = "granted"
    FOLDED = "folded"
    MISSING = "missing"


S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True)
class Transitions(Generic[S]):
    """Transitions of one kind of state: successors, and what leads to them."""

    title: str
    initial: tuple[S, ...]
    table: Mapping[S, Mapping[S, str]]

    def check(self, old: S, new: S) -> S:
        """Return the new state. Raises RuntimeError: an illegal one is our error."""
        if new not in self.table[old]:
            raise RuntimeError(f"{self.title}: no transition from {old} to {new}")
        return new

    def mermaid(self) -> str:
        """Text of a state diagram of the table, in Mermaid's language."""
        lines = ["stateDiagram-v2", *(f"    [*] --> {state}" for state in self.initial)]
        for old, successors in self.table.items():
            lines += [f"    {old} --> {new}: {why}" for new, why in successors.items()]
            if not successors:
                lines.append(f"    {old} --> [*]")
        return "\n".join(lines) + "\n"


PEER = Transitions(
    "peer or coordinator",
    (Stage.NEW,),
    {
        Stage.NEW: {Stage.GREETING: "links stand"},
        Stage.GREETING: {
            Stage.WORKING: "all expected neighbors have greeted",
            Stage.ENDED: "failure: no greeting in time, or other settings",
        },
        Stage.WORKING: {
            Stage.RECORDING: "average complete",
            Stage.ENDED: "failure: too many neighbors missing",
        },
        Stage.RECORDING: {
            Stage.WORKING: "round recorded",
            Stage.ENDED: "last round recorded, or failure",
        },
        Stage.ENDED: {},
    },
)

CLIENT = Transitions(
    "client",
    (ClientStage.NEW,),
    {
        ClientStage.NEW: {ClientStage.GREETING: "link stands"},
        ClientStage.GREETING: {
            ClientStage.IDLE: "coordinator has greeted",
            ClientStage.ENDED: "goodbye, or failure",
        },
        ClientStage.IDLE: {
            ClientStage.TRAINING: "global model complete",
            ClientStage.ENDED: "goodbye, or failure",
        },
        ClientStage.TRAINING: {
            ClientStage.OFFERING: "trained",
            ClientStage.ENDED: "goodbye, or failure",
        },
        ClientStage.OFFERING: {
            ClientStage.RECORDING: "update acknowledged",
            ClientStage.ENDED: "goodbye, or failure",
        },
        ClientStage.RECORDING: {
            ClientStage.IDLE: "round recorded",
            ClientStage.ENDED: "failure",
        },
        ClientStage.ENDED: {},
    },
)

EDGE = Transitions(
    "edge",
    (EdgeState.OFFERED, EdgeState.DOWN),
    {
        EdgeState.OFFERED: {
            EdgeState.UP: "hello of this epoch",
            EdgeState.OFFERED: "new epoch",
            EdgeState.DOWN: "neighbor lost or silent",
            EdgeState.FINISHED: "goodbye",
        },
        EdgeState.UP: {
            EdgeState.UP: "hello of a newer epoch",
            EdgeState.OFFERED: "neighbor restarted or took the edge down",
            EdgeState.DOWN: "neighbor lost or silent",
            EdgeState.FINISHED: "goodbye",
        },
        EdgeState.DOWN: {
            EdgeState.OFFERED: "connection again, or return expected",
            EdgeState.FINISHED: "goodbye",
        },
        EdgeState.FINISHED: {
            EdgeState.OFFERED: "hello of a newer epoch",
            EdgeState.FINISHED: "goodbye again",
        },
    },
)

PROGRESS = Transitions(
    "client in a round",
    (Progress.WAITING,),
    {
        Progress.WAITING: {
            Progress.SENT: "ready for a model",
            Progress.MISSING: "lost, or deadline",
        },
        Progress.SENT: {
            Progress.SENT: "model sent again",
            Progress.TRAINING: "model acknowledged",
            Progress.OFFERING: "update offered",
            Progress.MISSING: "lost, or deadline",
        },
        Progress.TRAINING: {
            Progress.SENT: "restarted without the model",
            Progress.OFFERING: "update offered",
            Progress.MISSING: "lost, or deadline",
        },
        Progress.OFFERING: {
            Progress.GRANTED: "credit granted",
            Progress.MISSING: "lost",
        },
        Progress.GRANTED: {
            Progress.FOLDED: "update complete and next in order",
            Progress.MISSING: "lost, stalled, or not finite",
        },
        Progress.FOLDED: {},
        Progress.MISSING: {},
    },
)
