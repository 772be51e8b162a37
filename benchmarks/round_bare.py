"""The traffic of a round's full mesh and nothing else: bare sockets, raw chunks of 1 MiB, averaging in place."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.common import children, cpu_seconds, gather

SECONDS = 120.0  # that one answer may take


@dataclass(frozen=True)
class Bare:
    """Processes of which each has one vector and averages it with those of all others."""

    links: Sequence[Connection]

    def wait(self) -> None:
        """Until all have imported what they need; once, before the first measurement."""
        gather(self.links, SECONDS)

    def cpu(self, peers: int, size: int, rounds: int) -> float:
        """CPU seconds a round a process, where so many of them swap vectors of `size` float32 numbers."""
        links = self.links[:peers]
        with tempfile.TemporaryDirectory(prefix="p2pfl-") as folder:
            for link in links:
                link.send((folder, peers, size, rounds))
            gather(links, SECONDS)  # all are bound
            for link in links:
                link.send("go")
            used = gather(links, SECONDS)
            for link in links:
                link.send("end")
            gather(links, SECONDS)
        return statistics.fmean(used)


@contextlib.contextmanager
def bare(most: int) -> Iterator[Bare]:
    """The processes for meshes of up to so many."""
    with children(_serve, [(me,) for me in range(most)]) as links:
        yield Bare(links)


def _serve(link: Connection, me: int) -> None:
    import torch

    torch.set_num_threads(1)
    link.send(("done", None))
    with contextlib.suppress(EOFError):
        while True:
            _mix(link, me, *link.recv())


def _mix(link: Connection, me: int, folder: str, peers: int, size: int, rounds: int) -> None:
    import torch

    from benchmarks.exchange_bare import Mixer, Sockets

    with Sockets(f"ipc://{folder}/{me}", me) as sockets:
        link.send(("done", None))
        link.recv()
        others = [other for other in range(peers) if other != me]
        sockets.connect({other: f"ipc://{folder}/{other}" for other in others})
        mixer = Mixer(sockets, torch.randn(size), 1 / peers, dict.fromkeys(others, 1 / peers))
        mixer.mix()
        before = cpu_seconds()
        for _ in range(rounds):
            mixer.mix()
        link.send(("done", (cpu_seconds() - before) / rounds))
        link.recv()
        link.send(("done", None))
