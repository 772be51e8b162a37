"""Processes that wait for work, so that a measurement does not begin with seconds of importing torch."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, Literal, Protocol, TypeVar

import torch

from benchmarks.common import children, cpu_seconds, gather

SECONDS = 300.0  # for one measurement

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Place:
    """Where one of several processes that work together is: its number, and the folder that they share."""

    me: int
    folder: str
    link: Connection

    def bind(self, transport: Literal["ipc", "tcp"]) -> str:
        """What to bind a socket to."""
        return f"ipc://{self.folder}/{self.me}" if transport == "ipc" else "tcp://127.0.0.1:*"

    def meet(self, endpoint: str) -> list[str]:
        """Say where one can be reached; returns where all can, once the last of them has said so."""
        self.link.send(("done", endpoint))
        endpoints: list[str] = self.link.recv()
        return endpoints


class Work(Protocol[T_co]):
    """What processes are to do together. Each must call `meet` once."""

    def run(self, place: Place) -> T_co:
        """One process's part."""


class Pool(Generic[T]):
    """The links to some waiting processes."""

    def __init__(self, links: Sequence[Connection]) -> None:
        self.links = links

    def do(self, work: Work[T]) -> list[T]:
        """What each process returns. Raises RuntimeError, TimeoutError where one fails."""
        with tempfile.TemporaryDirectory(prefix="p2pfl-") as folder:
            for me, link in enumerate(self.links):
                link.send((work, me, folder))
            endpoints = gather(self.links, SECONDS)
            for link in self.links:
                link.send(endpoints)
            return gather(self.links, SECONDS)


@contextlib.contextmanager
def pool(processes: int) -> Iterator[Pool[object]]:
    """Processes that live until the end of it."""
    with children(_serve, [()] * processes) as links:
        yield Pool(links)


def _serve(link: Connection) -> None:
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError):
        while True:
            work, me, folder = link.recv()
            link.send(("done", work.run(Place(me, folder, link))))


@dataclass(frozen=True)
class Mark:
    """A moment in one process: wall clock, and CPU seconds of all its threads until then."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Mark:
        return cls(time.monotonic(), cpu_seconds())


@dataclass(frozen=True)
class Cost:
    """Seconds and CPU seconds that a round takes one process."""

    seconds: float
    cpu: float


def mean_cost(marks: Sequence[Mark]) -> Cost:
    """Of the rounds between marks."""
    rounds = len(marks) - 1
    return Cost((marks[-1].wall - marks[0].wall) / rounds, (marks[-1].cpu - marks[0].cpu) / rounds)


def average(costs: Sequence[Cost]) -> Cost:
    """Over the processes that worked together."""
    count = len(costs)
    return Cost(sum(cost.seconds for cost in costs) / count, sum(cost.cpu for cost in costs) / count)
