"""Messages between a launcher and its workers: MessagePack over a pipe.

The specification of a worker travels pickled, as the argument of its process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import msgspec

from p2pfl.config import RunConfig
from p2pfl.errors import ConfigError, DivergenceError, NeighborCode, NeighborError, P2PFLError
from p2pfl.run.data_record import DataRecord
from p2pfl.run.records import RoundRecord

_Message = TypeVar("_Message")


@dataclass(frozen=True)
class WorkerSpec:
    """Specification of one worker: everything that it is started with."""

    config: RunConfig  # resolved: threads are set
    run_dir: Path
    dataset: Path  # the decoded data set
    index: int
    run: str  # the run's id on the wire
    settings: str  # digest of the settings that checkpoints must agree with; that of the data set is added to it
    bind: str
    resume: bool = False
    link_delay: float = 0.0  # seconds that every message is held back: the slow link of benchmarks and tests
    endpoints: dict[int, str] | None = None  # known beforehand: the topology file has hosts and ports, or a restart
    returns_in: int | None = None  # the round in which a fault script has it take part again
    token: str | None = field(default=None, repr=False)  # the run's secret, where there are no keys
    temporary: Path | None = None  # the launcher's folder, which its workers remove if it cannot
    introduces: bool = False  # its data are its own, and the peers agree on their classes first
    new_endpoint: bool = (
        False  # it listens elsewhere at each start, which its neighbors are told: so it waits for theirs
    )
    restarted: bool = False  # the others are at work already; neighbors without an endpoint are gone
    newest_round: int = 0  # newest round that any process has saved, where this one may not see their files


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Report that the worker has loaded its data and listens at `endpoint`.

    `round` is the first that it will run, `steps` the optimizer steps of all rounds, `consensus_rounds` those of mixing
    only, which may depend on the sizes of the shards. `lost`: it had done rounds, has no
    weights of them, and waits for its neighbors'.
    """

    endpoint: str
    device: str
    round: int
    steps: int
    vector_bytes: int
    lost: bool = False
    consensus_rounds: int = 0


class Stepped(msgspec.Struct, tag=True, frozen=True):
    """Number of optimizer steps done so far."""

    steps: int


class Evaluating(msgspec.Struct, tag=True, frozen=True):
    """Progress of an evaluation: another batch is scored."""


class RoundFinished(msgspec.Struct, tag=True, frozen=True):
    """Recorded round; the sketch is little-endian float32."""

    record: RoundRecord
    sketch: bytes


class Warned(msgspec.Struct, tag=True, frozen=True):
    """Warning for the user."""

    text: str


class FilesCollected(msgspec.Struct, tag=True, frozen=True):
    """Report of a launcher that it has collected files of a worker.

    `are_last`: the worker has ended, and writes no more.
    """

    are_last: bool


class Prepared(msgspec.Struct, tag=True, frozen=True):
    """Progress of decoding the data set.

    The last one has the `path`, notes on data and model, and the record of the data for the run directory.
    """

    what: str
    done: int
    total: int
    path: str | None = None
    notes: tuple[str, ...] = ()
    record: DataRecord | None = None


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Report of an error that ends the worker.

    `usage`: the user's input is to blame. `resumable`: the run may be resumed. `code` says whether neighbors are the
    cause, and in which way; `peers` are their numbers, as far as known. `diverged`: its loss or weights are no longer
    finite.
    """

    reason: str
    usage: bool = False
    resumable: bool = True
    code: NeighborCode | None = None
    peers: tuple[int, ...] = ()
    diverged: bool = False


def failed(error: P2PFLError) -> Failed:
    """Report of the error that ends a worker."""
    code, peers = (error.code, error.peers) if isinstance(error, NeighborError) else (None, ())
    diverged = isinstance(error, DivergenceError)
    return Failed(str(error), isinstance(error, ConfigError), error.resumable, code, peers, diverged)


class Done(msgspec.Struct, tag=True, frozen=True):
    """Report that the process has finished its last round and said goodbye."""

    refused: dict[str, int] = {}


FromWorker = Ready | Stepped | Evaluating | RoundFinished | Warned | FilesCollected | Prepared | Failed | Done
Report = Callable[[FromWorker], None]


class Batch(msgspec.Struct, tag=True, frozen=True):
    """Several reports of one worker, in the order in which they were made."""

    reports: list[FromWorker]


def is_progress(report: FromWorker) -> bool:
    """Whether a report only tells how far a worker is, and may wait for the next ones."""
    return isinstance(report, Stepped | Evaluating | RoundFinished)


def without_outdated(reports: Sequence[FromWorker]) -> list[FromWorker]:
    """Reports without those of steps and evaluations that a later one makes needless."""
    kept: list[FromWorker] = []
    is_known = False  # a later report of progress is kept
    for report in reversed(reports):
        if not (is_known and isinstance(report, Stepped | Evaluating)):
            kept.append(report)
            is_known = is_known or is_progress(report)
    return kept[::-1]


class Endpoints(msgspec.Struct, tag=True, frozen=True):
    """Endpoints of a worker's neighbors, by peer number.

    The first ones are those of all; later ones are those of neighbors that were started again elsewhere.
    """

    endpoints: dict[int, str]


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Order to stop now; the records so far stay."""


class HoldModel(msgspec.Struct, tag=True, frozen=True):
    """Order to evaluate and save the run's model: the peer that was to do so is lost."""


ToWorker = Endpoints | Stop | HoldModel

encode = msgspec.msgpack.Encoder().encode
decode_from_worker: Callable[[bytes], FromWorker] = msgspec.msgpack.Decoder(FromWorker).decode
_decode_batch: Callable[[bytes], FromWorker | Batch] = msgspec.msgpack.Decoder(FromWorker | Batch).decode
decode_to_worker: Callable[[bytes], ToWorker] = msgspec.msgpack.Decoder(ToWorker).decode
_MAX_BYTES = 1 << 28  # of a message


def receive_report(link: Connection) -> FromWorker:
    """Next report of a worker. Raises EOFError at the end of a readable link."""
    return _receive(link, decode_from_worker)


def receive_reports(link: Connection) -> Sequence[FromWorker]:
    """Next reports of a worker, at least one.

    Raises EOFError at the end of a readable link.
    """
    received = _receive(link, _decode_batch)
    return received.reports if isinstance(received, Batch) else [received]


def receive_order(link: Connection) -> ToWorker:
    """Next order of the launcher. Raises EOFError at the end of a readable link."""
    return _receive(link, decode_to_worker)


def _receive(link: Connection, decode: Callable[[bytes], _Message]) -> _Message:
    try:
        return decode(link.recv_bytes(_MAX_BYTES))
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        # Where a read was broken off amid a message, all that follows makes no sense.
        raise EOFError(str(error)) from None
