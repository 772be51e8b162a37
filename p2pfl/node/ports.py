"""Ports of the driver: clock, compute, transport, store and reporter.

The loop that drives a peer knows its surroundings by these interfaces only. A process has system time, a training
thread, sockets and files; the simulator (`p2pfl.sim`) has virtual time and computes in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from p2pfl.algorithms.base import Saved
from p2pfl.config import RunConfig
from p2pfl.model.sketches import Vector
from p2pfl.node import messages
from p2pfl.payload import Payload
from p2pfl.run.records import RoundRecord
from p2pfl.training import Evaluation, Trainer
from p2pfl.transport import Transport


class Clock(Protocol):
    """Steady time."""

    def now(self) -> float:
        """Seconds since some fixed moment."""


class Compute(Protocol):
    """Training, evaluation and saving during the exchange, one task at a time."""

    def submit(self, work: Callable[[], Any]) -> None:
        """Start a task; the previous one has finished."""

    def submit_aside(self, work: Callable[[], None]) -> Future[None]:
        """Start a task aside, which waits for the disk; the one before has finished."""

    def finish_aside(self) -> None:
        """Wait for the task aside, called in a task; its error is its future's."""

    def finished(self) -> list[Future[Any]]:
        """Tasks that have finished since the last call, without those aside."""

    def close(self) -> None:
        """Wait for the running task, and start no other."""


class Store(Protocol):
    """Records, checkpoints and the model of one process."""

    config: RunConfig
    sketches: bool
    """Whether sketches of the weights are recorded."""

    def saves(self, round: int) -> bool:
        """Whether a round's checkpoint is saved."""

    @property
    def elapsed_before(self) -> float:
        """Seconds of the run that this process resumes."""

    def evaluation(self, round: int) -> Evaluation | None:
        """Evaluation that is due after a round, if any."""

    def begin(self, round: int, trainer: Trainer) -> list[str]:
        """Prepare the records before a round is added; returns lines about damage."""

    def record(self, record: RoundRecord, sketch: Vector | None) -> None:
        """Add a round. Raises CheckpointError naming the file that cannot be written."""

    def keep_sent(self, exchange: int, sent: Mapping[int, Payload]) -> None:
        """Keep the payloads of an exchange before its round's last, for the checkpoint."""

    def save(
        self, round: int, trainer: Trainer, sent: Mapping[int, Payload], state: Saved
    ) -> Callable[[], None] | None:
        """Save the checkpoint of a training round, if one is due.

        It holds the payloads `sent` in the round's last exchange, those that were kept before, and the algorithm's
        state. Returns what is left to do until it outlasts a power cut; nothing of the next round may be sent before.
        """

    def save_model(self, round: int, trainer: Trainer) -> None:
        """Save the run's model, if this process owns it and the round is the last."""


class Reporter(Protocol):
    """Progress and warnings of one process, for its launcher and its log.

    Any thread may call it.
    """

    def send(self, message: messages.FromWorker) -> None:
        """Send a message to the launcher."""

    def info(self, text: str) -> None:
        """Add a line to the log."""

    def warn(self, text: str, matters: bool = True) -> None:
        """Add a warning to the log, and tell the launcher if it matters to the user."""


@dataclass(frozen=True)
class Ports:
    """The surroundings of one driver."""

    clock: Clock
    compute: Compute
    transport: Transport
    store: Store
    reporter: Reporter
