"""Pool of waiting processes, which have imported torch before a measurement."""

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
    """Place of one process in a group: its number, and the folder of the group."""

    me: int
    folder: str
    link: Connection

    def bind(self, transport: Literal["shm", "ipc", "tcp"]) -> str:
        """Address to bind a socket to; beside shared memory it is an ipc socket."""
        return "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{self.folder}/{self.me}"

    def meet(self, endpoint: str) -> list[str]:
        """Announce this process's endpoint; returns all endpoints once all are known."""
        self.link.send(("done", endpoint))
        endpoints: list[str] = self.link.recv()
        return endpoints


class Work(Protocol[T_co]):
    """Work of a group of processes. Each must call `meet` once."""

    def run(self, place: Place) -> T_co:
        """Part of one process."""


class Pool(Generic[T]):
    """Links to some waiting processes."""

    def __init__(self, links: Sequence[Connection]) -> None:
        self.links = links

    def do(self, work: Work[T]) -> list[T]:
        """Do the work; return the result of each process.

        Raises RuntimeError or TimeoutError if one fails.
        """
        with tempfile.TemporaryDirectory(prefix="p2pfl-") as folder:
            for me, link in enumerate(self.links):
                link.send((work, me, folder))
            endpoints = gather(self.links, SECONDS)
            for link in self.links:
                link.send(endpoints)
            return gather(self.links, SECONDS)


@contextlib.contextmanager
def pool(processes: int) -> Iterator[Pool[object]]:
    """Pool of processes that end with the context."""
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
    """Moment in one process: wall clock, and CPU seconds of all threads until then."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Mark:
        return cls(time.monotonic(), cpu_seconds())


@dataclass(frozen=True)
class Cost:
    """Seconds and CPU seconds of a round in one process."""

    seconds: float
    cpu: float


def mean_cost(marks: Sequence[Mark]) -> Cost:
    """Mean cost of the rounds between marks."""
    rounds = len(marks) - 1
    return Cost((marks[-1].wall - marks[0].wall) / rounds, (marks[-1].cpu - marks[0].cpu) / rounds)


def average(costs: Sequence[Cost]) -> Cost:
    """Mean cost over processes that worked together."""
    count = len(costs)
    return Cost(sum(cost.seconds for cost in costs) / count, sum(cost.cpu for cost in costs) / count)
