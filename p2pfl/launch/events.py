"""Vocabulary of the supervisor: events of workers, and actions that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2pfl.faults import Kill
from p2pfl.node import messages

# Events. `worker` is the worker's number.


@dataclass(frozen=True)
class Started:
    """A worker was started, for the first time or again."""

    worker: int


@dataclass(frozen=True)
class NotStarted:
    """A worker could not be started again, for lack of room."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its data and listens at `endpoint`.

    `steps`: optimizer steps of all rounds. `lost_weights`: it had done rounds and has no usable checkpoint of them.
    `consensus_rounds`: rounds of mixing only, which may depend on the sizes of the shards.
    """

    worker: int
    endpoint: str
    steps: int = 0
    vector_bytes: int = 0
    lost_weights: bool = False
    consensus_rounds: int = 0


@dataclass(frozen=True)
class RoundFinished:
    """A worker has recorded a round."""

    worker: int
    round: int


@dataclass(frozen=True)
class MessageReceived:
    """A worker has reported anything else, and so is alive."""

    worker: int


@dataclass(frozen=True)
class LastFilesReceived:
    """Some of the files that a worker has left behind have been collected."""

    worker: int


@dataclass(frozen=True)
class Finished:
    """A worker has finished its last round, and refused so many messages, by reason."""

    worker: int
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A worker has reported why it ends.

    `usage`: the user's input is to blame. `diverged`: its loss or weights are no longer finite.
    """

    worker: int
    reason: str
    usage: bool = False
    resumable: bool = True
    diverged: bool = False


@dataclass(frozen=True)
class Exited:
    """A worker has ended, with `code` where that is known, in words `how`.

    `kill`: the fault of the script by which it killed itself, if that was the last one carried out.
    """

    worker: int
    code: int | None
    how: str
    kill: Kill | None = None


@dataclass(frozen=True)
class Tick:
    """A batch of events is over: time to look at deadlines and at the workers left."""


@dataclass(frozen=True)
class Interrupted:
    """The user wants the run to stop; a second time, at once."""


Report = Ready | RoundFinished | MessageReceived | LastFilesReceived | Finished | Failed
Event = Started | NotStarted | Report | Exited | Tick | Interrupted


def event_of(worker: int, message: messages.FromWorker) -> Report:
    """The supervisor's event for a report."""
    if isinstance(message, messages.Ready):
        return Ready(
            worker, message.endpoint, message.steps, message.vector_bytes, message.lost, message.consensus_rounds
        )
    if isinstance(message, messages.RoundFinished):
        return RoundFinished(worker, message.record.round)
    if isinstance(message, messages.Done):
        return Finished(worker, message.refused)
    if isinstance(message, messages.Failed):
        return Failed(worker, message.reason, message.usage, message.resumable, message.diverged)
    if isinstance(message, messages.FilesCollected) and message.are_last:
        return LastFilesReceived(worker)
    return MessageReceived(worker)


# Actions


@dataclass(frozen=True)
class StartWorker:
    """Start a worker, and answer with `Started`; a restart may fail: `NotStarted`.

    `again`: a restart. `bind`: the endpoint where others look for it. `endpoints`: where its neighbors are, which is
    known once the run has begun. `returns_in`: the round in which a fault script has it take part again.
    """

    worker: int
    again: bool = False
    bind: str | None = None
    endpoints: dict[int, str] | None = None
    returns_in: int | None = None


@dataclass(frozen=True)
class SendEndpoints:
    """Send a worker the endpoints of its neighbors, upon which it begins."""

    worker: int
    endpoints: dict[int, str]


@dataclass(frozen=True)
class HoldModel:
    """Make a worker the one that evaluates and saves the run's model."""

    worker: int


@dataclass(frozen=True)
class Wake:
    """Wake a worker that a fault script has paused; no effect on one that is awake."""

    worker: int


@dataclass(frozen=True)
class Shutdown:
    """Ask all workers to stop: the run has ended, for whatever reason."""


@dataclass(frozen=True)
class KillAll:
    """Kill all workers that are still there."""


@dataclass(frozen=True)
class PutOffKill:
    """Give the workers that end as much time again: what they have left is coming in."""


@dataclass(frozen=True)
class ShowLine:
    """A line for the observers; `warns`: one that stands out."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class Progress:
    """Progress of a preparation, for the observers."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Expect:
    """Optimizer steps of one worker in the whole run, and its rounds of mixing only."""

    steps: int
    consensus_rounds: int


Action = StartWorker | SendEndpoints | HoldModel | Wake | Shutdown | KillAll | PutOffKill | ShowLine | Progress | Expect
